// SPDX-License-Identifier: Apache-2.0
#include "io/rados_client.h"

#include <rados/librados.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "base/log.h"
#include "io/errors.h"
#include "io/rados_cluster.h"

namespace holdfast {

// What is done goes back to the executor through this, which outlives the client.
struct RadosMailbox : std::enable_shared_from_this<RadosMailbox> {
  explicit RadosMailbox(Executor& home) : executor(&home) {}
  RadosMailbox(const RadosMailbox&) = delete;
  RadosMailbox& operator=(const RadosMailbox&) = delete;
  ~RadosMailbox();

  // From any thread. Takes the call.
  void put(RadosCall* call);
  // The executor may be gone afterwards.
  void close();
  void deliver();

  std::mutex mutex;
  Executor* executor;            // guarded by mutex; null once closed
  std::vector<RadosCall*> done;  // guarded by mutex
};

// One operation in the cluster's hands. It owns what librados reads and writes meanwhile, so that
// whoever waits may die first.
struct RadosCall {
  explicit RadosCall(std::shared_ptr<RadosMailbox> home) : mailbox(std::move(home)) {}
  RadosCall(const RadosCall&) = delete;
  RadosCall& operator=(const RadosCall&) = delete;
  virtual ~RadosCall() = default;

  // On a thread of librados, which is done with the operation.
  virtual void finish(int result) { error = result < 0 ? -result : 0; }
  // On the executor; somebody waits, or not any more.
  virtual void answer() {
    if (waiting) waiting.resume();
  }

  static void on_complete(rados_completion_t completion, void* argument) {
    auto* call = static_cast<RadosCall*>(argument);
    call->finish(rados_aio_get_return_value(completion));
    rados_aio_release(completion);
    call->go_home();
  }
  void go_home() {
    if (error == ESHUTDOWN && connection != nullptr) connection->was_blocked();
    connection.reset();
    const std::shared_ptr<RadosMailbox> home = mailbox;
    home->put(this);
  }
  // `submitted`: 0, or the negative errno with which librados refused the operation.
  void started(rados_completion_t completion, int submitted) {
    if (submitted >= 0) return;
    finish(submitted);
    rados_aio_release(completion);
    go_home();
  }
  rados_completion_t completion() {
    rados_completion_t made = nullptr;
    const int error_made = rados_aio_create_completion2(this, &RadosCall::on_complete, &made);
    HOLDFAST_ASSERT(error_made == 0);
    return made;
  }

  std::shared_ptr<RadosMailbox> mailbox;
  std::shared_ptr<RadosConnection> connection;
  std::coroutine_handle<> waiting;
  int error = 0;
};

RadosMailbox::~RadosMailbox() {
  for (RadosCall* call : done) delete call;  // NOLINT: nobody waits any more
}

void RadosMailbox::put(RadosCall* call) {
  const std::lock_guard lock(mutex);
  if (executor == nullptr) {
    delete call;  // NOLINT: calls own themselves
    return;
  }
  done.push_back(call);
  if (done.size() > 1) return;
  executor->post_remote([self = shared_from_this()] { self->deliver(); });
}

void RadosMailbox::close() {
  const std::lock_guard lock(mutex);
  executor = nullptr;
}

void RadosMailbox::deliver() {
  std::vector<RadosCall*> ready;
  {
    const std::lock_guard lock(mutex);
    ready.swap(done);
  }
  for (RadosCall* call : ready) {
    call->answer();
    delete call;  // NOLINT: calls own themselves
  }
}

namespace {

const char* chars(const std::vector<std::byte>& bytes) {
  return reinterpret_cast<const char*>(bytes.data());
}

std::vector<std::byte> bytes_of(const char* data, std::size_t bytes) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  return data == nullptr ? std::vector<std::byte>() : std::vector<std::byte>(begin, begin + bytes);
}

// `co_await Waiting(new SomeCall(..), start)`: the call belongs to itself from start on.
template <typename Call, typename Start>
class Waiting {
 public:
  Waiting(Call* call, Start start) : call_(call), start_(std::move(start)) {}
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() {
    if (call_ != nullptr) call_->waiting = nullptr;
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    call_->waiting = waiting;
    start_(*call_);
  }
  auto await_resume() { return std::exchange(call_, nullptr)->take(); }

 private:
  Call* call_;
  Start start_;
};

struct TransferCall final : RadosCall {
  TransferCall(std::shared_ptr<RadosMailbox> home, RadosTransfer& moved)
      : RadosCall(std::move(home)), transfer(moved) {}

