// SPDX-License-Identifier: Apache-2.0
//
// fault_fs: a FUSE file system that passes everything through to a directory, and fails, hangs or
// slows what it is told to. It stands under a pool in tests/test_storage_faults.py, and under a raw
// file for the control run.
//
//   fault_fs DIRECTORY MOUNT_POINT CONTROL_SOCKET
//
// It says "ready" on standard output once it is mounted, and ends on SIGTERM or SIGINT: what hangs
// is released first, then it is unmounted. Files are opened with direct I/O towards the kernel, so
// that every read and write of the user comes here; below, they go through the page cache.
//
// Commands on the unix socket, one on a line; each answer is one line that begins with "ok" or
// "error":
//   add ACTION OPERATIONS [PATTERN]   ACTION: an errno's name (EIO, ENOSPC, ...), "hang", or
//                                     "slow=MILLISECONDS". OPERATIONS: names joined by commas, or
//                                     "all". PATTERN: a glob over the path below the mount point.
//                                     Answers "ok RULE".
//   remove RULE                       ends a rule; what hung by it is looked at again by the others
//   clear                             ends all rules
//   available BYTES                   what statfs shows as free; "available real" ends that
//   stale                             every file that is open now answers ESTALE from here on
//   show RULE                         "ok HITS WAITING": so many operations met it, so many hang
//   quit                              as SIGTERM
//
// The first rule that matches decides. Operations: read write sync (fsync, fdatasync, of files and
// directories) create (create, mkdir) allocate (fallocate, truncate) open rename unlink (unlink,
// rmdir) list (opendir, readdir) statfs look (lookup, stat).
#define FUSE_USE_VERSION 312
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <fuse.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr unsigned kThreadsMax = 1000;  // each hung operation keeps one
constexpr unsigned kBackgroundMax = 1000;

enum Operation : unsigned {
  kRead,
  kWrite,
  kSync,
  kCreate,
  kAllocate,
  kOpen,
  kRename,
  kUnlink,
  kList,
  kStatfs,
  kLook,
  kOperationCount
};
const char* const kOperationNames[kOperationCount] = {"read",     "write",  "sync",   "create",
                                                      "allocate", "open",   "rename", "unlink",
                                                      "list",     "statfs", "look"};

