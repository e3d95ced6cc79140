// SPDX-License-Identifier: Apache-2.0
//
// A block device of a few lines that is right, unless told to be wrong in one way: it proves that
// the checks of the simulator pass what is right and catch what is wrong.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "sim/volume_run.h"

namespace holdfast::sim {

enum class ReferenceBug {
  none,
  acknowledge_early,     // before the write is in the log
  flush_does_nothing,    // flushed data is lost with the power
  lose_from_the_middle,  // what survives a power loss is no prefix
  stale_read,            // now and then a read returns what was there before the last write
  torn_write,            // now and then the last sector of a write is not written
  misplaced_write,       // now and then a write lands one block further
  forget_request,        // now and then a request is never answered
  answer_error,          // now and then a request fails
  answer_twice,
  reorder_answers,  // against the log order
  zeroes_do_nothing,
  status_lies,        // a written block is said to be a hole
  shrink_keeps_data,  // what was cut off is back when the device grows again
  lose_acknowledged,  // a restart forgets the last acknowledged write
};

// What is stored, over the lives of the processes.
struct ReferenceStore {
  struct Entry {
    std::uint64_t offset_bytes = 0;
    std::vector<std::byte> bytes;
  };
  std::vector<std::byte> durable;
  std::vector<Entry> log;  // applied, not durable
  std::uint64_t size_bytes = 0;
};

class ReferenceFactory final : public SubjectFactory {
 public:
  explicit ReferenceFactory(ReferenceBug bug) : bug_(bug) {}
  Task<Result<void>> create(SimHost& host, SimFileSystem& files, const RunPlan& plan) override;
  std::unique_ptr<Subject> make(SimHost& host, SimFileSystem& files, const RunPlan& plan) override;
  void crashed(CrashKind kind) override;

 private:
  ReferenceBug bug_;
  ReferenceStore store_;
  Prng prng_{1};
};

}  // namespace holdfast::sim