  void finish(int result) override {
    RadosCall::finish(result);
    transfer.error = error;
    transfer.bytes_transferred =
        result < 0 ? 0 : (transfer.is_write ? transfer.bytes : static_cast<std::size_t>(result));
  }
  void answer() override { transfer.on_complete(transfer); }

  RadosTransfer& transfer;
};

struct WriteCall final : RadosCall {
  using RadosCall::RadosCall;
  int take() const { return error; }
};

struct ReadCall final : RadosCall {
  ReadCall(std::shared_ptr<RadosMailbox> home, std::size_t bytes_max)
      : RadosCall(std::move(home)), bytes(bytes_max) {}
  void finish(int result) override {
    RadosCall::finish(result);
    bytes.resize(result < 0 ? 0 : static_cast<std::size_t>(result));
  }
  RadosBytes take() { return {error, std::move(bytes)}; }

  std::vector<std::byte> bytes;
};

// One page of values: of keys that begin so behind some key, or of some keys.
struct ValuesCall final : RadosCall {
  using RadosCall::RadosCall;
  ~ValuesCall() override {
    if (iterator != nullptr) rados_omap_get_end(iterator);
    if (operation != nullptr) rados_release_read_op(operation);
  }
  void finish(int result) override {
    RadosCall::finish(result);
    if (error == 0 && part_result < 0) error = -part_result;
    if (error != 0 || iterator == nullptr) return;
    for (;;) {
      char* key = nullptr;
      char* value = nullptr;
      std::size_t key_bytes = 0;
      std::size_t value_bytes = 0;
      if (rados_omap_get_next2(iterator, &key, &value, &key_bytes, &value_bytes) != 0) return;
      if (key == nullptr) return;
      values.emplace_back(std::string(key, key_bytes), bytes_of(value, value_bytes));
    }
  }
  struct Page {
    int error = 0;
    bool has_more = false;
    std::vector<RadosValue> values;
  };
  Page take() { return {error, more != 0, std::move(values)}; }

  rados_read_op_t operation = nullptr;
  rados_omap_iter_t iterator = nullptr;
  unsigned char more = 0;
  int part_result = 0;
  std::vector<RadosValue> values;
};

struct SpaceCall final : RadosCall {
  using RadosCall::RadosCall;
  Result<RadosSpace> take() { return std::move(space); }
  Result<RadosSpace> space = RadosSpace{};
};

struct BlockCall final : RadosCall {
  using RadosCall::RadosCall;
  bool take() const { return is_done; }
  bool is_done = false;
};

struct ConnectCall final : RadosCall {
  using RadosCall::RadosCall;
  Result<void> take() { return std::move(connected); }
  Result<void> connected;
};

rados_write_op_t build(const RadosWrite& write) {
  rados_write_op_t op = rados_create_write_op();
  switch (write.object) {
    case RadosWrite::Object::must_exist:
      rados_write_op_assert_exists(op);
      break;
    case RadosWrite::Object::must_be_new:
      rados_write_op_create(op, LIBRADOS_CREATE_EXCLUSIVE, nullptr);
      break;
    case RadosWrite::Object::any:
      rados_write_op_create(op, LIBRADOS_CREATE_IDEMPOTENT, nullptr);
      break;
  }
  if (write.is_append_only) {
    rados_write_op_set_alloc_hint2(op, 0, 0,
                                   LIBRADOS_ALLOC_HINT_FLAG_SEQUENTIAL_WRITE |
                                       LIBRADOS_ALLOC_HINT_FLAG_RANDOM_READ |
                                       LIBRADOS_ALLOC_HINT_FLAG_APPEND_ONLY);
  }
  for (const auto& [name, value] : write.expected_attributes) {
    rados_write_op_cmpxattr(op, name.c_str(), LIBRADOS_CMPXATTR_OP_EQ, chars(value), value.size());
  }
  if (write.attribute_at_most.has_value()) {
    // "The value given >= what is there."
    const auto& [name, value] = *write.attribute_at_most;
    rados_write_op_cmpxattr(op, name.c_str(), LIBRADOS_CMPXATTR_OP_GTE, chars(value), value.size());
  }
  for (const auto& [key, value] : write.expected_values) {
    rados_write_op_omap_cmp2(op, key.c_str(), LIBRADOS_CMPXATTR_OP_EQ, chars(value), key.size(),
                             value.size(), nullptr);
  }
  if (write.content.has_value()) {
    rados_write_op_write_full(op, chars(*write.content), write.content->size());
  }
  for (const auto& [name, value] : write.attributes) {
    rados_write_op_setxattr(op, name.c_str(), chars(value), value.size());
  }
  std::vector<const char*> keys;
  std::vector<std::size_t> key_bytes;
  for (const std::string& key : write.removed_values) {
    keys.push_back(key.data());
    key_bytes.push_back(key.size());
  }
  if (!keys.empty()) {
    rados_write_op_omap_rm_keys2(op, keys.data(), key_bytes.data(), keys.size());
  }
  keys.clear();
  key_bytes.clear();
  std::vector<const char*> values;
  std::vector<std::size_t> value_bytes;
  for (const auto& [key, value] : write.values) {
    keys.push_back(key.data());
    key_bytes.push_back(key.size());
    values.push_back(chars(value));
    value_bytes.push_back(value.size());
  }
  if (!keys.empty()) {
    rados_write_op_omap_set2(op, keys.data(), values.data(), key_bytes.data(), value_bytes.data(),
                             keys.size());
  }
  if (write.is_removed) rados_write_op_remove(op);
  return op;
}

void expect(rados_read_op_t op, const std::optional<RadosValue>& attribute) {
  if (!attribute.has_value()) return;
  rados_read_op_cmpxattr(op, attribute->first.c_str(), LIBRADOS_CMPXATTR_OP_EQ,
                         chars(attribute->second), attribute->second.size());
}

}  // namespace

