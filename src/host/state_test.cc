// SPDX-License-Identifier: Apache-2.0
#include "host/state.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "io/disk.h"
#include "io/loop.h"

namespace holdfast {
namespace {

HostState example() {
  HostState state;
  state.pools = {{"vms", "dir:/srv/vms"}, {"web", "dir:/srv/web"}};
  state.attachments = {{"vms", "disk1", "nbd", false, WallTime{1700000000}},
                       {"vms", "disk2", "nbd", true, WallTime{1700000001}}};
  return state;
}

TEST(StateTest, RoundTrips) {
  const auto decoded = decode_state(encode_state(example()));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  ASSERT_EQ(decoded->pools.size(), 2u);
  EXPECT_EQ(decoded->pools[1].location, "dir:/srv/web");
  ASSERT_EQ(decoded->attachments.size(), 2u);
  EXPECT_EQ(decoded->attachments[1].volume, "disk2");
  EXPECT_TRUE(decoded->attachments[1].read_only);
  EXPECT_EQ(decoded->attachments[0].since.unix_seconds, 1700000000);
}

TEST(StateTest, MonitorsSettingsAndPausedMachinesRoundTrip) {
  HostState state = example();
  state.attachments[1].qmp_path = "/run/vm 1.qmp";
  state.volume_settings = {{"vms", "disk1", {10s, kNever}}, {"vms", "disk2", {{}, 1500ms}}};
  state.paused_machines = {"/run/vm 1.qmp"};
  const auto decoded = decode_state(encode_state(state));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded->attachments[0].qmp_path, "");
  EXPECT_EQ(decoded->attachments[1].qmp_path, "/run/vm 1.qmp");
  ASSERT_EQ(decoded->volume_settings.size(), 2u);
  EXPECT_EQ(decoded->volume_settings[0].hold, (HoldSettings{10s, kNever}));
  EXPECT_EQ(decoded->volume_settings[1].volume, "disk2");
  EXPECT_EQ(decoded->volume_settings[1].hold, (HoldSettings{{}, 1500ms}));
  EXPECT_EQ(decoded->paused_machines, state.paused_machines);
}

TEST(StateTest, ModesOfAttachmentsRoundTripAndAreChecked) {
  HostState state = example();
  EXPECT_EQ(encode_state(state).find("mode"), std::string::npos) << "older versions can read it";
  state.attachments[0].mode = AttachMode::shared_writable;
  state.attachments[0].shared_since = 4711;
  const auto decoded = decode_state(encode_state(state));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded->attachments[0].mode, AttachMode::shared_writable);
  EXPECT_EQ(decoded->attachments[0].shared_since, 4711u);
  EXPECT_EQ(decoded->attachments[1].shared_since, 0u);
  EXPECT_EQ(decoded->attachments[1].mode, AttachMode::exclusive);
}

TEST(StateTest, TransfersRoundTripAndTheirNamesAreChecked) {
  HostState state = example();
  state.transfers = {
      {"vms", "new.importing", SavedTransferKind::make, "new", "", "end"},
      {"vms", "old", SavedTransferKind::change, "", "first", "second"},
      {"vms", "disk1@exporting-1", SavedTransferKind::read, "", "", "exporting-1"},
  };
  const auto decoded = decode_state(encode_state(state));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  ASSERT_EQ(decoded->transfers.size(), 3u);
  EXPECT_EQ(decoded->transfers[0].kind, SavedTransferKind::make);
  EXPECT_EQ(decoded->transfers[0].name, "new");
  EXPECT_EQ(decoded->transfers[1].kind, SavedTransferKind::change);
  EXPECT_EQ(decoded->transfers[1].since, "first");
  EXPECT_EQ(decoded->transfers[1].snapshot, "second");
  EXPECT_EQ(decoded->transfers[2].volume, "disk1@exporting-1");
  state.transfers[1].since = "../x";
  EXPECT_FALSE(decode_state(encode_state(state)).ok());
}

