// SPDX-License-Identifier: Apache-2.0
#include "host/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace holdfast {
namespace {

std::string refusal(std::string_view text) {
  const auto result = parse_config(text, "test.toml");
  EXPECT_FALSE(result.ok()) << text;
  return result.ok() ? "" : result.error().message();
}

TEST(ConfigTest, ReadsEverySetting) {
  const auto result = parse_config(R"(
runtime_dir = "/tmp/run"
state_dir = "/tmp/state"
host_name = "kvm1.example.org"
loops = 3
[log]
file = "/tmp/holdfast.log"
level = "debug"
[volume]
page_cache = "128M"
checkpoint_log = 1073741824
checkpoint_idle_seconds = 0.5
cleaner_start_percent = 40
cleaner_stop_percent = 20
cleaner_idle_percent = 4
[space]
warn_percent = 70
critical_percent = 99
[pools]
vms = "dir:/srv/vms"
"web.1" = "dir:/srv/web"
)",
                                   "test.toml");
  ASSERT_TRUE(result.ok()) << result.error().message();
  const HostConfig& config = result.value();
  EXPECT_EQ(config.runtime_directory, "/tmp/run");
  EXPECT_EQ(config.state_directory, "/tmp/state");
  EXPECT_EQ(config.log_file, "/tmp/holdfast.log");
  EXPECT_EQ(config.log_level, LogLevel::debug);
  EXPECT_EQ(config.host_name, "kvm1.example.org");
  EXPECT_EQ(config.loops, 3u);
  EXPECT_EQ(config.page_cache_bytes, 128 * kMiB);
  EXPECT_EQ(config.checkpoint_log_bytes, kGiB);
  EXPECT_EQ(config.checkpoint_idle, 500ms);
  EXPECT_EQ(config.cleaner_start_percent, 40u);
  EXPECT_EQ(config.cleaner_stop_percent, 20u);
  EXPECT_EQ(config.cleaner_idle_percent, 4u);
  EXPECT_EQ(config.space.warn_percent, 70u);
  EXPECT_EQ(config.space.critical_percent, 99u);
  ASSERT_EQ(config.pools.size(), 2u);
  EXPECT_EQ(config.pools[0].name, "vms");
  EXPECT_EQ(config.pools[0].location, "dir:/srv/vms");
}

TEST(ConfigTest, HoldsAreSetForAllAndForEachPool) {
  const auto result = parse_config(R"([hold]
pause_after = "10s"
[hold.pools.vms]
fail_after = "5m"
[hold.pools."web.1"]
pause_after = "never"
)",
                                   "test.toml");
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->hold, (HoldSettings{10s, {}}));
  EXPECT_EQ(result->pool_holds.at("vms"), (HoldSettings{{}, 300s}));
  EXPECT_EQ(result->pool_holds.at("web.1"), (HoldSettings{kNever, {}}));
}

TEST(ConfigTest, LevelsAreSetForAllAndForEachPool) {
  const auto result = parse_config(R"([space]
warn_percent = 60
[space.pools.vms]
critical_percent = 70
[space.pools.old]
warn_percent = 95
critical_percent = 99
)",
                                   "test.toml");
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->space.warn_percent, 60u);
  EXPECT_EQ(result->space.critical_percent, 90u);
  EXPECT_EQ(result->pool_spaces.at("vms").warn_percent, 60u);
  EXPECT_EQ(result->pool_spaces.at("vms").critical_percent, 70u);
  EXPECT_EQ(result->pool_spaces.at("old").warn_percent, 95u);
  EXPECT_NE(refusal("[space.pools.vms]\nwarn_percent = 95").find("(95) must not be above"),
            std::string::npos);
  EXPECT_NE(refusal("[space.pools.vms]\nwarn = 95").find("unknown key 'warn'"), std::string::npos);
}

TEST(ConfigTest, TheTrashKeepsForAsLongAsIsSaid) {
  EXPECT_EQ(parse_config("[trash]\ndefer = \"12h\"", "test.toml")->trash_defer, 12h);
  EXPECT_EQ(parse_config("[trash]\ndefer = \"0\"", "test.toml")->trash_defer, Duration{});
  EXPECT_EQ(parse_config("[trash]", "test.toml")->trash_defer, 72h);
  EXPECT_NE(refusal("[trash]\ndefer = \"soon\"").find("line 2: defer: 'soon' is no time"),
            std::string::npos);
  EXPECT_NE(refusal("[trash]\ndefre = \"1d\"").find("did you mean 'defer'"), std::string::npos);
}