RadosClient::RadosClient(Executor& executor, std::shared_ptr<RadosCluster> cluster)
    : cluster_(std::move(cluster)), mailbox_(std::make_shared<RadosMailbox>(executor)) {}

RadosClient::~RadosClient() {
  mailbox_->close();
}

Task<Result<std::unique_ptr<RadosClient>>> RadosClient::connect(Executor& executor,
                                                                RadosAddress address) {
  std::unique_ptr<RadosClient> client(
      new RadosClient(executor, RadosCluster::find_or_make(address)));  // NOLINT: private
  auto* call = new ConnectCall(client->mailbox_);  // NOLINT: calls own themselves
  auto start = [cluster = client->cluster_.get()](ConnectCall& begun) {
    cluster->run([&begun](RadosClusterState& state) {
      begun.connected = connect_cluster(state);
      begun.go_home();
    });
  };
  auto connected = co_await Waiting<ConnectCall, decltype(start)>(call, std::move(start));
  if (!connected.ok()) co_return connected.take_error();
  co_return client;
}

std::unique_ptr<RadosClient> RadosClient::share(Executor& executor, const RadosAddress& address) {
  std::shared_ptr<RadosCluster> cluster = RadosCluster::find(address);
  HOLDFAST_ASSERT(cluster != nullptr);
  return std::unique_ptr<RadosClient>(
      new RadosClient(executor, std::move(cluster)));  // NOLINT: private constructor
}

const RadosAddress& RadosClient::address() const {
  return cluster_->address();
}

void RadosClient::submit(RadosTransfer& transfer, RadosLane lane) {
  auto* call = new TransferCall(mailbox_, transfer);  // NOLINT: calls own themselves
  call->connection = cluster_->connection(lane);
  const rados_ioctx_t io = call->connection->io;
  const rados_completion_t completion = call->completion();
  int submitted = 0;
  if (transfer.is_write) {
    rados_write_op_t op = rados_create_write_op();
    rados_write_op_assert_exists(op);
    rados_write_op_write(op, reinterpret_cast<const char*>(transfer.data), transfer.bytes,
                         transfer.offset_bytes);
    submitted = rados_aio_write_op_operate(op, io, completion, transfer.object->c_str(), nullptr,
                                           LIBRADOS_OPERATION_FULL_TRY);
    rados_release_write_op(op);
  } else {
    submitted = rados_aio_read(io, transfer.object->c_str(), completion,
                               reinterpret_cast<char*>(transfer.data), transfer.bytes,
                               transfer.offset_bytes);
  }
  call->started(completion, submitted);
}

Task<int> RadosClient::write(std::string object, RadosWrite operation, RadosLane lane) {
  auto* call = new WriteCall(mailbox_);  // NOLINT: calls own themselves
  auto start = [this, lane, &object, &operation](WriteCall& begun) {
    begun.connection = cluster_->connection(lane);
    const rados_completion_t completion = begun.completion();
    rados_write_op_t op = build(operation);
    const int submitted = rados_aio_write_op_operate(
        op, begun.connection->io, completion, object.c_str(), nullptr, LIBRADOS_OPERATION_FULL_TRY);
    rados_release_write_op(op);
    begun.started(completion, submitted);
  };
  co_return co_await Waiting<WriteCall, decltype(start)>(call, std::move(start));
}

