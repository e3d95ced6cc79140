// SPDX-License-Identifier: Apache-2.0
//
// The seam to a Ceph cluster: one pool and namespace of RADOS objects, seen from one executor. The
// only place that knows librados.
//
// A connection is shared by all clients of one address in this process. It has two lanes, each a
// client of the cluster with threads of its own, so that leases never wait behind bulk data.
// librados' threads only post to the executor.
//
// Operations that the cluster does not answer wait until it does: librados sends them again when
// it has to. A full pool is an error (ENOSPC, EDQUOT), not a wait. Once others have put a
// connection on the cluster's blocklist its operations fail (ESHUTDOWN), and a new one is made.
#pragma once

#include <compare>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "io/executor.h"
#include "io/task.h"

namespace holdfast {

// Which objects, and as whom.
struct RadosAddress {
  std::string pool;
  std::string name_space;          // may be empty
  std::string configuration_file;  // empty: where Ceph looks by itself
  std::string client_id;           // without "client."; empty: admin
  std::string keyring_file;        // empty: what the configuration says
  auto operator<=>(const RadosAddress&) const = default;
};

enum class RadosLane : std::uint8_t { data, leases };

using RadosValue = std::pair<std::string, std::vector<std::byte>>;

// One atomic operation on one object: all of it, if everything that it expects is so; else nothing
// (ECANCELED; ENOENT: no such object).
struct RadosWrite {
  enum class Object : std::uint8_t { must_exist, must_be_new, any };

  Object object = Object::must_exist;
  std::vector<RadosValue> expected_attributes;    // equal; ECANCELED also when there is none
  std::optional<RadosValue> attribute_at_most;    // compared as text
  std::vector<RadosValue> expected_values;        // equal; empty: there is no such key
  std::vector<RadosValue> attributes;             // set
  std::vector<RadosValue> values;                 // set
  std::vector<std::string> removed_values;        // fine if they are not there
  std::optional<std::vector<std::byte>> content;  // instead of what it had
  bool is_append_only = false;                    // a hint, for an object that is made
  bool is_removed = false;                        // the object goes
};

struct RadosBytes {
  int error = 0;  // 0 or a positive errno
  std::vector<std::byte> bytes;
};
struct RadosValues {
  int error = 0;
  std::vector<RadosValue> values;  // ascending
};

// Of the pool, as its users see it: copies are not counted.
struct RadosSpace {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t available_bytes = 0;
};

class RadosCluster;
struct RadosMailbox;
struct RadosCall;

// A read or a write of a part of one object. Owned by the caller, alive and untouched until
// on_complete.
struct RadosTransfer {
  using Callback = void (*)(RadosTransfer& transfer);

  const std::string* object = nullptr;
  bool is_write = false;  // of an object that exists, else ENOENT
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::uint64_t offset_bytes = 0;
  Callback on_complete = nullptr;  // never called from inside submit()
  void* context = nullptr;
  int error = 0;                      // result: 0 or a positive errno
  std::size_t bytes_transferred = 0;  // less than asked for: a read met the object's end
};

class RadosClient {
 public:
  // invalid_argument, not_found, path_failure: what is wrong with address, key or cluster, and what
  // to do.
  static Task<Result<std::unique_ptr<RadosClient>>> connect(Executor& executor,
                                                            RadosAddress address);
  // For another executor, while another client of this address is there.
  static std::unique_ptr<RadosClient> share(Executor& executor, const RadosAddress& address);

  // Calls under way die unanswered, with those who wait; there are no transfers under way.
  ~RadosClient();
  RadosClient(const RadosClient&) = delete;
  RadosClient& operator=(const RadosClient&) = delete;

  const RadosAddress& address() const;

  void submit(RadosTransfer& transfer, RadosLane lane = RadosLane::data);

  // 0 or a positive errno.
  Task<int> write(std::string object, RadosWrite operation, RadosLane lane = RadosLane::data);
  // From the object's begin; less than asked for at its end.
  Task<RadosBytes> read(std::string object, std::size_t bytes_max,
                        RadosLane lane = RadosLane::data);
  Task<RadosBytes> read_attribute(std::string object, std::string name);
  // Those whose keys begin so; ECANCELED unless the attribute is as expected.
  Task<RadosValues> list_values(std::string object, std::string prefix,
                                std::optional<RadosValue> expected_attribute = std::nullopt);
  // The same without what they hold.
  Task<RadosValues> list_keys(std::string object, std::string prefix,
                              std::optional<RadosValue> expected_attribute = std::nullopt);
  Task<RadosValues> read_values(std::string object, std::vector<std::string> keys,
                                std::optional<RadosValue> expected_attribute = std::nullopt);
  // Some seconds old at most, while the cluster's monitors answer; else an error.
  Task<Result<RadosSpace>> space();
  // Of whatever age, without asking, less what this process has taken lately; nothing: never known.
  std::optional<RadosSpace> last_space() const;
  // The figures will show it, but only some seconds later.
  void note_taken(std::uint64_t bytes);

  // Of this process as the cluster knows it now; empty: not known.
  std::string client_address(RadosLane lane = RadosLane::data) const;
  // Keeps that client from the cluster from soon on, if our key may do that. Nobody waits for it.
  void block_client(std::string client_address);
  // The same; afterwards nothing that those clients sent before can come before, or among, what
  // this one does. False: it could not be done, and why is in the log.
  Task<bool> block_clients(std::vector<std::string> client_addresses);
  // An operation whose outcome nobody waits for; it is done also when the client is gone.
  void write_and_forget(const std::string& object, const RadosWrite& operation);

 private:
  RadosClient(Executor& executor, std::shared_ptr<RadosCluster> cluster);
  Task<RadosValues> list(std::string object, std::string prefix,
                         std::optional<RadosValue> expected_attribute, bool with_values);

  std::shared_ptr<RadosCluster> cluster_;
  std::shared_ptr<RadosMailbox> mailbox_;
};

// "cannot <action> <object>: ...": as file_error, with what it means of a Ceph cluster.
Error rados_error(const RadosAddress& address, const std::string& action, int error);

}  // namespace holdfast
