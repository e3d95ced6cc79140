// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/handshake.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "block/memory_device.h"
#include "io/test_executor.h"
#include "serve/nbd/test_client.h"

namespace holdfast::nbd {
namespace {

constexpr std::uint64_t kSizeBytes = 1 * kMiB + 512;

class NbdHandshake : public testing::Test {
 protected:
  void feed(const Bytes& bytes) {
    Bytes input = std::exchange(left_, {});
    append(input, bytes);
    const std::size_t consumed = handshake_.feed(input);
    left_.assign(input.begin() + static_cast<std::ptrdiff_t>(consumed), input.end());
    reader_.add(handshake_.take_output());
  }
  // Feeds and gives the answers; the greeting is checked by the way.
  std::vector<OptionAnswer> answers_to(const Bytes& bytes) {
    feed(bytes);
    if (!std::exchange(greeted_, true)) {
      EXPECT_TRUE(reader_.take_greeting());
    }
    return reader_.take_option_answers();
  }
  void expect_refusal(const Bytes& bytes, OptionReply error, NbdFault fault) {
    const std::uint64_t count_before = statistics_.fault_count(fault);
    const auto answers = answers_to(bytes);
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].type, error);
    EXPECT_EQ(statistics_.fault_count(fault), count_before + 1) << nbd_fault_name(fault);
    EXPECT_EQ(handshake_.state(), Handshake::State::more);
  }
  void expect_failure(const Bytes& bytes, NbdFault fault) {
    feed(bytes);
    EXPECT_EQ(handshake_.state(), Handshake::State::failed);
    EXPECT_EQ(statistics_.fault_count(fault), 1u) << nbd_fault_name(fault);
  }
  std::uint16_t flags_of(const std::vector<OptionAnswer>& answers) {
    if (answers.empty() || answers[0].data.size() != 12) return 0;
    return load_big<std::uint16_t>(answers[0].data.data() + 10);
  }

  TestExecutor executor_;
  MemoryDevice device_{executor_, {.name = "disk", .size_bytes = kSizeBytes}};
  NbdExport export_{"disk", "a disk", device_};
  NbdStatistics statistics_;
  Handshake handshake_{export_, statistics_};
  OutputReader reader_;
  Bytes left_;
  bool greeted_ = false;
};

TEST_F(NbdHandshake, GreetsAtOnce) {
  EXPECT_TRUE(handshake_.has_output());
  feed({});
  EXPECT_TRUE(reader_.take_greeting());
  EXPECT_EQ(reader_.remaining(), 0u);
}

TEST_F(NbdHandshake, GoTellsSizeFlagsAndBlockSizesAndEntersTransmission) {
  feed(client_flags());
  const auto answers = answers_to(go_bytes("disk"));
  ASSERT_EQ(answers.size(), 3u);
  ASSERT_EQ(answers[0].type, OptionReply::info);
  ASSERT_EQ(answers[0].data.size(), 12u);
  EXPECT_EQ(load_big<std::uint64_t>(answers[0].data.data() + 2), kSizeBytes);
  EXPECT_EQ(flags_of(answers),
            kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kCanMultiConnect);
  ASSERT_EQ(answers[1].data.size(), 14u);
  EXPECT_EQ(answers[1].info(), static_cast<std::uint16_t>(Info::block_size));
  EXPECT_EQ(load_big<std::uint32_t>(answers[1].data.data() + 2), 1u);
  EXPECT_EQ(load_big<std::uint32_t>(answers[1].data.data() + 6), 4096u);
  EXPECT_EQ(load_big<std::uint32_t>(answers[1].data.data() + 10), 32u << 20);
  EXPECT_EQ(answers[2].type, OptionReply::ack);
  EXPECT_EQ(handshake_.state(), Handshake::State::transmission);
  EXPECT_FALSE(handshake_.negotiated().structured_replies);
}

TEST_F(NbdHandshake, WhatFollowsGoIsLeftForTheTransmission) {
  Bytes input = handshake_bytes(true);
  put_text(input, "next");
  feed(input);
  EXPECT_EQ(handshake_.state(), Handshake::State::transmission);
  EXPECT_EQ(as_text(left_), "next");
}

