// SPDX-License-Identifier: Apache-2.0
//
// StoreTrap: calls back before every single store of this thread into shared memory, as made
// through mappings that are not the test's own. So a test sees all states in which the death of a
// process can leave its shared memory. By protecting the pages: a store faults, the test looks, and
// the processor makes one step.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "base/assert.h"
#include "serve/vhost/testing_guest.h"

namespace holdfast::vhost {

class StoreTrap {
 public:
  struct Place {
    const TestMemory* memory;
    std::size_t size_bytes;  // of its front that is watched; whole pages
  };

  StoreTrap(const std::vector<Place>& places, std::function<void()> before_store)
      : before_store_(std::move(before_store)) {
    for (const Place& place : places) find_mappings(place);
    HOLDFAST_ASSERT(active_ == nullptr);
    active_ = this;
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = &on_fault;
    sigaction(SIGSEGV, &action, &old_fault_);
    action.sa_sigaction = &on_step;
    sigaction(SIGTRAP, &action, &old_step_);
    protect(PROT_READ);
  }
  StoreTrap(const StoreTrap&) = delete;
  StoreTrap& operator=(const StoreTrap&) = delete;
  ~StoreTrap() {
    protect(PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &old_fault_, nullptr);
    sigaction(SIGTRAP, &old_step_, nullptr);
    active_ = nullptr;
  }

  std::size_t mapping_count() const { return ranges_.size(); }

 private:
  static constexpr greg_t kTrapFlag = 0x100;
  struct Range {
    std::uintptr_t begin;
    std::size_t size_bytes;
  };

  void find_mappings(const Place& place) {
    struct stat status {};
    HOLDFAST_ASSERT(fstat(place.memory->descriptor().get(), &status) == 0);
    FILE* const maps = fopen("/proc/self/maps", "r");
    HOLDFAST_ASSERT(maps != nullptr);
    char line[512];
    while (fgets(line, sizeof line, maps) != nullptr) {
      unsigned long begin = 0;
      unsigned long inode = 0;
      if (sscanf(line, "%lx-%*x %*s %*x %*s %lu", &begin, &inode) != 2) continue;
      if (inode != status.st_ino) continue;
      if (begin == reinterpret_cast<std::uintptr_t>(place.memory->data())) continue;
      ranges_.push_back({begin, place.size_bytes});
    }
    fclose(maps);
  }
  void protect(int protection) const {
    for (const Range& range : ranges_) {
      mprotect(reinterpret_cast<void*>(range.begin), range.size_bytes, protection);
    }
  }
  static greg_t& flags_of(void* context) {
    return static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL];
  }
  static void on_fault(int signal, siginfo_t* information, void* context) {
    const auto address = reinterpret_cast<std::uintptr_t>(information->si_addr);
    for (const Range& range : active_->ranges_) {
      if (address - range.begin >= range.size_bytes) continue;
      active_->before_store_();
      active_->protect(PROT_READ | PROT_WRITE);
      flags_of(context) |= kTrapFlag;
      return;
    }
    sigaction(signal, &active_->old_fault_, nullptr);  // a real one
  }
  static void on_step(int, siginfo_t*, void* context) {
    flags_of(context) &= ~kTrapFlag;
    active_->protect(PROT_READ);
  }

  static inline StoreTrap* active_ = nullptr;

  std::function<void()> before_store_;
  std::vector<Range> ranges_;
  struct sigaction old_fault_ {};
  struct sigaction old_step_ {};
};

}  // namespace holdfast::vhost
