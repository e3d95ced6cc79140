// SPDX-License-Identifier: Apache-2.0
//
// Images in and out, as the command sees them. The daemon serves a volume (or a snapshot) over NBD
// for us alone; whatever happens to us, it undoes what was done once our connections are gone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "cli/nbd_device.h"

namespace holdfast {

using Json = nlohmann::ordered_json;

// One call of the control interface.
using AskDaemon =
    std::function<Result<Json>(const char* method, const std::string& target, const Json& body)>;

struct ImportArguments {
  std::string file;  // "-": standard input
  std::string pool;
  std::string volume;
  std::string format;                       // empty: what the image looks like
  std::optional<std::uint64_t> size_bytes;  // that a raw image must have
  bool shows_progress = false;
};

struct ExportArguments {
  std::string pool;
  std::string volume;
  std::string snapshot;  // empty: the volume as it is now
  std::string file;      // "-": standard output
  std::string format;    // empty: what the file's name says, else raw
  std::string since;     // of rbd-diff
  bool shows_progress = false;
};

// invalid_argument, before anything is done, where the arguments do not fit each other.
// The volume, as GET gives it.
Result<Json> import_image(const AskDaemon& ask, const ImportArguments& arguments);
// {"pool", "volume", "snapshot", "since", "file", "format", "size_bytes", "written_bytes"}
Result<Json> export_image(const AskDaemon& ask, const ExportArguments& arguments);

// An import or export of the daemon's, and our connection to what it serves. Dropping it without
// finish() or end() is what being killed does.
class Transfer {
 public:
  // `what`: "import" or "export".
  static Result<Transfer> begin(const AskDaemon& ask, const std::string& pool,
                                const std::string& volume, const char* what, const Json& body);

  NbdDevice& device() { return *device_; }
  const std::string& uri() const { return uri_; }
  const std::string& snapshot() const { return snapshot_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  // Takes a snapshot (if one is named) of what has been flushed, then changes the size.
  Result<void> step(std::uint64_t size_bytes, const std::string& snapshot);
  Result<Json> finish();
  Result<bool> end();  // false: it had ended already

 private:
  explicit Transfer(const AskDaemon& ask) : ask_(&ask) {}
  Result<void> connect();

  const AskDaemon* ask_;
  std::string pool_;
  std::string name_;
  std::string socket_;
  std::string uri_;
  std::string snapshot_;
  std::uint64_t size_bytes_ = 0;
  bool is_shared_ = false;
  std::unique_ptr<NbdDevice> device_;
};

}  // namespace holdfast
