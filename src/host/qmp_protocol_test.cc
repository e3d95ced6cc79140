// SPDX-License-Identifier: Apache-2.0
#include "host/qmp_protocol.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/limits.h"

namespace holdfast {
namespace {

std::vector<std::string> feed(QmpFramer& framer, std::string_view bytes, bool* ok = nullptr) {
  std::vector<std::string> messages;
  const bool fed = framer.feed(bytes, [&](std::string_view text) { messages.emplace_back(text); });
  if (ok != nullptr) {
    *ok = fed;
  } else {
    EXPECT_TRUE(fed);
  }
  return messages;
}

TEST(QmpFramer, CutsMessagesWhereverTheBytesComeApart) {
  const std::string stream =
      "{\"QMP\": {\"version\": {}}}\r\n{\"event\": \"STOP\", \"text\": \"a } \\\" { b\"}\n"
      "{\n  \"return\": {\n    \"status\": \"running\"\n  }\n}\r\n";
  QmpFramer whole;
  const auto expected = feed(whole, stream);
  ASSERT_EQ(expected.size(), 3u);
  EXPECT_EQ(parse_qmp_message(expected[2]).status, "running");
  QmpFramer by_byte;
  std::vector<std::string> messages;
  for (const char c : stream) {
    for (std::string& message : feed(by_byte, {&c, 1})) messages.push_back(std::move(message));
  }
  EXPECT_EQ(messages, expected);
}

TEST(QmpFramer, RefusesWhatIsNoObjectAndWhatIsTooLong) {
  bool ok = true;
  QmpFramer text;
  feed(text, "SSH-2.0-OpenSSH\r\n", &ok);
  EXPECT_FALSE(ok);
  QmpFramer endless;
  const std::string chunk(4096, '{');
  std::size_t fed_bytes = 0;
  for (ok = true; ok; fed_bytes += chunk.size()) feed(endless, chunk, &ok);
  EXPECT_LE(fed_bytes, limits::kQmpMessageBytesMax + 2 * chunk.size());
}

TEST(QmpMessage, IsWhatQemuSends) {
  const auto parse = [](const char* text) { return parse_qmp_message(text); };
  using Kind = QmpMessage::Kind;
  EXPECT_EQ(parse(R"({"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}})").kind,
            Kind::greeting);
  const QmpMessage event = parse(R"({"timestamp": {"seconds": 1}, "event": "STOP"})");
  EXPECT_EQ(event.kind, Kind::event);
  EXPECT_EQ(event.text, "STOP");
  const QmpMessage status =
      parse(R"({"return": {"status": "paused", "singlestep": false}, "id": 7})");
  EXPECT_EQ(status.kind, Kind::success);
  EXPECT_EQ(status.status, "paused");
  EXPECT_EQ(status.id, 7u);
  const QmpMessage failure =
      parse("{\"id\": 8, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\\nway\"}}");
  EXPECT_EQ(failure.kind, Kind::failure);
  EXPECT_EQ(failure.text, "no way") << "one line, whatever it says";
}

TEST(QmpMessage, AnythingElseIsUnknownOrEmpty) {
  for (const char* text : {"", "{}", "[]", "{", "{\"a\": 1}", "7", "{\"id\": 5}"}) {
    EXPECT_EQ(parse_qmp_message(text).kind, QmpMessage::Kind::unknown) << text;
  }
  EXPECT_EQ(parse_qmp_message(R"({"event": 7, "id": -1})").text, "");
  EXPECT_EQ(parse_qmp_message(R"({"event": 7, "id": -1})").id, 0u);
  EXPECT_EQ(parse_qmp_message(R"({"return": []})").status, "");
  EXPECT_EQ(parse_qmp_message(R"({"error": "x"})").text, "");
  const std::string endless = R"({"event": ")" + std::string(5000, 'x') + "\"}";
  EXPECT_EQ(parse_qmp_message(endless).text.size(), limits::kQmpShownBytesMax);
}

TEST(QmpCommand, IsOneLine) {
  EXPECT_EQ(encode_qmp_command("stop", 3), "{\"execute\": \"stop\", \"id\": 3}\r\n");
}

}  // namespace
}  // namespace holdfast