TEST_F(NbdHandshake, InfoTellsTheSameAndGoesOn) {
  feed(client_flags());
  const auto answers = answers_to(go_bytes("disk", {}, Option::info));
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[2].type, OptionReply::ack);
  EXPECT_EQ(handshake_.state(), Handshake::State::more);
}

TEST_F(NbdHandshake, NameAndDescriptionAreSentWhenAskedFor) {
  feed(client_flags());
  const auto answers = answers_to(go_bytes("", {Info::name, Info::description, Info::block_size}));
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(answers[1].info(), static_cast<std::uint16_t>(Info::name));
  EXPECT_EQ(as_text(std::span(answers[1].data).subspan(2)), "disk");
  EXPECT_EQ(answers[2].info(), static_cast<std::uint16_t>(Info::description));
  EXPECT_EQ(as_text(std::span(answers[2].data).subspan(2)), "a disk");
  EXPECT_EQ(handshake_.state(), Handshake::State::transmission);
}

TEST_F(NbdHandshake, UnknownExportIsRefusedAndTheHandshakeGoesOn) {
  feed(client_flags());
  expect_refusal(go_bytes("dish"), OptionReply::error_unknown, NbdFault::option_export_unknown);
  expect_refusal(go_bytes("disk2", {}, Option::info), OptionReply::error_unknown,
                 NbdFault::option_export_unknown);
  EXPECT_EQ(answers_to(go_bytes("disk")).size(), 3u);
}

TEST_F(NbdHandshake, MalformedInfoIsInvalid) {
  feed(client_flags());
  Bytes data;
  put_big(data, std::uint32_t{1000});  // longer than the data
  put_text(data, "disk");
  expect_refusal(option_bytes(Option::go, data), OptionReply::error_invalid,
                 NbdFault::option_malformed);
  data.clear();
  put_counted_text(data, "disk");
  put_big(data, std::uint16_t{3});  // three wanted, none there
  expect_refusal(option_bytes(Option::go, data), OptionReply::error_invalid,
                 NbdFault::option_malformed);
  expect_refusal(option_bytes(Option::info), OptionReply::error_invalid,
                 NbdFault::option_malformed);
}

TEST_F(NbdHandshake, ExportNameEntersTransmissionWithOrWithoutZeroes) {
  for (const bool no_zeroes : {false, true}) {
    Handshake handshake(export_, statistics_);
    Bytes input = client_flags(kFlagFixedNewstyle | (no_zeroes ? kFlagNoZeroes : 0u));
    append(input, option_bytes(Option::export_name, as_bytes("disk")));
    EXPECT_EQ(handshake.feed(input), input.size());
    EXPECT_EQ(handshake.state(), Handshake::State::transmission);
    OutputReader reader;
    reader.add(handshake.take_output());
    ASSERT_TRUE(reader.take_greeting());
    const Bytes answer = reader.take_raw(no_zeroes ? 10 : 134);
    ASSERT_FALSE(answer.empty());
    EXPECT_EQ(reader.remaining(), 0u);
    EXPECT_EQ(load_big<std::uint64_t>(answer.data()), kSizeBytes);
    EXPECT_NE(load_big<std::uint16_t>(answer.data() + 8) & kHasFlags, 0);
  }
}

TEST_F(NbdHandshake, ExportNameThatIsUnknownOrTooLongEnds) {
  feed(client_flags());
  expect_failure(option_bytes(Option::export_name, as_bytes("dish")),
                 NbdFault::export_name_unknown);
  Handshake other(export_, statistics_);
  Bytes input = client_flags();
  append(input, option_bytes(Option::export_name, Bytes(limits::kNbdOptionBytesMax + 1)));
  other.feed(input);
  EXPECT_EQ(other.state(), Handshake::State::failed);
}

TEST_F(NbdHandshake, ListNamesTheExport) {
  feed(client_flags());
  const auto answers = answers_to(option_bytes(Option::list));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0].type, OptionReply::server);
  ASSERT_GE(answers[0].data.size(), 8u);
  EXPECT_EQ(load_big<std::uint32_t>(answers[0].data.data()), 4u);
  EXPECT_EQ(as_text(std::span(answers[0].data).subspan(4)), "diska disk");
  EXPECT_EQ(answers[1].type, OptionReply::ack);
  expect_refusal(option_bytes(Option::list, as_bytes("x")), OptionReply::error_invalid,
                 NbdFault::option_malformed);
}