const std::map<std::string, int> kErrors = {
    {"EIO", EIO},           {"ETIMEDOUT", ETIMEDOUT}, {"ESTALE", ESTALE}, {"ENODEV", ENODEV},
    {"ENXIO", ENXIO},       {"ENOSPC", ENOSPC},       {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
    {"ENOTCONN", ENOTCONN}, {"EAGAIN", EAGAIN},       {"EACCES", EACCES}, {"EHOSTDOWN", EHOSTDOWN}};

struct Rule {
  std::uint64_t number = 0;
  unsigned operations = 0;  // bits
  std::string pattern;      // empty: every path
  int error = 0;
  bool hangs = false;
  std::chrono::milliseconds delay{0};
  std::uint64_t hits = 0;
  std::uint64_t waiting = 0;
  bool removed = false;
};

// What is to go wrong. Any thread.
class Faults {
 public:
  // Waits as told; 0 or an errno.
  int meet(Operation operation, const std::string& path) {
    std::unique_lock lock(mutex_);
    for (;;) {
      Rule* const rule = find(operation, path);
      if (rule == nullptr) return 0;
      ++rule->hits;
      if (rule->error != 0) return rule->error;
      if (!rule->hangs) {
        const auto delay = rule->delay;
        lock.unlock();
        std::this_thread::sleep_for(delay);
        return 0;
      }
      ++rule->waiting;
      changed_.wait(lock, [&] { return rule->removed; });
      if (--rule->waiting == 0) collect();
    }
  }

  std::uint64_t add(Rule rule) {
    const std::lock_guard lock(mutex_);
    rule.number = ++last_number_;
    rules_.push_back(std::move(rule));
    return last_number_;
  }

  bool remove(std::uint64_t number) {  // 0: all
    const std::lock_guard lock(mutex_);
    bool found = number == 0;
    for (Rule& rule : rules_) {
      if (rule.removed || (number != 0 && rule.number != number)) continue;
      rule.removed = found = true;
    }
    changed_.notify_all();
    collect();
    return found;
  }

  std::optional<std::pair<std::uint64_t, std::uint64_t>> show(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    for (const Rule& rule : rules_) {
      if (rule.number == number) return std::pair(rule.hits, rule.waiting);
    }
    return std::nullopt;
  }

  void set_available(std::optional<std::uint64_t> bytes) {
    const std::lock_guard lock(mutex_);
    available_bytes_ = bytes;
  }
  std::optional<std::uint64_t> available() {
    const std::lock_guard lock(mutex_);
    return available_bytes_;
  }

 private:
  Rule* find(Operation operation, const std::string& path) {
    for (Rule& rule : rules_) {
      if (rule.removed || (rule.operations >> operation & 1U) == 0) continue;
      if (rule.pattern.empty() || fnmatch(rule.pattern.c_str(), path.c_str(), 0) == 0) return &rule;
    }
    return nullptr;
  }
  void collect() {
    rules_.remove_if([](const Rule& rule) { return rule.removed && rule.waiting == 0; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Rule> rules_;  // addresses stay
  std::uint64_t last_number_ = 0;
  std::optional<std::uint64_t> available_bytes_;
};

Faults faults;
std::string source;       // the directory below
std::string mount_point;  // where it is seen

// --- The file system ---

struct OpenFile {
  int descriptor;
  std::string path;
  std::uint64_t generation;  // of its opening
};
std::atomic<std::uint64_t> current_generation{0};

OpenFile& opened(const fuse_file_info* info) {
  return *reinterpret_cast<OpenFile*>(static_cast<std::uintptr_t>(info->fh));
}
std::string below(const char* path) {
  return source + path;
}
// A file that was removed while it is open has no path any more.
std::string path_of(const char* path, const fuse_file_info* info) {
  return path != nullptr ? path : opened(info).path;
}
int answer(int result) {
  return result < 0 ? -errno : 0;
}

#define MEET(operation, path)                                          \
  do {                                                                 \
    if (const int error = faults.meet(operation, path)) return -error; \
  } while (false)

void* fault_init(fuse_conn_info* connection, fuse_config* config) {
  connection->max_background = kBackgroundMax;
  connection->congestion_threshold = kBackgroundMax;
  config->use_ino = 1;
  config->nullpath_ok = 1;
  config->hard_remove = 1;
  config->direct_io = 1;
  // Nothing is remembered: every operation comes here.
  config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
  return nullptr;
}

int fault_getattr(const char* path, struct stat* status, fuse_file_info* info) {
  if (info != nullptr) {
    MEET(kLook, path_of(path, info));
    return answer(fstat(opened(info).descriptor, status));
  }
  MEET(kLook, path);
  return answer(lstat(below(path).c_str(), status));
}

int open_file(const char* path, int flags, mode_t mode, fuse_file_info* info) {
  const int descriptor = open(below(path).c_str(), (flags & ~O_DIRECT) | O_CLOEXEC, mode);
  if (descriptor < 0) return -errno;
  info->fh =
      reinterpret_cast<std::uintptr_t>(new OpenFile{descriptor, path, current_generation.load()});
  info->direct_io = 1;
  return 0;
}

int fault_open(const char* path, fuse_file_info* info) {
  MEET(kOpen, path);
  return open_file(path, info->flags, 0, info);
}
int fault_create(const char* path, mode_t mode, fuse_file_info* info) {
  MEET(kCreate, path);
  return open_file(path, info->flags | O_CREAT, mode, info);
}
int fault_release(const char*, fuse_file_info* info) {
  close(opened(info).descriptor);
  delete &opened(info);
  return 0;
}

int meet_open(Operation operation, const fuse_file_info* info) {
  const OpenFile& file = opened(info);
  if (file.generation != current_generation.load()) return ESTALE;
  return faults.meet(operation, file.path);
}

#define MEET_OPEN(operation, info)                                   \
  do {                                                               \
    if (const int error = meet_open(operation, info)) return -error; \
  } while (false)

int fault_read(const char*, char* bytes, std::size_t count, off_t offset, fuse_file_info* info) {
  MEET_OPEN(kRead, info);
  const ssize_t done = pread(opened(info).descriptor, bytes, count, offset);
  return done < 0 ? -errno : static_cast<int>(done);
}
int fault_write(const char*, const char* bytes, std::size_t count, off_t offset,
                fuse_file_info* info) {
  MEET_OPEN(kWrite, info);
  const ssize_t done = pwrite(opened(info).descriptor, bytes, count, offset);
  return done < 0 ? -errno : static_cast<int>(done);
}
int fault_fsync(const char*, int data_only, fuse_file_info* info) {
  MEET_OPEN(kSync, info);
  const int descriptor = opened(info).descriptor;
  return answer(data_only != 0 ? fdatasync(descriptor) : fsync(descriptor));
}
int fault_fallocate(const char*, int mode, off_t offset, off_t length, fuse_file_info* info) {
  MEET_OPEN(kAllocate, info);
  return answer(fallocate(opened(info).descriptor, mode, offset, length));
}
int fault_truncate(const char* path, off_t length, fuse_file_info* info) {
  MEET(kAllocate, path_of(path, info));
  if (info != nullptr) return answer(ftruncate(opened(info).descriptor, length));
  return answer(truncate(below(path).c_str(), length));
}

int fault_mkdir(const char* path, mode_t mode) {
  MEET(kCreate, path);
  return answer(mkdir(below(path).c_str(), mode));
}
int fault_unlink(const char* path) {
  MEET(kUnlink, path);
  return answer(unlink(below(path).c_str()));
}
int fault_rmdir(const char* path) {
  MEET(kUnlink, path);
  return answer(rmdir(below(path).c_str()));
}
int fault_rename(const char* from, const char* to, unsigned flags) {
  MEET(kRename, to);
  if (flags != 0) return -EINVAL;
  return answer(rename(below(from).c_str(), below(to).c_str()));
}
int fault_chmod(const char* path, mode_t mode, fuse_file_info*) {
  return answer(chmod(below(path).c_str(), mode));
}

int fault_opendir(const char* path, fuse_file_info* info) {
  MEET(kList, path);
  return open_file(path, O_RDONLY | O_DIRECTORY, 0, info);
}
int fault_readdir(const char*, void* buffer, fuse_fill_dir_t fill, off_t, fuse_file_info* info,
                  fuse_readdir_flags) {
  MEET_OPEN(kList, info);
  DIR* const directory = opendir(below(opened(info).path.c_str()).c_str());
  if (directory == nullptr) return -errno;
  while (const dirent* entry = readdir(directory)) {
    struct stat status {};
    status.st_ino = entry->d_ino;
    status.st_mode = static_cast<mode_t>(entry->d_type) << 12U;
    fill(buffer, entry->d_name, &status, 0, fuse_fill_dir_flags{});
  }
  closedir(directory);
  return 0;
}
int fault_fsyncdir(const char*, int, fuse_file_info* info) {
  MEET_OPEN(kSync, info);
  return answer(fsync(opened(info).descriptor));
}
int fault_statfs(const char* path, struct statvfs* status) {
  MEET(kStatfs, path);
  if (statvfs(source.c_str(), status) != 0) return -errno;
  if (const auto bytes = faults.available()) {
    status->f_bavail = status->f_bfree = *bytes / status->f_frsize;
  }
  return 0;
}

fuse_operations operations() {
  fuse_operations table{};
  table.init = fault_init;
  table.getattr = fault_getattr;
  table.open = fault_open;
  table.create = fault_create;
  table.release = fault_release;
  table.read = fault_read;
  table.write = fault_write;
  table.fsync = fault_fsync;
  table.fallocate = fault_fallocate;
  table.truncate = fault_truncate;
  table.mkdir = fault_mkdir;
  table.unlink = fault_unlink;
  table.rmdir = fault_rmdir;
  table.rename = fault_rename;
  table.chmod = fault_chmod;
  table.opendir = fault_opendir;
  table.readdir = fault_readdir;
  table.releasedir = fault_release;
  table.fsyncdir = fault_fsyncdir;
  table.statfs = fault_statfs;
  return table;
}

// --- Control ---

// The kernel gives an error to whatever still waits when this process is gone.
[[noreturn]] void end() {
  faults.remove(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // released operations answer
  umount2(mount_point.c_str(), MNT_DETACH);
  std::_Exit(0);
}

std::optional<unsigned> parse_operations(const std::string& text) {
  if (text == "all") return (1U << kOperationCount) - 1;
  unsigned bits = 0;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    unsigned operation = 0;
    while (operation < kOperationCount && word != kOperationNames[operation]) ++operation;
    if (operation == kOperationCount) return std::nullopt;
    bits |= 1U << operation;
  }
  return bits;
}

std::string add_rule(std::istringstream& words) {
  std::string action;
  std::string names;
  Rule rule;
  words >> action >> names >> rule.pattern;
  const auto bits = parse_operations(names);
  if (!bits.has_value() || *bits == 0) return "error no such operations: " + names;
  rule.operations = *bits;
  if (action == "hang") {
    rule.hangs = true;
  } else if (action.starts_with("slow=")) {
    rule.delay = std::chrono::milliseconds(std::atoi(action.c_str() + 5));
  } else if (const auto error = kErrors.find(action); error != kErrors.end()) {
    rule.error = error->second;
  } else {
    return "error no such action: " + action;
  }
  return "ok " + std::to_string(faults.add(std::move(rule)));
}

std::string obey(const std::string& line) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "add") return add_rule(words);
  if (command == "clear") {
    faults.remove(0);
    return "ok";
  }
  if (command == "stale") {
    ++current_generation;
    return "ok";
  }
  if (command == "available") {
    std::uint64_t bytes = 0;
    const bool given = static_cast<bool>(words >> bytes);
    faults.set_available(given ? std::optional(bytes) : std::nullopt);
    return "ok";
  }
  std::uint64_t number = 0;
  words >> number;
  if (command == "remove" && number != 0) {
    return faults.remove(number) ? "ok" : "error no such rule";
  }
  if (command == "show") {
    const auto shown = faults.show(number);
    if (!shown.has_value()) return "error no such rule";
    return "ok " + std::to_string(shown->first) + " " + std::to_string(shown->second);
  }
  if (command == "quit") end();
  return "error no such command: " + line;
}

void serve_control(int listener) {
  for (;;) {
    const int client = accept(listener, nullptr, nullptr);
    if (client < 0) continue;
    std::string received;
    char bytes[1024];
    for (;;) {
      const ssize_t count = read(client, bytes, sizeof bytes);
      if (count <= 0) break;
      received.append(bytes, static_cast<std::size_t>(count));
      for (std::size_t at = received.find('\n'); at != std::string::npos;
           at = received.find('\n')) {
        const std::string reply = obey(received.substr(0, at)) + "\n";
        received.erase(0, at + 1);
        if (write(client, reply.data(), reply.size()) < 0) break;
      }
    }
    close(client);
  }
}

int listen_at(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (std::strlen(path) >= sizeof address.sun_path) return -1;
  std::strcpy(address.sun_path, path);
  unlink(path);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 8) != 0) {
    return -1;
  }
  return listener;
}

