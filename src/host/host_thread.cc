// SPDX-License-Identifier: Apache-2.0
#include "host/host_thread.h"

#include <algorithm>

#include "io/machine_identity.h"
#include "io/unix_socket.h"

namespace holdfast {
namespace {

constexpr mode_t kSocketMode = 0660;  // for the group of the runtime directory

Task<Result<bool>> start_host(Host& host) {
  CO_TRY(co_await host.start());
  co_return true;
}

std::size_t service_loop_count(const HostConfig& config) {
  if (config.loops != 0) return config.loops;
  const std::size_t cores = std::thread::hardware_concurrency();  // 0: not known
  return std::clamp<std::size_t>(cores, 1, limits::kServiceLoopsDefaultMax);
}

ServiceEnvironment service_environment(Loop& loop) {
  return ServiceEnvironment{
      .executor = loop,
      .make_file_system = [&loop]() -> std::unique_ptr<FileSystem> {
        return std::make_unique<Disk>(loop);
      },
      .listen =
          [&loop](const std::string& path, ServiceEnvironment::OnAccept on_accept) {
            // The host holds the lock of the directory.
            return listen_unix(loop, path, kSocketMode, std::move(on_accept),
                               LivingListener::replace);
          },
      .vhost = VhostEnvironment::on(loop),
  };
}

}  // namespace

Result<std::unique_ptr<HostThread>> HostThread::start(HostConfig config, std::string holder,
                                                      std::function<void()> on_locked) {
  std::unique_ptr<HostThread> self(new HostThread);  // NOLINT: the constructor is private
  auto started = std::make_shared<Answer<bool>>();
  Setup setup{std::move(config), std::move(holder), std::move(on_locked)};
  self->thread_ = std::thread([raw = self.get(), setup = std::move(setup), started]() mutable {
    raw->run_loop(std::move(setup), started);
  });
  std::optional<Result<bool>> result;
  while (!result.has_value()) result = started->wait(kSlice);
  if (!result->ok()) {
    self->thread_.join();
    return result->take_error();
  }
  return self;
}

void HostThread::run_loop(Setup setup, std::shared_ptr<Answer<bool>> started) {
  auto made = make(std::move(setup));
  if (!made.ok()) {
    destroy();
    started->set(made.take_error());
    return;
  }
  bool failed = false;
  struct Starter {
    static Task<void> run(HostThread& self, Answer<bool>& answer, bool& start_failed) {
      auto result = co_await start_host(*self.host_);
      start_failed = !result.ok();
      if (start_failed) self.loop_->stop();
      answer.set(std::move(result));
    }
  };
  tasks_->spawn(Starter::run(*this, *started, failed));
  loop_->run();
  finished_ = true;
  destroy();
}

// What the host has on the service loops it destroys there, so their threads end after it.
void HostThread::destroy() {
  stopping_.reset();
  tasks_.reset();
  host_.reset();
  lease_thread_.reset();
  service_threads_.clear();
  disk_.reset();
}

Result<void> HostThread::make(Setup setup) {
  loop_ = TRY(Loop::create());
  disk_ = std::make_unique<Disk>(*loop_);
  tasks_ = std::make_unique<TaskScope>();
  stopping_ = std::make_unique<TaskScope>();
  Loop& loop = *loop_;
  std::vector<ServiceEnvironment> service_loops;
  for (std::size_t count = service_loop_count(setup.config); count > 0; --count) {
    service_threads_.push_back(TRY(LoopThread::start()));
    service_loops.push_back(service_environment(service_threads_.back()->loop()));
  }
  lease_thread_ = TRY(LoopThread::start(LoopThread::Priority::urgent));
  Loop& lease_loop = lease_thread_->loop();
  const MachineIdentity machine = machine_identity(setup.config.state_directory);
  HostEnvironment environment{
      .executor = loop,
      .file_system = *disk_,
      .make_file_system = [&loop]() -> std::unique_ptr<FileSystem> {
        return std::make_unique<Disk>(loop);
      },
      .service_loops = std::move(service_loops),
      .leases = {lease_loop,
                 [&lease_loop]() -> std::unique_ptr<FileSystem> {
                   return std::make_unique<Disk>(lease_loop);
                 }},
      .holder = std::move(setup.holder),
      .host_name = setup.config.host_name.empty() ? machine.name : setup.config.host_name,
      .boot_id = machine.boot_id,
      .connect = [&loop](const std::string& path) { return connect_unix(loop, path); },
      .on_locked = std::move(setup.on_locked),
  };
  host_ = std::make_unique<Host>(std::move(environment), std::move(setup.config));
  return {};
}

bool HostThread::stop() {
  auto stopped = std::make_shared<Answer<bool>>();
  struct Stopper {
    static Task<void> run(HostThread& self, std::shared_ptr<Answer<bool>> answer) {
      co_await self.host_->stop();
      if (self.host_->has_given_up()) {
        answer->set(Error(ErrorCode::busy, "requests are held"));
        co_return;
      }
      while (!self.tasks_->empty()) co_await sleep_for(*self.loop_, 5ms);
      answer->set(true);
    }
  };
  loop_->post_remote([this, stopped] { stopping_->spawn(Stopper::run(*this, stopped)); });
  const auto answer = stopped->wait(limits::kStopTime);
  if (!answer.has_value() || !answer->ok()) return false;
  loop_->stop();
  thread_.join();
  return true;
}

HostThread::~HostThread() {
  if (thread_.joinable()) stop();
}

}  // namespace holdfast