Task<RadosBytes> RadosClient::read(std::string object, std::size_t bytes_max, RadosLane lane) {
  auto* call = new ReadCall(mailbox_, bytes_max);  // NOLINT: calls own themselves
  auto start = [this, lane, &object](ReadCall& begun) {
    begun.connection = cluster_->connection(lane);
    const rados_completion_t completion = begun.completion();
    const int submitted =
        rados_aio_read(begun.connection->io, object.c_str(), completion,
                       reinterpret_cast<char*>(begun.bytes.data()), begun.bytes.size(), 0);
    begun.started(completion, submitted);
  };
  co_return co_await Waiting<ReadCall, decltype(start)>(call, std::move(start));
}

Task<RadosBytes> RadosClient::read_attribute(std::string object, std::string name) {
  auto* call = new ReadCall(mailbox_, limits::kRadosAttributeBytesMax);  // NOLINT: owns itself
  auto start = [this, &object, &name](ReadCall& begun) {
    begun.connection = cluster_->connection(RadosLane::data);
    const rados_completion_t completion = begun.completion();
    const int submitted =
        rados_aio_getxattr(begun.connection->io, object.c_str(), completion, name.c_str(),
                           reinterpret_cast<char*>(begun.bytes.data()), begun.bytes.size());
    begun.started(completion, submitted);
  };
  co_return co_await Waiting<ReadCall, decltype(start)>(call, std::move(start));
}

Task<RadosValues> RadosClient::list_values(std::string object, std::string prefix,
                                           std::optional<RadosValue> expected_attribute) {
  return list(std::move(object), std::move(prefix), std::move(expected_attribute), true);
}

Task<RadosValues> RadosClient::list_keys(std::string object, std::string prefix,
                                         std::optional<RadosValue> expected_attribute) {
  return list(std::move(object), std::move(prefix), std::move(expected_attribute), false);
}

Task<RadosValues> RadosClient::list(std::string object, std::string prefix,
                                    std::optional<RadosValue> expected_attribute,
                                    bool with_values) {
  RadosValues all;
  std::string after = prefix;
  for (bool has_more = true; has_more;) {
    auto* call = new ValuesCall(mailbox_);  // NOLINT: calls own themselves
    auto start = [&, this](ValuesCall& begun) {
      begun.connection = cluster_->connection(RadosLane::data);
      begun.operation = rados_create_read_op();
      expect(begun.operation, expected_attribute);
      if (with_values) {
        rados_read_op_omap_get_vals2(begun.operation, after.c_str(), prefix.c_str(),
                                     limits::kRadosValuesPerRead, &begun.iterator, &begun.more,
                                     &begun.part_result);
      } else {
        rados_read_op_omap_get_keys2(begun.operation, after.c_str(), limits::kRadosValuesPerRead,
                                     &begun.iterator, &begun.more, &begun.part_result);
      }
      const rados_completion_t completion = begun.completion();
      const int submitted = rados_aio_read_op_operate(begun.operation, begun.connection->io,
                                                      completion, object.c_str(), 0);
      begun.started(completion, submitted);
    };
    auto page = co_await Waiting<ValuesCall, decltype(start)>(call, std::move(start));
    all.error = page.error;
    if (page.error != 0) {
      all.values.clear();
      co_return all;
    }
    has_more = page.has_more && !page.values.empty();
    if (has_more) after = page.values.back().first;
    for (RadosValue& each : page.values) {
      if (each.first.starts_with(prefix)) {
        all.values.push_back(std::move(each));
      } else {
        has_more = false;  // keys are in order
      }
    }
  }
  co_return all;
}

Task<RadosValues> RadosClient::read_values(std::string object, std::vector<std::string> keys,
                                           std::optional<RadosValue> expected_attribute) {
  auto* call = new ValuesCall(mailbox_);  // NOLINT: calls own themselves
  auto start = [&, this](ValuesCall& begun) {
    begun.connection = cluster_->connection(RadosLane::data);
    begun.operation = rados_create_read_op();
    expect(begun.operation, expected_attribute);
    std::vector<const char*> names;
    std::vector<std::size_t> name_bytes;
    for (const std::string& key : keys) {
      names.push_back(key.data());
      name_bytes.push_back(key.size());
    }
    rados_read_op_omap_get_vals_by_keys2(begun.operation, names.data(), names.size(),
                                         name_bytes.data(), &begun.iterator, &begun.part_result);
    const rados_completion_t completion = begun.completion();
    const int submitted = rados_aio_read_op_operate(begun.operation, begun.connection->io,
                                                    completion, object.c_str(), 0);
    begun.started(completion, submitted);
  };
  auto page = co_await Waiting<ValuesCall, decltype(start)>(call, std::move(start));
  co_return RadosValues{page.error, std::move(page.values)};
}