TEST_F(NbdHandshake, AbortIsAcknowledged) {
  feed(client_flags());
  const auto answers = answers_to(option_bytes(Option::abort));
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].type, OptionReply::ack);
  EXPECT_EQ(handshake_.state(), Handshake::State::closing);
}

TEST_F(NbdHandshake, UnknownOptionsAreUnsupported) {
  feed(client_flags());
  // PEEK_EXPORT, STARTTLS, EXTENDED_HEADERS, and nonsense
  for (const std::uint32_t option : {4u, 5u, 11u, 0u, 0xffffffffu}) {
    expect_refusal(option_bytes(option, as_bytes("data")), OptionReply::error_unsupported,
                   NbdFault::option_unsupported);
  }
  EXPECT_EQ(answers_to(go_bytes("")).size(), 3u);
}

TEST_F(NbdHandshake, StructuredRepliesBringTheDontFragmentFlag) {
  feed(client_flags());
  expect_refusal(option_bytes(Option::structured_reply, as_bytes("x")), OptionReply::error_invalid,
                 NbdFault::option_malformed);
  EXPECT_EQ(answers_to(option_bytes(Option::structured_reply)).size(), 1u);
  EXPECT_NE(flags_of(answers_to(go_bytes(""))) & kSendDontFragment, 0);
  EXPECT_TRUE(handshake_.negotiated().structured_replies);
}

TEST_F(NbdHandshake, ReadOnlyExportsSayAndOfferNothingThatWrites) {
  NbdExport exported{"disk", "", device_, true};
  Handshake handshake(exported, statistics_);
  Bytes input = client_flags();
  append(input, go_bytes("disk"));
  handshake.feed(input);
  OutputReader reader;
  reader.add(handshake.take_output());
  ASSERT_TRUE(reader.take_greeting());
  const std::uint16_t flags = flags_of(reader.take_option_answers());
  EXPECT_EQ(flags, kHasFlags | kReadOnly | kSendFlush | kSendFua | kCanMultiConnect);
}

TEST_F(NbdHandshake, AllocationContextCanBeListedAndSelected) {
  feed(client_flags());
  feed(option_bytes(Option::structured_reply));
  answers_to({});
  const auto list_count = [&](std::initializer_list<std::string_view> queries) {
    const auto answers = answers_to(context_bytes(Option::list_meta_context, "disk", queries));
    EXPECT_EQ(answers.back().type, OptionReply::ack);
    return answers.size() - 1;
  };
  EXPECT_EQ(list_count({}), 1u);
  EXPECT_EQ(list_count({"base:"}), 1u);
  EXPECT_EQ(list_count({"base:allocation", "base:allocation"}), 1u);
  EXPECT_EQ(list_count({"qemu:dirty-bitmap:x", "nonsense", ""}), 0u);
  const auto answers =
      answers_to(context_bytes(Option::set_meta_context, "", {"x:y", "base:allocation"}));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0].type, OptionReply::meta_context);
  EXPECT_EQ(load_big<std::uint32_t>(answers[0].data.data()), kAllocationContextId);
  EXPECT_EQ(as_text(std::span(answers[0].data).subspan(4)), "base:allocation");
  answers_to(go_bytes(""));
  EXPECT_TRUE(handshake_.negotiated().allocation_context);
}

TEST_F(NbdHandshake, SelectingNothingOrSomethingElseDeselects) {
  feed(client_flags());
  feed(option_bytes(Option::structured_reply));
  answers_to(context_bytes(Option::set_meta_context, "", {"base:allocation"}));
  EXPECT_EQ(answers_to(context_bytes(Option::set_meta_context, "", {"base:"})).size(), 1u);
  answers_to(go_bytes(""));
  EXPECT_FALSE(handshake_.negotiated().allocation_context);
}

TEST_F(NbdHandshake, ContextCountsOnlyForTheExportItWasSelectedFor) {
  feed(client_flags());
  feed(option_bytes(Option::structured_reply));
  feed(context_bytes(Option::set_meta_context, "", {"base:allocation"}));
  feed(go_bytes("disk"));
  EXPECT_EQ(handshake_.state(), Handshake::State::transmission);
  EXPECT_FALSE(handshake_.negotiated().allocation_context);
}