TEST(StateTest, TheLargestStateFitsItsFile) {
  HostState state;
  const std::string name(limits::kNameBytesMax, 'n');
  for (std::size_t i = 0; i < limits::kPoolsMax; ++i) {
    state.pools.push_back({name, "dir:/" + std::string(500, 'p')});
  }
  for (std::size_t i = 0; i < limits::kAttachmentsMax; ++i) {
    const std::string path(107, 'q');
    state.attachments.push_back({name, name, "vhost", false, WallTime{1700000000}, path,
                                 AttachMode::shared_read_only, 9'000'000'000'000'000'000u});
    state.paused_machines.push_back(path);
  }
  for (std::size_t i = 0; i < limits::kTransfersMax; ++i) {
    state.transfers.push_back(
        {name, name + "@" + name, SavedTransferKind::change, name, name, name});
  }
  for (std::size_t i = 0; i < limits::kVolumeSettingsMax; ++i) {
    state.volume_settings.push_back({name, name, {86'399'999ms, 86'399'999ms}});
  }
  EXPECT_LE(encode_state(state).size(), limits::kStateFileBytes);
}

TEST(StateTest, EveryChangedByteIsNoticed) {
  const std::string good = encode_state(example());
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x01);
    const auto decoded = decode_state(bad);
    // A changed blank between tokens may still be a blank; anything decoded must be the same.
    if (decoded.ok()) {
      EXPECT_EQ(encode_state(decoded.value()), good) << "byte " << i;
    }
  }
}

TEST(StateTest, WhatIsNoStateIsRefused) {
  for (const std::string text : {"", "{", "[]", "null", "5", "{\"holdfast_state_version\": 1}",
                                 "{\"holdfast_state_version\": \"1\"}", "\xff\xfe"}) {
    const auto decoded = decode_state(text);
    ASSERT_FALSE(decoded.ok()) << text;
    EXPECT_EQ(decoded.error().code(), ErrorCode::corrupt);
  }
  const std::string deep(100'000, '[');
  EXPECT_FALSE(decode_state(deep).ok());
  EXPECT_FALSE(decode_state(std::string(limits::kStateFileBytes + 1, ' ')).ok());
}

TEST(StateTest, EveryTruncationIsRefused) {
  const std::string good = encode_state(example());
  for (std::size_t length = 0; length + 2 < good.size(); ++length) {
    EXPECT_FALSE(decode_state(std::string_view(good).substr(0, length)).ok()) << length;
  }
}

TEST(StateTest, ANewerVersionIsRefusedByItsNumber) {
  std::string text = encode_state(example());
  const std::string version = "\"holdfast_state_version\": 1";
  text.replace(text.find(version), version.size(), "\"holdfast_state_version\": 7");
  const auto decoded = decode_state(text);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("version 7"), std::string::npos);
}

class StateStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "holdfast-state-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    auto loop = Loop::create();
    ASSERT_TRUE(loop.ok());
    loop_ = std::move(loop).value();
    disk_ = std::make_unique<Disk>(*loop_);
  }
  void TearDown() override {
    disk_.reset();
    loop_.reset();
    std::filesystem::remove_all(directory_);
  }
  template <typename T>
  static Task<void> keep(Task<T> task, std::optional<T>& out) {
    out.emplace(co_await task);
  }
  template <typename T>
  T run(Task<T> task) {
    std::optional<T> out;
    TaskScope scope;
    scope.spawn(keep(std::move(task), out));
    EXPECT_TRUE(loop_->run_until([&] { return out.has_value(); }, 10s));
    return std::move(*out);
  }

  std::string directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
};

TEST_F(StateStoreTest, NoFileIsAnEmptyState) {
  StateStore store(*disk_, directory_);
  const auto state = run(store.load());
  ASSERT_TRUE(state.ok());
  EXPECT_TRUE(state->pools.empty());
}

TEST_F(StateStoreTest, LoadsWhatWasSavedLast) {
  for (int saves = 1; saves <= 5; ++saves) {
    HostState state = example();
    state.pools[0].location = "dir:/" + std::to_string(saves);
    StateStore store(*disk_, directory_);
    ASSERT_TRUE(run(store.load()).ok());
    ASSERT_TRUE(run(store.save({})).ok());
    ASSERT_TRUE(run(store.save(state)).ok());
    StateStore again(*disk_, directory_);
    const auto loaded = run(again.load());
    ASSERT_TRUE(loaded.ok());
    ASSERT_EQ(loaded->pools.size(), 2u);
    EXPECT_EQ(loaded->pools[0].location, state.pools[0].location);
  }
}

