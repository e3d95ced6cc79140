// SPDX-License-Identifier: Apache-2.0
//
// The whole control interface against a host in a temporary directory: what a client sees.
#include "api/server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "api/client.h"

namespace holdfast {
namespace {

class ApiServerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "holdfast-api-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    HostConfig config;
    config.runtime_directory = directory_ + "/run";
    config.state_directory = directory_ + "/run";
    auto host = HostThread::start(config, "a test", [] {});
    ASSERT_TRUE(host.ok()) << host.error().message();
    host_ = std::move(host).value();
    ApiContext context{*host_, "1.2.3", "testhost", 42};
    socket_ = directory_ + "/run/api.sock";
    auto server = ApiServer::start(std::move(context), socket_);
    ASSERT_TRUE(server.ok()) << server.error().message();
    server_ = std::move(server).value();
  }
  void TearDown() override {
    server_.reset();
    EXPECT_TRUE(host_->stop());
    host_.reset();
    std::filesystem::remove_all(directory_);
  }
  struct Reply {
    int status = 0;
    nlohmann::json body;
  };
  Reply call(const std::string& method, const std::string& target, const std::string& body = "") {
    const auto reply = call_api(socket_, method, target, body);
    EXPECT_TRUE(reply.ok()) << reply.error().message();
    if (!reply.ok()) return {};
    return {reply->status, nlohmann::json::parse(reply->body, nullptr, false)};
  }
  int connect_raw() {
    const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    return descriptor;
  }
  std::string send_raw(const std::string& bytes) {
    const int descriptor = connect_raw();
    std::size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t count =
          ::send(descriptor, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) break;
      sent += static_cast<std::size_t>(count);
    }
    ::shutdown(descriptor, SHUT_WR);
    std::string reply;
    char buffer[4096];
    for (ssize_t count = 0; (count = ::recv(descriptor, buffer, sizeof buffer, 0)) > 0;) {
      reply.append(buffer, static_cast<std::size_t>(count));
    }
    ::close(descriptor);
    return reply;
  }

  std::string directory_;
  std::string socket_;
  std::unique_ptr<HostThread> host_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(ApiServerTest, ShowsItsStatus) {
  const Reply reply = call("GET", "/v1/status");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body["daemon"]["version"], "1.2.3");
  EXPECT_EQ(reply.body["daemon"]["pid"], 42);
  EXPECT_EQ(reply.body["daemon"]["state_saved"], true);
  EXPECT_TRUE(reply.body["pools"].empty());
  EXPECT_GT(reply.body["limits"]["log_bytes"].get<std::uint64_t>(), 0u);
}

TEST_F(ApiServerTest, APoolAndAVolumeComeAndGo) {
  const std::string location = "dir:" + directory_ + "/vms";
  Reply reply =
      call("POST", "/v1/pools",
           nlohmann::json{{"name", "vms"}, {"location", location}, {"create", true}}.dump());
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.body["state"], "open");
  EXPECT_GT(reply.body["capacity_bytes"].get<std::uint64_t>(), 0u);
  reply = call("POST", "/v1/pools/vms/volumes", R"({"name": "disk1", "size_bytes": 1073741824})");
  ASSERT_EQ(reply.status, 201) << reply.body;
  EXPECT_EQ(reply.body["size_bytes"], 1073741824);
  EXPECT_EQ(reply.body["state"], "detached");
  reply = call("GET", "/v1/pools/vms/volumes/diks1");
  EXPECT_EQ(reply.status, 404);
  EXPECT_NE(reply.body["error"]["message"].get<std::string>().find("did you mean 'vms/disk1'?"),
            std::string::npos);
  reply = call("POST", "/v1/pools/vms/volumes/disk1/attach", "{}");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.body["socket"], directory_ + "/run/vms.disk1.nbd.sock");
  EXPECT_TRUE(std::filesystem::is_socket(directory_ + "/run/vms.disk1.nbd.sock"));
  EXPECT_EQ(call("DELETE", "/v1/pools/vms/volumes/disk1").status, 409);
  EXPECT_EQ(call("DELETE", "/v1/pools/vms").status, 409);
  EXPECT_EQ(call("POST", "/v1/pools/vms/volumes/disk1/detach").status, 200);
  EXPECT_EQ(call("DELETE", "/v1/pools/vms/volumes/disk1").status, 200);
  EXPECT_EQ(call("DELETE", "/v1/pools/vms").status, 200);
  EXPECT_TRUE(call("GET", "/v1/pools").body["pools"].empty());
}

