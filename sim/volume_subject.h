// SPDX-License-Identifier: Apache-2.0
//
// The real thing as a run's device: a Volume on a DirPool on the simulated storage.
#pragma once

#include <memory>

#include "base/ids.h"
#include "sim/volume_run.h"

namespace holdfast::sim {

class VolumeFactory final : public SubjectFactory {
 public:
  Task<Result<void>> create(SimHost& host, SimFileSystem& files, const RunPlan& plan) override;
  std::unique_ptr<Subject> make(SimHost& host, SimFileSystem& files, const RunPlan& plan) override;

 private:
  VolumeId id_;
};

}  // namespace holdfast::sim
