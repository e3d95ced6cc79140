// SPDX-License-Identifier: Apache-2.0
//
// The armed timers of one executor, by deadline. Arming, moving and cancelling are O(log n); in the
// steady state nothing is allocated (nodes of fired timers are kept for the next).
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "io/executor.h"

namespace holdfast {

class TimerQueue {
 public:
  TimerQueue() = default;
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;
  // Timers that outlive their executor become idle.
  ~TimerQueue() {
    for (Timer* timer : timers_) timer->executor_ = nullptr;
  }

  bool empty() const { return timers_.empty(); }
  std::size_t size() const { return timers_.size(); }
  // Of the next timer to fire; the queue must not be empty.
  MonotonicTime next_deadline() const { return (*timers_.begin())->deadline_; }

  void arm(Timer& timer, Executor& executor, MonotonicTime deadline) {
    Node node = timer.is_armed() ? timers_.extract(timers_.find(&timer)) : take_spare();
    timer.executor_ = &executor;
    timer.deadline_ = deadline;
    timer.order_ = next_order_++;
    if (node.empty()) {
      timers_.insert(&timer);
    } else {
      node.value() = &timer;
      timers_.insert(std::move(node));
    }
  }
  void cancel(Timer& timer) {
    if (timer.is_armed()) release(timers_.extract(timers_.find(&timer)), timer);
  }
  // Takes the next timer whose deadline has come out of the queue, or gives nullptr. With
  // `order_limit` (see order_mark) only timers armed before the mark count, so that a timer that
  // arms itself at once cannot keep its executor busy for ever.
  Timer* pop_due(MonotonicTime now, std::uint64_t order_limit) {
    if (timers_.empty()) return nullptr;
    Timer* timer = *timers_.begin();
    if (timer->deadline_ > now || timer->order_ >= order_limit) return nullptr;
    release(timers_.extract(timers_.begin()), *timer);
    return timer;
  }
  std::uint64_t order_mark() const { return next_order_; }
  static void fire(Timer& timer) { timer.callback_(timer.context_); }

 private:
  static constexpr std::size_t kSpareNodesMax = 64;

  struct Earlier {
    bool operator()(const Timer* a, const Timer* b) const {
      return a->deadline_ != b->deadline_ ? a->deadline_ < b->deadline_ : a->order_ < b->order_;
    }
  };
  using Timers = std::set<Timer*, Earlier>;
  using Node = Timers::node_type;

  Node take_spare() {
    if (spare_.empty()) return {};
    Node node = std::move(spare_.back());
    spare_.pop_back();
    return node;
  }
  void release(Node node, Timer& timer) {
    timer.executor_ = nullptr;
    if (spare_.size() < kSpareNodesMax) spare_.push_back(std::move(node));
  }

  Timers timers_;
  std::vector<Node> spare_;
  std::uint64_t next_order_ = 0;
};

}  // namespace holdfast