int fail(const char* what) {
  std::fprintf(stderr, "fault_fs: %s: %s\n", what, std::strerror(errno));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: fault_fs DIRECTORY MOUNT_POINT CONTROL_SOCKET\n");
    return 2;
  }
  source = argv[1];
  mount_point = argv[2];
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  signal(SIGPIPE, SIG_IGN);
  umask(0);

  const int listener = listen_at(argv[3]);
  if (listener < 0) return fail("cannot listen on the control socket");
  char* words[] = {argv[0], nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(1, words);
  const fuse_operations table = operations();
  fuse* const file_system = fuse_new(&arguments, &table, sizeof table, nullptr);
  if (file_system == nullptr) return fail("cannot set up FUSE");
  if (fuse_mount(file_system, mount_point.c_str()) != 0) return fail("cannot mount");
  std::thread([listener] { serve_control(listener); }).detach();
  std::thread([ends] {
    int caught = 0;
    sigwait(&ends, &caught);
    end();
  }).detach();
  std::puts("ready");
  std::fflush(stdout);
  fuse_loop_config* const config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(config, kThreadsMax);
  fuse_loop_cfg_set_idle_threads(config, kThreadsMax);
  const int status = fuse_loop_mt(file_system, config);
  // Unmounted from outside.
  std::_Exit(status == 0 ? 0 : 1);
}
