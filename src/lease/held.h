// SPDX-License-Identifier: Apache-2.0
//
// What a LeaseKeeper keeps of each volume. For lease_keeper.cc and volume_leases.cc only.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "lease/lease_keeper.h"

namespace holdfast {

// A volume's lease on storage, and memory to read all of it and to write a sector of it.
struct LeaseKeeper::Area {
  Area(VolumeId id, std::unique_ptr<File> opened, const format::LeaseGeometry& geometry)
      : volume(id),
        file(std::move(opened)),
        buffer(geometry.align_bytes),
        sector(geometry.sector_bytes) {}

  const VolumeId volume;
  const std::unique_ptr<File> file;
  const AlignedBuffer buffer;
  const AlignedBuffer sector;
};

// A volume that is ours.
struct LeaseKeeper::Held {
  std::unique_ptr<Area> area;
  format::LeaseLeader leader;  // the newest ownership of ours
  std::shared_ptr<Fence> fence;
  // The host lease has lapsed: others may have decided to take the volume, and may do it at any
  // time. Only a ballot that we win shows that they have not.
  bool is_lapsed = false;
  bool busy = false;  // a coroutine uses `area`
  bool is_gone = false;
  bool is_announced = false;  // somebody will ask for it, so that requests are looked at often
  bool is_wanted = false;     // somebody asks for it now, and the owner was told
  // Others may share it, too, and nobody changes it: so it has been since this ownership of ours.
  std::optional<Epoch> shared_since;
};

}  // namespace holdfast
