// SPDX-License-Identifier: Apache-2.0
#include "api/server.h"

#include <httplib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/limits.h"

namespace holdfast {
namespace {

// A fixed number of threads and a queue with a bound: when it is full, accepting waits, and clients
// wait in the kernel.
class BoundedThreads final : public httplib::TaskQueue {
 public:
  BoundedThreads() {
    for (std::size_t i = 0; i < limits::kApiThreads; ++i) threads_.emplace_back([this] { work(); });
  }
  void enqueue(std::function<void()> job) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return jobs_.size() < limits::kApiConnectionsWaitingMax; });
    jobs_.push_back(std::move(job));
    changed_.notify_all();
  }
  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      changed_.notify_all();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  bool stopping_ = false;
};

// httplib listens with a backlog of 5, and a unix socket whose backlog is full refuses to connect.
class Listening final : public httplib::Server {
 public:
  void widen_backlog() { ::listen(svr_sock_, static_cast<int>(limits::kApiConnectionsWaitingMax)); }
};

class HttpServer final : public ApiServer {
 public:
  HttpServer(ApiContext context, std::string socket_path)
      : context_(std::move(context)), socket_path_(std::move(socket_path)) {}

  ~HttpServer() override {
    if (!thread_.joinable()) return;
    server_.stop();
    thread_.join();
    ::unlink(socket_path_.c_str());
  }

  Result<void> listen() {
    server_.new_task_queue = [] { return new BoundedThreads; };  // NOLINT: httplib owns it
    server_.set_address_family(AF_UNIX);
    server_.set_payload_max_length(limits::kApiBodyBytesMax);
    server_.set_keep_alive_max_count(1);  // an idle connection must not occupy a thread
    server_.set_read_timeout(limits::kApiSocketTime);
    server_.set_write_timeout(limits::kApiSocketTime);
    server_.set_keep_alive_timeout(
        std::chrono::duration_cast<std::chrono::seconds>(limits::kApiSocketTime).count());
    // Every route is in our own table; httplib only carries bytes.
    server_.set_pre_routing_handler(
        [this](const httplib::Request& request, httplib::Response& response) {
          // Only a POST has a body to wait for, and that is not read yet.
          if (request.method == "POST") return httplib::Server::HandlerResponse::Unhandled;
          handle(request, response);
          return httplib::Server::HandlerResponse::Handled;
        });
    server_.Post(".*", [this](const httplib::Request& request, httplib::Response& response) {
      handle(request, response);
    });
    server_.set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (!response.body.empty()) return;
      const ApiAnswer refused =
          error_answer(Error(ErrorCode::invalid_argument,
                             response.status == 413 ? "the request is too large"
                                                    : "this is no request we understand"));
      response.set_content(refused.body, "application/json");
    });
    server_.set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, const std::exception_ptr&) {
          const ApiAnswer failed =
              error_answer(Error(ErrorCode::internal, "the request could not be handled"));
          response.status = failed.status;
          response.set_content(failed.body, "application/json");
        });
    ::unlink(socket_path_.c_str());
    if (!server_.bind_to_port(socket_path_, 1)) {
      return Error(ErrorCode::internal, "cannot listen on " + socket_path_ + ": " +
                                            std::strerror(errno) +
                                            "; a socket's path may have at most 107 bytes");
    }
    server_.widen_backlog();
    ::chmod(socket_path_.c_str(), 0600);
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    // httplib ignores a stop() that comes before it accepts.
    while (!server_.is_running()) std::this_thread::sleep_for(1ms);
    return {};
  }

 private:
  void handle(const httplib::Request& request, httplib::Response& response) {
    ApiRequest call;
    call.method = request.method;
    call.path = request.path;
    if (request.has_param("pool")) call.pool_query = request.get_param_value("pool");
    call.body = request.body;
    const ApiAnswer answered = answer(context_, call);
    response.status = answered.status;
    response.set_content(answered.body, answered.content_type);
  }

  ApiContext context_;
  const std::string socket_path_;
  Listening server_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<ApiServer>> ApiServer::start(ApiContext context, std::string socket_path) {
  try {
    auto server = std::make_unique<HttpServer>(std::move(context), std::move(socket_path));
    TRY(server->listen());
    return std::unique_ptr<ApiServer>(std::move(server));
  } catch (const std::exception& error) {
    return Error(ErrorCode::internal, std::string("the control interface: ") + error.what());
  }
}

}  // namespace holdfast
