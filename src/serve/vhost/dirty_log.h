// SPDX-License-Identifier: Apache-2.0
//
// The log of the guest's pages that the device has written to, for a live migration ("Migration" in
// QEMU's docs/interop/vhost-user.rst): a bit for each 4096 bytes of the guest's addresses, from 0
// on, in memory of the front-end. The front-end takes a bit and then copies the page, so a page is
// marked after what was written to it.
//
// The memory is another process's too. Nothing is read from it but our own marks.
// Thread: one. Owner: a session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "io/descriptor.h"
#include "io/shared_memory.h"

namespace holdfast::vhost {

class DirtyLog {
 public:
  struct Place {
    std::uint64_t size_bytes = 0;
    std::uint64_t offset_bytes = 0;
  };
  // From now on marks go there. Refused: too big, a file that cannot be mapped, or one that does
  // not reach up to `guest_end`, behind the highest address of the guest's memory.
  Result<void> adopt(const Descriptor& file, const Place& place, std::uint64_t guest_end);
  // What is marked in this log until another one is adopted shall be marked there, too: nobody may
  // be looking at this one any more.
  void expect_successor() { is_old_ = memory_ != nullptr; }
  void drop() {
    memory_ = nullptr;
    is_old_ = false;
  }

  bool is_there() const { return memory_ != nullptr; }
  bool is_lost() const { return memory_ != nullptr && memory_->is_lost(); }
  bool covers(std::uint64_t guest_address, std::uint64_t size_bytes) const;
  // False: not all of it is in the log; nothing was marked.
  bool mark(std::uint64_t guest_address, std::uint64_t size_bytes);

 private:
  void copy_marks_to(SharedMemory& other) const;

  std::unique_ptr<SharedMemory> memory_;
  bool is_old_ = false;
};

}  // namespace holdfast::vhost
