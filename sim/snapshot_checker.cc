// SPDX-License-Identifier: Apache-2.0
#include "sim/snapshot_checker.h"

#include <algorithm>

#include "sim/guest.h"

namespace holdfast::sim {
namespace {

constexpr std::size_t kSnapshotsMax = 4;
constexpr std::size_t kClonesMax = 2;

}  // namespace

SnapshotChecker::Kept* SnapshotChecker::find(const std::string& name) {
  const auto at =
      std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return kept.name == name; });
  return at == kept_.end() ? nullptr : &*at;
}

void SnapshotChecker::add(const std::string& name) {
  kept_.emplace_back();
  kept_.back().name = name;
  kept_.back().state = Kept::State::maybe_made;
}

bool SnapshotChecker::has_clone(const std::string& name) const {
  return std::any_of(kept_.begin(), kept_.end(),
                     [&](const Kept& kept) { return kept.is_clone && kept.parent == name; });
}

void SnapshotChecker::forget(const std::string& name) {
  std::erase_if(kept_, [&](const Kept& kept) { return kept.name == name; });
}

const SnapshotChecker::Kept* SnapshotChecker::pick_for_rollback() {
  if (is_busy_ || kept_.empty()) return nullptr;
  const Kept& kept = kept_[prng_.below(kept_.size())];
  const bool is_known = kept.state == Kept::State::there && !kept.content.empty();
  return is_known && !kept.is_clone ? &kept : nullptr;
}

Task<void> SnapshotChecker::act(Subject* subject) {
  if (is_busy_) co_return;
  is_busy_ = true;
  const auto clones = static_cast<std::size_t>(
      std::count_if(kept_.begin(), kept_.end(), [](const Kept& kept) { return kept.is_clone; }));
  std::string name = kept_.empty() ? std::string() : kept_[prng_.below(kept_.size())].name;
  const Kept* const kept = find(name);
  const bool is_snapshot = kept != nullptr && !kept->is_clone;
  if (kept == nullptr || (kept_.size() - clones < kSnapshotsMax && prng_.chance(0.4))) {
    co_await take(subject);
  } else if (is_snapshot && clones < kClonesMax && kept->state == Kept::State::there &&
             prng_.chance(0.2)) {
    co_await make_clone(subject, std::move(name));
  } else if (is_snapshot && !has_clone(name) && prng_.chance(0.4)) {
    co_await remove(subject, std::move(name));
  } else {
    co_await read(subject, std::move(name));
  }
  is_busy_ = false;
}

Task<void> SnapshotChecker::take(Subject* subject) {
  std::string name = "s" + std::to_string(next_name_++);
  add(name);
  if (scheduler_.tracing()) scheduler_.trace("takes snapshot " + name);
  // What it shows was there at some moment in between.
  const VolumeModel::Token token = model_.begin_read();
  std::string wanted = name;
  const Result<void> taken = co_await subject->create_snapshot(std::move(wanted));
  if (!taken.ok()) {
    model_.end_read(token);
    on_error_("taking a snapshot", taken.error());
    co_return;  // it may come to be
  }
  find(name)->state = Kept::State::there;
  std::string to_read = name;
  auto content = co_await subject->read_snapshot(std::move(to_read));
  if (content.ok()) {
    model_.check_read(token, 0, *content);
    find(name)->content = std::move(content).value();
  } else {
    on_error_("reading a snapshot", content.error());
  }
  model_.end_read(token);
}

Task<void> SnapshotChecker::remove(Subject* subject, std::string name) {
  find(name)->state = Kept::State::maybe_removed;
  if (scheduler_.tracing()) scheduler_.trace("removes snapshot " + name);
  std::string wanted = name;
  const Result<void> removed = co_await subject->remove_snapshot(std::move(wanted));
  if (removed.ok()) {
    forget(name);
  } else if (removed.error().code() != ErrorCode::not_found) {
    on_error_("removing a snapshot", removed.error());
  }
}

Task<void> SnapshotChecker::make_clone(Subject* subject, std::string parent) {
  std::string name = "c" + std::to_string(next_name_++);
  add(name);
  find(name)->is_clone = true;
  find(name)->parent = parent;
  find(name)->content = find(parent)->content;
  if (scheduler_.tracing()) scheduler_.trace("clones snapshot " + parent + " as " + name);
  std::string wanted = name;
  const Result<void> made = co_await subject->clone(std::move(parent), std::move(wanted));
  if (!made.ok()) {
    on_error_("cloning", made.error());
    co_return;
  }
  find(name)->state = Kept::State::there;
  co_await read(subject, std::move(name));
}

Task<void> SnapshotChecker::read(Subject* subject, std::string name) {
  const Kept::State before = find(name)->state;
  if (scheduler_.tracing()) scheduler_.trace("reads " + name);
  std::string wanted = name;
  auto task = find(name)->is_clone ? subject->read_clone(std::move(wanted))
                                   : subject->read_snapshot(std::move(wanted));
  auto content = co_await task;
  if (!content.ok()) {
    if (content.error().code() != ErrorCode::not_found || before == Kept::State::there) {
      on_error_("reading a snapshot or clone", content.error());
    }
    co_return;
  }
  Kept* const kept = find(name);
  if (kept->content.empty()) {
    kept->content = std::move(content).value();
  } else if (kept->content != *content) {
    const auto differing =
        std::mismatch(kept->content.begin(), kept->content.end(), content->begin(), content->end());
    scheduler_.fail("snapshots do not change",
                    name + " shows other bytes than before, from byte " +
                        std::to_string(differing.first - kept->content.begin()) + " on (" +
                        std::to_string(content->size()) + " bytes in all)");
  }
}

Task<void> SnapshotChecker::check_all(Subject* subject) {
  is_busy_ = true;
  std::vector<std::string> listed = subject->snapshots();
  for (std::size_t i = kept_.size(); i-- != 0;) {
    Kept& kept = kept_[i];
    if (kept.is_clone) continue;
    const auto at = std::find(listed.begin(), listed.end(), kept.name);
    const bool is_there = at != listed.end();
    if (is_there) listed.erase(at);
    if (is_there) {
      // One whose removal was cut may still go with the next loss of power.
      if (kept.state == Kept::State::maybe_made) kept.state = Kept::State::there;
    } else if (kept.state == Kept::State::there) {
      scheduler_.fail("snapshots stay", "snapshot " + kept.name + " is gone");
    } else {
      std::string name = kept.name;
      forget(name);
    }
  }
  if (!listed.empty()) {
    scheduler_.fail("snapshots stay", "there is a snapshot " + listed[0] + " that nobody took");
  }
  std::vector<std::string> names;
  for (const Kept& kept : kept_) names.push_back(kept.name);
  for (const std::string& name : names) {
    if (scheduler_.failed()) break;
    std::string one = name;
    co_await read(subject, std::move(one));
  }
  is_busy_ = false;
}

}  // namespace holdfast::sim