TEST(ConfigTest, AnEmptyFileMeansTheDefaults) {
  const auto result = parse_config("", "test.toml");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result.value().runtime_directory, "/run/holdfast");
  EXPECT_EQ(result.value().state_directory, "/var/lib/holdfast");
  EXPECT_EQ(result.value().page_cache_bytes, limits::kPageCacheBytesDefault);
}

TEST(ConfigTest, TheFileWeShipIsValid) {
  std::ifstream stream(HOLDFAST_SOURCE_DIR "/packaging/holdfast.toml");
  ASSERT_TRUE(stream.good());
  std::ostringstream text;
  text << stream.rdbuf();
  const auto result = parse_config(text.str(), "holdfast.toml");
  EXPECT_TRUE(result.ok()) << result.error().message();
}

TEST(ConfigTest, RefusalsNameTheLineAndTheProblem) {
  EXPECT_EQ(refusal("\nruntime_dri = \"/x\"\n"),
            "test.toml, line 2: unknown key 'runtime_dri'; did you mean 'runtime_dir'?");
  EXPECT_NE(refusal("runtime_dir = \"x\"").find("absolute path"), std::string::npos);
  EXPECT_NE(refusal("runtime_dir = 5").find("text in quotes"), std::string::npos);
  EXPECT_NE(refusal("\nhost_name = \"a b\"").find("line 2: host_name: the name of a host must be"),
            std::string::npos);
  EXPECT_NE(refusal("host_name = \"\"").find("1 to 48"), std::string::npos);
  EXPECT_NE(refusal("host_name = 5").find("text in quotes"), std::string::npos);
  EXPECT_NE(refusal("loops = 0").find("from 1 to 64"), std::string::npos);
  EXPECT_NE(refusal("loops = 65").find("from 1 to 64"), std::string::npos);
  EXPECT_NE(refusal("loops = \"many\"").find("from 1 to 64"), std::string::npos);
  EXPECT_NE(refusal("log = 5").find("must be a table"), std::string::npos);
  EXPECT_NE(refusal("[log]\nlevel = \"loud\"").find("line 2: level must be"), std::string::npos);
  EXPECT_NE(refusal("[volume]\npage_cache = \"lots\"").find("is not a size"), std::string::npos);
  EXPECT_NE(refusal("[hold]\npause_after = \"soon\"").find("line 2: pause_after: 'soon'"),
            std::string::npos);
  EXPECT_NE(refusal("[hold]\npause_afte = \"1s\"").find("pause_after"), std::string::npos);
  EXPECT_NE(refusal("[hold.pools.\"a b\"]\npause_after = \"1s\"").find("line"), std::string::npos);
  EXPECT_NE(refusal("[volume]\ncleaner_start_percent = 0").find("from 1 to 95"), std::string::npos);
  EXPECT_NE(refusal("[volume]\ncleaner_stop_percent = 50").find("must not be above"),
            std::string::npos);
  EXPECT_NE(refusal("[volume]\npage_cache = 1").find("at least 1 MiB"), std::string::npos);
  EXPECT_NE(refusal("[volume]\npage_cache = -1").find("negative"), std::string::npos);
  EXPECT_NE(refusal("[volume]\ncheckpoint_idle_seconds = nan").find("0.1 to 3600"),
            std::string::npos);
  EXPECT_NE(refusal("[pools]\n\"a/b\" = \"dir:/x\"").find("only letters"), std::string::npos);
  EXPECT_NE(refusal("[pools]\nvms = 5").find("needs its location"), std::string::npos);
  EXPECT_NE(refusal("a = = b").find("test.toml, line 1"), std::string::npos);
  EXPECT_NE(refusal("a = 1\na = 2").find("line 2"), std::string::npos);
}

TEST(ConfigTest, PoolOptionsNeedANameAndAPlace) {
  const auto good = parse_pool_option("vms=dir:/srv/a=b");
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good.value().name, "vms");
  EXPECT_EQ(good.value().location, "dir:/srv/a=b");
  for (const char* text : {"", "vms", "vms=", "=dir:/x", "a/b=dir:/x"}) {
    EXPECT_FALSE(parse_pool_option(text).ok()) << text;
  }
}

}  // namespace
}  // namespace holdfast