TEST_F(NbdHandshake, ContextsAreRefusedWhenWrong) {
  feed(client_flags());
  answers_to({});
  expect_refusal(context_bytes(Option::set_meta_context, "", {"base:allocation"}),
                 OptionReply::error_invalid, NbdFault::option_malformed);  // no structured replies
  feed(option_bytes(Option::structured_reply));
  answers_to({});
  expect_refusal(context_bytes(Option::set_meta_context, "dish", {"base:allocation"}),
                 OptionReply::error_unknown, NbdFault::option_export_unknown);
  Bytes data;
  put_counted_text(data, "");
  put_big(data, std::uint32_t{0xffffffff});
  put_counted_text(data, "base:allocation");
  expect_refusal(option_bytes(Option::set_meta_context, data), OptionReply::error_invalid,
                 NbdFault::option_malformed);
  data.clear();
  put_counted_text(data, "");
  put_big(data, std::uint32_t{0});
  put_text(data, "behind");
  expect_refusal(option_bytes(Option::set_meta_context, data), OptionReply::error_invalid,
                 NbdFault::option_malformed);
  answers_to(go_bytes(""));
  EXPECT_FALSE(handshake_.negotiated().allocation_context);
}

TEST_F(NbdHandshake, OptionTooLongIsSkippedWhateverItSays) {
  feed(client_flags());
  Bytes data(limits::kNbdOptionBytesMax + 1);
  store_big(data.data(), kOptionMagic);  // must not be taken for an option
  expect_refusal(option_bytes(Option::go, data), OptionReply::error_too_big,
                 NbdFault::option_too_big);
  EXPECT_EQ(answers_to(go_bytes("")).size(), 3u);
}

TEST_F(NbdHandshake, FloodOfOptionsEnds) {
  feed(client_flags());
  Bytes flood;
  for (std::size_t i = 0; i <= limits::kNbdOptionsPerHandshakeMax; ++i) {
    append(flood, option_bytes(i % 2 == 0 ? 99u : 3u));
  }
  expect_failure(flood, NbdFault::too_many_options);
}

TEST_F(NbdHandshake, BadMagicEnds) {
  feed(client_flags());
  expect_failure(Bytes(16, std::byte{'G'}), NbdFault::bad_option_magic);
}

TEST_F(NbdHandshake, UnknownClientFlagsEnd) {
  expect_failure(client_flags(4), NbdFault::bad_client_flags);
}

TEST_F(NbdHandshake, WithoutFixedNewstyleOnlyExportNameIsPossible) {
  Handshake old(export_, statistics_);
  Bytes input = client_flags(0);
  append(input, option_bytes(Option::export_name, as_bytes("")));
  old.feed(input);
  EXPECT_EQ(old.state(), Handshake::State::transmission);
  feed(client_flags(0));
  expect_failure(go_bytes(""), NbdFault::option_not_allowed);
}

TEST_F(NbdHandshake, SplittingTheInputChangesNothing) {
  Bytes input = client_flags();
  append(input, option_bytes(7777u, Bytes(5000)));
  append(input, option_bytes(Option::list));
  append(input, option_bytes(Option::structured_reply));
  append(input, context_bytes(Option::set_meta_context, "disk", {"base:allocation"}));
  append(input, go_bytes("disk", {Info::name}));
  put_text(input, "rest");

  Handshake whole(export_, statistics_);
  const std::size_t consumed = whole.feed(input);
  const Bytes expected = whole.take_output();
  EXPECT_EQ(consumed, input.size() - 4);

  Bytes output;
  for (const std::byte byte : input) {
    Bytes chunk = std::exchange(left_, {});
    chunk.push_back(byte);
    const std::size_t count = handshake_.feed(chunk);
    left_.assign(chunk.begin() + static_cast<std::ptrdiff_t>(count), chunk.end());
    append(output, handshake_.take_output());
  }
  EXPECT_EQ(output, expected);
  EXPECT_EQ(handshake_.state(), Handshake::State::transmission);
  EXPECT_TRUE(handshake_.negotiated().allocation_context);
}

}  // namespace
}  // namespace holdfast::nbd
