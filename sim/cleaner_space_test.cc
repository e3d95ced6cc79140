// SPDX-License-Identifier: Apache-2.0
//
// The space that a volume takes under a guest that overwrites without pause, in virtual time, on a
// disk that answers late but with any number of requests at once: a cleaner that has one in flight
// must not be outrun there.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "pool/open_pool.h"
#include "sim/prng.h"
#include "sim/test_world.h"
#include "volume/volume.h"

namespace holdfast::sim {
namespace {

struct Load {
  std::size_t depth = 1;
  std::uint64_t request_bytes = kBlockBytes;
};

class NeverPausing {
 public:
  static constexpr std::uint64_t kVolumeBytes = 48 * kMiB;

  explicit NeverPausing(Load load) : load_(load), prng_(7) {
    PoolCreateOptions pool_options;
    pool_options.segment_bytes = limits::kSegmentBytesMin;
    const PoolContext context{*world_.host, *world_.files, "a test"};
    pool_ = world_.run(create_pool(context, "dir:/pool", pool_options)).value();
    world_.faults.enabled = true;  // delays only
    VolumeCreateOptions volume;
    volume.id.bytes[0] = std::byte{7};
    volume.name = "disk";
    volume.size_bytes = kVolumeBytes;
    EXPECT_TRUE(world_.run(Volume::create(*world_.host, *pool_, volume)).ok());
    const VolumeOptions options{.checkpoint_log_bytes = 16 * kMiB};
    volume_ = world_.run(Volume::open(*world_.host, *pool_, volume.id, options)).value();
    data_ = AlignedBuffer(load_.request_bytes);
    std::fill_n(data_.data(), load_.request_bytes, std::byte{1});
    for (std::size_t i = 0; i < load_.depth; ++i) {
      slots_.push_back(std::make_unique<Slot>());
      slots_.back()->load = this;
    }
  }
  ~NeverPausing() {
    EXPECT_TRUE(world_.run(volume_->close()).ok());
    volume_.reset();
    pool_.reset();
  }

  // So many times the volume; first in order.
  void overwrite(std::uint64_t times) {
    left_ = times * kVolumeBytes / load_.request_bytes;
    for (const auto& slot : slots_) next(*slot);
    world_.run_until([this] { return in_flight_ == 0; });
  }
  std::uint64_t segment_bytes_max() const { return segment_bytes_max_; }
  VolumeStatistics statistics() const { return volume_->statistics(); }

 private:
  struct Slot {
    NeverPausing* load = nullptr;
    BlockRequest request;
    iovec buffer{};
  };

  void next(Slot& slot) {
    if (left_ == 0) return;
    --left_;
    ++in_flight_;
    const std::uint64_t places = kVolumeBytes / load_.request_bytes;
    const std::uint64_t place = filled_ < places ? filled_++ : prng_.between(0, places - 1);
    slot.buffer = {data_.data(), load_.request_bytes};
    slot.request = BlockRequest{};
    slot.request.operation = BlockOperation::write;
    slot.request.offset_bytes = place * load_.request_bytes;
    slot.request.length_bytes = load_.request_bytes;
    slot.request.buffers = std::span<const iovec>(&slot.buffer, 1);
    slot.request.context = &slot;
    slot.request.on_complete = [](BlockRequest& request, BlockStatus status) {
      auto* done = static_cast<Slot*>(request.context);
      EXPECT_EQ(status, BlockStatus::ok);
      done->load->completed(*done);
    };
    volume_->submit(slot.request);
  }
  void completed(Slot& slot) {
    --in_flight_;
    segment_bytes_max_ = std::max(segment_bytes_max_, volume_->statistics().segment_bytes);
    next(slot);
  }

  const Load load_;
  World world_;
  Prng prng_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<Volume> volume_;
  AlignedBuffer data_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::uint64_t filled_ = 0;
  std::uint64_t left_ = 0;
  std::size_t in_flight_ = 0;
  std::uint64_t segment_bytes_max_ = 0;
};

// Live data at the start's share and the points beyond it at which the guest waits; an eighth that
// waits for a checkpoint, and as much that dies while that is written; and segments that are open,
// about to be, or victims of one round.
std::uint64_t space_bound() {
  const double garbage = (limits::kCleanerStartPercent + limits::kCleanerPressurePercent) / 100;
  const double sealed = static_cast<double>(NeverPausing::kVolumeBytes) / (1 - garbage);
  const double unfreed = 2 * sealed / limits::kUnfreedShareDivisor;
  return static_cast<std::uint64_t>(sealed + unfreed) + 24 * limits::kSegmentBytesMin;
}

TEST(CleanerSpace, SmallOverwritesWithoutPauseTakeBoundedSpace) {
  NeverPausing guest({.depth = 32});
  guest.overwrite(8);
  EXPECT_GT(guest.statistics().moved_blocks, 0u);
  EXPECT_LT(guest.segment_bytes_max(), space_bound());
}

TEST(CleanerSpace, OverwritesFasterThanTheCleanerAreHeldUpRatherThanFillThePool) {
  NeverPausing guest({.depth = 64, .request_bytes = 64 * kKiB});
  guest.overwrite(16);
  EXPECT_GT(guest.statistics().moved_blocks, 0u);
  EXPECT_GT(guest.statistics().delayed_writes, 0u);
  EXPECT_LT(guest.segment_bytes_max(), space_bound());
}

TEST(CleanerSpace, SingleWritesTakeBoundedSpaceThoughHalfOfTheirLogIsHeaders) {
  NeverPausing guest({.depth = 1});
  guest.overwrite(5);
  EXPECT_LT(guest.segment_bytes_max(), space_bound());
  EXPECT_EQ(guest.statistics().delayed_writes, 0u);
}

}  // namespace
}  // namespace holdfast::sim