TEST_F(ApiServerTest, WhatNeedsASharedPoolIsRefusedForALocalOne) {
  nlohmann::json body = {
      {"name", "vms"}, {"location", "dir:" + directory_ + "/vms"}, {"create", true}};
  for (const char* key : {"io_timeout_seconds", "watchdog_seconds"}) {
    nlohmann::json wrong = body;
    wrong[key] = 5;
    const Reply reply = call("POST", "/v1/pools", wrong.dump());
    EXPECT_EQ(reply.status, 400) << reply.body;
    EXPECT_NE(reply.body["error"]["message"].get<std::string>().find(key), std::string::npos);
  }
  body["shared"] = true;
  body["io_timeout_seconds"] = 4'294'967'301;  // 5, of 32 bits
  EXPECT_EQ(call("POST", "/v1/pools", body.dump()).status, 400);
  body.erase("io_timeout_seconds");
  body["shared"] = false;
  const Reply made = call("POST", "/v1/pools", body.dump());
  ASSERT_EQ(made.status, 200) << made.body;
  EXPECT_TRUE(made.body["leases"].is_null());
  ASSERT_EQ(
      call("POST", "/v1/pools/vms/volumes", R"({"name": "disk1", "size_bytes": 1048576})").status,
      201);
  const std::string volume = "/v1/pools/vms/volumes/disk1";
  for (const Reply& reply : {call("GET", "/v1/leases?pool=vms"), call("GET", "/v1/pools/vms/hosts"),
                             call("GET", volume + "/lease"), call("POST", volume + "/lease/break"),
                             call("POST", volume + "/handover"),
                             call("POST", volume + "/attach", R"({"incoming": true})")}) {
    EXPECT_EQ(reply.status, 501) << reply.body;
    EXPECT_EQ(reply.body["error"]["code"], "unsupported");
  }
  EXPECT_EQ(call("GET", "/v1/leases").body, nlohmann::json::parse(R"({"leases": []})"));
  EXPECT_EQ(
      call("POST", volume + "/attach", R"({"incoming": true, "shared_writable": true})").status,
      400);
}

TEST_F(ApiServerTest, WhatIsNotThereIsSaid) {
  EXPECT_EQ(call("GET", "/").status, 404);
  EXPECT_EQ(call("GET", "/v1").status, 404);
  EXPECT_EQ(call("GET", "/v1/status/").status, 404);
  EXPECT_EQ(call("GET", "/v1/pools/nope").status, 404);
  EXPECT_EQ(call("DELETE", "/v1/status").status, 405);
  EXPECT_EQ(call("PUT", "/v1/pools").status, 405);
  EXPECT_EQ(call("POST", "/v1/pools", "{").status, 400);
  EXPECT_EQ(
      call("POST", "/v1/pools", R"({"name": "../x", "location": "dir:/x", "create": true})").status,
      400);
  EXPECT_EQ(call("GET", "/v1/pools/%2e%2e%2fetc").status, 404);
  EXPECT_EQ(call("GET", "/v1/pools/%ff%00%0a").body["error"]["code"], "not-found");
}

TEST_F(ApiServerTest, HostileBytesCostOnlyThemselves) {
  send_raw("");
  send_raw("\r\n\r\n");
  send_raw(std::string(100'000, 'A'));
  send_raw("GET /" + std::string(8000, 'a') + " HTTP/1.1\r\n\r\n");
  send_raw("GET /" + std::string(100'000, '%') + " HTTP/1.1\r\n\r\n");
  send_raw("GET /v1/status HTTP/9.9\r\n\r\n");
  send_raw("POST /v1/pools HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n");
  send_raw("POST /v1/pools HTTP/1.1\r\nContent-Length: -1\r\n\r\n");
  send_raw("POST /v1/pools HTTP/1.1\r\nContent-Length: 1000\r\n\r\nshort");
  send_raw("POST /v1/pools HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
  send_raw(
      "POST /v1/pools HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=\r\nContent-Length: "
      "4\r\n\r\n----");
  std::string many_headers = "GET /v1/status HTTP/1.1\r\n";
  for (int i = 0; i < 10'000; ++i) many_headers += "X-" + std::to_string(i) + ": y\r\n";
  send_raw(many_headers + "\r\n");
  send_raw("GET /v1/status HTTP/1.1\r\nRange: bytes=0-0,1-1,-5,99999999999999999999-\r\n\r\n");
  send_raw(std::string("\0\0\0\0", 4));
  EXPECT_EQ(call("GET", "/v1/status").status, 200);
}

TEST_F(ApiServerTest, ABodyThatIsTooLargeIsRefused) {
  const std::string reply = send_raw("POST /v1/pools HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" +
                                     std::string(2'000'000, ' '));
  EXPECT_EQ(reply.find("HTTP/1.1 2"), std::string::npos) << reply.substr(0, 100);
  EXPECT_EQ(call("GET", "/v1/status").status, 200);
}

TEST_F(ApiServerTest, ClientsThatSayNothingDoNotKeepOthersOutForLong) {
  std::vector<int> silent;
  for (std::size_t i = 0; i < limits::kApiThreads; ++i) silent.push_back(connect_raw());
  EXPECT_EQ(call("GET", "/v1/status").status, 200);
  for (const int descriptor : silent) ::close(descriptor);
}

TEST_F(ApiServerTest, ManyClientsAtOnceAreAllAnswered) {
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        const auto reply = call_api(socket_, "GET", "/v1/status", "");
        if (reply.ok() && reply->status == 200) ++answered;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answered, 160);
}

TEST_F(ApiServerTest, OnlyTheOwnerMayConnect) {
  const auto mode = std::filesystem::status(socket_).permissions();
  EXPECT_EQ(mode, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(ApiServerTest, ASecondHostOnTheSameDirectoryIsRefused) {
  HostConfig config;
  config.runtime_directory = directory_ + "/run";
  config.state_directory = directory_ + "/run";
  bool touched = false;
  const auto second = HostThread::start(config, "another test", [&] { touched = true; });
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::busy);
  EXPECT_NE(second.error().message().find("already running"), std::string::npos)
      << second.error().message();
  EXPECT_NE(second.error().message().find("a test"), std::string::npos) << second.error().message();
  EXPECT_FALSE(touched);
}

}  // namespace
}  // namespace holdfast
