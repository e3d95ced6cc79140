// SPDX-License-Identifier: Apache-2.0
//
// Operations on one name happen one after the other; those on different names at once.
// Thread: the executor's.
#pragma once

#include <set>
#include <string>
#include <utility>

#include "io/task.h"

namespace holdfast {

class NameLocks {
 public:
  explicit NameLocks(Executor& executor) : released_(executor) {}

  // Held while it lives.
  class Lock {
   public:
    Lock(NameLocks& owner, std::string name) : owner_(&owner), name_(std::move(name)) {}
    Lock(Lock&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), name_(std::move(other.name_)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock() {
      if (owner_ == nullptr) return;
      owner_->held_.erase(name_);
      owner_->released_.notify_all();
    }

   private:
    NameLocks* owner_;
    std::string name_;
  };

  Task<Lock> acquire(std::string name) {
    while (held_.contains(name)) co_await released_.wait();
    held_.insert(name);
    co_return Lock(*this, std::move(name));
  }

 private:
  std::set<std::string> held_;
  Condition released_;
};

}  // namespace holdfast