Task<Result<RadosSpace>> RadosClient::space() {
  if (const auto known = cluster_->known_space()) co_return *known;
  auto* call = new SpaceCall(mailbox_);  // NOLINT: calls own themselves
  auto start = [cluster = cluster_.get()](SpaceCall& begun) {
    cluster->run([&begun](RadosClusterState& state) {
      begun.space = ask_space(state);
      begun.go_home();
    });
  };
  co_return co_await Waiting<SpaceCall, decltype(start)>(call, std::move(start));
}

std::optional<RadosSpace> RadosClient::last_space() const {
  return cluster_->last_space();
}

void RadosClient::note_taken(std::uint64_t bytes) {
  cluster_->note_taken(bytes);
}

std::string RadosClient::client_address(RadosLane lane) const {
  return cluster_->connection(lane)->client_address();
}

Task<bool> RadosClient::block_clients(std::vector<std::string> client_addresses) {
  auto* call = new BlockCall(mailbox_);  // NOLINT: calls own themselves
  auto start = [cluster = cluster_.get(), &client_addresses](BlockCall& begun) {
    cluster->run([&begun, blocked = client_addresses](RadosClusterState& state) {
      begun.is_done = true;
      for (const std::string& each : blocked) {
        begun.is_done = holdfast::block_client(state, each) && begun.is_done;
      }
      begun.is_done = wait_for_latest_map(state) && begun.is_done;
      begun.go_home();
    });
  };
  co_return co_await Waiting<BlockCall, decltype(start)>(call, std::move(start));
}

void RadosClient::write_and_forget(const std::string& object, const RadosWrite& operation) {
  auto* call = new WriteCall(mailbox_);  // NOLINT: calls own themselves
  call->connection = cluster_->connection(RadosLane::data);
  const rados_completion_t completion = call->completion();
  rados_write_op_t op = build(operation);
  const int submitted = rados_aio_write_op_operate(
      op, call->connection->io, completion, object.c_str(), nullptr, LIBRADOS_OPERATION_FULL_TRY);
  rados_release_write_op(op);
  call->started(completion, submitted);
}

void RadosClient::block_client(std::string client_address) {
  cluster_->run([blocked = std::move(client_address)](RadosClusterState& state) {
    (void)holdfast::block_client(state, blocked);
  });
}

Error rados_error(const RadosAddress& address, const std::string& action, int error) {
  const std::string where = "pool '" + address.pool + "'";
  const std::string who = "client." + (address.client_id.empty() ? "admin" : address.client_id);
  if (error == EPERM || error == EACCES) {
    const std::string name_space =
        address.name_space.empty() ? "" : " namespace=" + address.name_space;
    return Error(ErrorCode::invalid_argument,
                 "cannot " + action + ": " + who + " may not do that in " + where +
                     "; give its key the capabilities: ceph auth caps " + who +
                     " mon 'profile rbd' osd 'allow rwx pool=" + address.pool + name_space + "'");
  }
  if (error == EDQUOT) {
    return Error(ErrorCode::no_space, "cannot " + action + ": the quota of " + where +
                                          " is used up; raise it (ceph osd pool set-quota), or "
                                          "free space");
  }
  if (error == ENOSPC) {
    return Error(ErrorCode::no_space,
                 "cannot " + action + ": " + where + " is full (see ceph health detail)");
  }
  if (error == EOPNOTSUPP) {
    return Error(ErrorCode::unsupported,
                 "cannot " + action + ": " + where +
                     " cannot do it; use a replicated pool (ceph osd pool create)");
  }
  if (error == ESHUTDOWN) {
    return Error(ErrorCode::path_failure,
                 "cannot " + action +
                     ": this client is on the cluster's blocklist (ceph osd "
                     "blocklist ls); a new connection is being made");
  }
  return Error(error_code_of_errno(error), "cannot " + action + ": " + std::strerror(error));
}

}  // namespace holdfast