TEST_F(StateStoreTest, ASaveThatWasCutOffLeavesTheStateBefore) {
  StateStore store(*disk_, directory_);
  ASSERT_TRUE(run(store.save(example())).ok());  // state.json
  ASSERT_TRUE(run(store.save({})).ok());         // state.json.2
  {
    std::fstream torn(store.path(1), std::ios::in | std::ios::out);
    torn.seekp(20);
    torn << "torn";
  }
  StateStore again(*disk_, directory_);
  const auto state = run(again.load());
  ASSERT_TRUE(state.ok()) << state.error().message();
  EXPECT_EQ(state->pools.size(), 2u);
  // The next save takes the damaged file's place, not the good one's.
  ASSERT_TRUE(run(again.save({})).ok());
  EXPECT_TRUE(run(StateStore(*disk_, directory_).load())->pools.empty());
}

TEST_F(StateStoreTest, NothingButDamagedFilesAreRefusedAndKept) {
  StateStore store(*disk_, directory_);
  std::ofstream(store.path()) << "not a state";
  const auto state = run(store.load());
  ASSERT_FALSE(state.ok());
  EXPECT_EQ(state.error().code(), ErrorCode::corrupt);
  EXPECT_NE(state.error().message().find(store.path()), std::string::npos);
  std::ifstream backup(store.path() + ".damaged");
  std::ostringstream text;
  text << backup.rdbuf();
  EXPECT_EQ(text.str(), "not a state");
  EXPECT_TRUE(std::filesystem::exists(store.path()));
}

TEST_F(StateStoreTest, AFailedSaveLeavesTheOldState) {
  StateStore store(*disk_, directory_);
  std::filesystem::create_directory(store.path(1));  // in the way of the second file
  ASSERT_TRUE(run(store.save(example())).ok());
  EXPECT_FALSE(run(store.save({})).ok());
  StateStore again(*disk_, directory_);
  const auto state = run(again.load());
  ASSERT_TRUE(state.ok());
  EXPECT_EQ(state->pools.size(), 2u);
}

TEST_F(StateStoreTest, TheFirstSaveAllocatesBothFiles) {
  StateStore store(*disk_, directory_);
  HostState state;
  state.pools.push_back({"vms", "dir:/srv/vms"});
  ASSERT_TRUE(run(store.save(state)).ok());
  for (std::size_t slot = 0; slot < 2; ++slot) {
    const auto allocated = run(disk_->allocated_bytes(store.path(slot)));
    ASSERT_TRUE(allocated.ok()) << slot;
    EXPECT_GE(allocated.value(), limits::kStateFileBytes);
  }
  EXPECT_EQ(run(StateStore(*disk_, directory_).load())->pools.size(), 1u);
}

TEST_F(StateStoreTest, SavingNeedsNoNewSpace) {
  StateStore store(*disk_, directory_);
  ASSERT_TRUE(run(store.save({})).ok());
  ASSERT_TRUE(run(store.save({})).ok());
  const auto allocated = [&](std::size_t slot) {
    return run(disk_->allocated_bytes(store.path(slot))).value();
  };
  const auto before = allocated(0) + allocated(1);
  HostState full;
  for (std::size_t i = 0; i < limits::kAttachmentsMax; ++i) {
    SavedAttachment attachment;
    attachment.pool = std::string(limits::kNameBytesMax, 'p');
    attachment.volume = std::string(limits::kNameBytesMax, 'v');
    full.attachments.push_back(attachment);
  }
  for (std::size_t i = 0; i < limits::kPoolsMax; ++i) {
    full.pools.push_back(
        {std::string(limits::kNameBytesMax, 'p'), "dir:/" + std::string(1000, 'x')});
  }
  ASSERT_TRUE(run(store.save(full)).ok());
  ASSERT_TRUE(run(store.save(full)).ok());
  EXPECT_EQ(allocated(0) + allocated(1), before);
  for (std::size_t slot = 0; slot < 2; ++slot) {
    EXPECT_EQ(std::filesystem::file_size(store.path(slot)), limits::kStateFileBytes);
  }
  EXPECT_EQ(run(StateStore(*disk_, directory_).load())->attachments.size(),
            limits::kAttachmentsMax);
}

}  // namespace
}  // namespace holdfast
