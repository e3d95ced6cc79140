// SPDX-License-Identifier: Apache-2.0
#include "io/shared_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/limits.h"

namespace holdfast {
namespace {

// What the handler of SIGBUS knows: mappings by slot. A slot is taken by setting `begin` from 0,
// and counts once `end` is set. Only plain atomics: a signal handler reads them.
struct Guard {
  std::atomic<std::uintptr_t> begin = 0;
  std::atomic<std::uintptr_t> end = 0;
  std::atomic<bool> lost = false;
};
std::array<Guard, limits::kSharedMappingsMax> guards;
std::atomic<std::size_t> guards_end = 0;  // no slot at or behind it was ever used

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

void on_bus_error(int signal, siginfo_t* information, void*) {
  const auto address = reinterpret_cast<std::uintptr_t>(information->si_addr);
  const std::size_t end = guards_end.load();
  for (std::size_t i = 0; i < end; ++i) {
    Guard& guard = guards[i];
    const std::uintptr_t from = guard.begin.load();
    const std::uintptr_t to = guard.end.load();
    if (address < from || address >= to) continue;
    void* const replaced = mmap(reinterpret_cast<void*>(from), to - from, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (replaced == MAP_FAILED) break;
    guard.lost.store(true);
    return;
  }
  // Not ours: as if there were no handler.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, nullptr);
}

void install_handler() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = &on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  HOLDFAST_ASSERT(installed);
}

// The slot, or kSharedMappingsMax when all are taken.
std::size_t take_guard(std::uintptr_t begin, std::uintptr_t end) {
  for (std::size_t i = 0; i < guards.size(); ++i) {
    std::uintptr_t free = 0;
    if (!guards[i].begin.compare_exchange_strong(free, begin)) continue;
    guards[i].lost.store(false);
    std::size_t seen = guards_end.load();
    while (seen <= i && !guards_end.compare_exchange_weak(seen, i + 1)) {
    }
    guards[i].end.store(end);
    return i;
  }
  return guards.size();
}

void give_guard(std::size_t slot) {
  guards[slot].end.store(0);
  guards[slot].begin.store(0);
}

bool may_keep_us_waiting(int file) {
  constexpr std::uint64_t kNetworkMagics[] = {0x6969 /* NFS */,      0x65735546 /* FUSE */,
                                              0x00C36400 /* Ceph */, 0x01021997 /* 9P */,
                                              0xFF534D42 /* CIFS */, 0xFE534D42 /* SMB2 */,
                                              0x517B /* SMB */,      0x5346414F /* AFS */,
                                              0x01161970 /* GFS2 */, 0x7461636F /* OCFS2 */};
  struct statfs status {};
  if (fstatfs(file, &status) != 0) return true;
  const auto magic = static_cast<std::uint64_t>(status.f_type) & 0xFFFFFFFF;
  for (const std::uint64_t network : kNetworkMagics) {
    if (magic == network) return true;
  }
  return false;
}

Error memory_error(const std::string& what, int error) {
  return Error(ErrorCode::internal, "cannot map shared memory: " + what +
                                        (error == 0 ? "" : std::string(": ") + strerror(error)));
}

}  // namespace

Result<std::unique_ptr<SharedMemory>> SharedMemory::map(const Descriptor& file,
                                                        std::uint64_t offset_bytes,
                                                        std::uint64_t length_bytes) {
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return memory_error("fstat", errno);
  if (length_bytes == 0 || offset_bytes + length_bytes < length_bytes) {
    return memory_error("the range is empty or wraps around", 0);
  }
  if (S_ISREG(status.st_mode)) {
    if (offset_bytes + length_bytes > static_cast<std::uint64_t>(status.st_size)) {
      return memory_error("the range reaches beyond the end of the file", 0);
    }
    if (may_keep_us_waiting(file.get())) {
      return memory_error("the file is on a network or FUSE file system; use memory of this host",
                          0);
    }
  } else if (!S_ISCHR(status.st_mode)) {
    return memory_error("neither a file nor a memory device", 0);
  }
  return map_file(file.get(), offset_bytes, length_bytes);
}

Result<SharedMemory::Created> SharedMemory::create(const std::string& name,
                                                   std::uint64_t length_bytes) {
  Descriptor file(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.is_open()) return memory_error("memfd_create", errno);
  if (ftruncate(file.get(), static_cast<off_t>(length_bytes)) != 0 ||
      fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return memory_error("set the size", errno);
  }
  auto memory = TRY(map_file(file.get(), 0, length_bytes));
  return Created{std::move(memory), std::move(file)};
}

Result<std::unique_ptr<SharedMemory>> SharedMemory::map_file(int file, std::uint64_t offset_bytes,
                                                             std::uint64_t length_bytes) {
  install_handler();
  const std::uint64_t total_bytes = offset_bytes + length_bytes;
  void* const mapping =
      mmap(nullptr, total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (mapping == MAP_FAILED) return memory_error("mmap", errno);
  madvise(mapping, total_bytes, MADV_DONTDUMP);
  const auto begin = reinterpret_cast<std::uintptr_t>(mapping);
  const std::size_t guard = take_guard(begin, begin + total_bytes);
  if (guard == guards.size()) {
    munmap(mapping, total_bytes);
    return memory_error("there are " + std::to_string(guards.size()) + " mappings already", 0);
  }
  std::unique_ptr<SharedMemory> memory(new SharedMemory);  // NOLINT: the constructor is private
  memory->mapping_ = mapping;
  memory->mapping_bytes_ = total_bytes;
  memory->data_ = static_cast<std::byte*>(mapping) + offset_bytes;
  memory->size_bytes_ = length_bytes;
  memory->guard_ = guard;
  return memory;
}

SharedMemory::~SharedMemory() {
  if (mapping_ == nullptr) return;
  give_guard(guard_);
  munmap(mapping_, mapping_bytes_);
}

bool SharedMemory::is_lost() const {
  return guards[guard_].lost.load();
}

}  // namespace holdfast
