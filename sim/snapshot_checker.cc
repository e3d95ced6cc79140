// SPDX-License-Identifier: Apache-2.0
#include "sim/snapshot_checker.h"

#include <algorithm>

#include "sim/guest.h"

namespace holdfast::sim {
namespace {

constexpr std::size_t kSnapshotsMax = 4;
constexpr std::size_t kSnapshotsOfCloneMax = 2;
constexpr std::size_t kClonesMax = 3;
constexpr std::size_t kActionsMax = 10;
constexpr std::uint64_t kBlock = 4096;

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
  return is_known && !kept.is_clone && kept.of.empty() ? &kept : nullptr;
}

Task<void> SnapshotChecker::act(Subject* subject) {
  if (is_busy_) co_return;
  is_busy_ = true;
  const auto clones = static_cast<std::size_t>(
      std::count_if(kept_.begin(), kept_.end(), [](const Kept& kept) { return kept.is_clone; }));
  std::string name = kept_.empty() ? std::string() : kept_[prng_.below(kept_.size())].name;
  const Kept* const kept = find(name);
  const bool is_snapshot = kept != nullptr && !kept->is_clone;
  if (kept == nullptr || (count_snapshots("") < kSnapshotsMax && prng_.chance(0.3))) {
    co_await take(subject);
  } else if (!is_snapshot) {
    co_await act_on_clone(subject, std::move(name));
  } else if (is_snapshot && clones < kClonesMax && kept->state == Kept::State::there &&
             prng_.chance(0.5)) {
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
  const std::string of = find(name)->of;
  Result<void> removed;
  if (of.empty()) {
    std::string wanted = name;
    removed = co_await subject->remove_snapshot(std::move(wanted));
  } else {
    std::vector<CloneAction> actions(1);
    actions[0].kind = CloneAction::Kind::remove;
    actions[0].name = name;
    std::string clone = of;
    const auto worked = co_await subject->work_on_clone(std::move(clone), std::move(actions));
    if (!worked.ok()) removed = worked.error();
  }
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
  std::string of = find(parent)->of;
  const Result<void> made =
      co_await subject->clone(std::move(of), std::move(parent), std::move(wanted));
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
  const bool is_clone = find(name)->is_clone;
  std::string of = is_clone ? name : find(name)->of;
  const bool is_of_clone = !is_clone && !of.empty();
  const Kept* const clone = of.empty() ? nullptr : find(of);
  const bool is_flat = clone != nullptr && clone->parent.empty();
  std::string snapshot = is_clone ? std::string() : name;
  auto task = of.empty() ? subject->read_snapshot(std::move(wanted))
                         : subject->read_clone(std::move(of), std::move(snapshot), is_flat);
  auto content = co_await task;
  if (!content.ok()) {
    if (content.error().code() != ErrorCode::not_found || before == Kept::State::there) {
      on_error_("reading a snapshot or clone", content.error());
    } else if (is_of_clone) {
      forget(name);
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

// --- Clones ---

std::size_t SnapshotChecker::count_snapshots(const std::string& of) const {
  return static_cast<std::size_t>(std::count_if(kept_.begin(), kept_.end(), [&](const Kept& kept) {
    return !kept.is_clone && kept.of == of;
  }));
}

Task<void> SnapshotChecker::act_on_clone(Subject* subject, std::string name) {
  const bool is_there = find(name)->state == Kept::State::there;
  if (!is_there || prng_.chance(0.2)) {
    co_await read(subject, std::move(name));
  } else if (count_snapshots(name) == 0 && prng_.chance(0.1)) {
    co_await remove_clone(subject, std::move(name));
  } else {
    co_await work(subject, std::move(name));
  }
}

// One that may be there after a crash is nobody's: it is not read again.
Task<void> SnapshotChecker::remove_clone(Subject* subject, std::string name) {
  if (scheduler_.tracing()) scheduler_.trace("removes clone " + name);
  find(name)->state = Kept::State::maybe_removed;
  std::string wanted = name;
  const Result<void> removed = co_await subject->remove_clone(std::move(wanted));
  if (removed.ok()) {
    forget(name);
  } else {
    on_error_("removing a clone", removed.error());
  }
}

CloneAction SnapshotChecker::pick_write(std::vector<std::byte>* content) {
  CloneAction action;
  const std::uint64_t blocks = content->size() / kBlock;
  action.block = prng_.below(blocks);
  action.blocks = 1 + prng_.below(std::min<std::uint64_t>(blocks - action.block, 8));
  if (prng_.chance(0.2)) {
    action.kind = CloneAction::Kind::zero;
    if (prng_.chance(0.5)) {  // all that the clone came with dies, but for its snapshots
      action.block = 0;
      action.blocks = blocks;
    }
  } else {
    action.kind = CloneAction::Kind::write;
    action.value = static_cast<std::uint8_t>(prng_.between(1, 255));
  }
  std::fill_n(content->begin() + static_cast<std::ptrdiff_t>(action.block * kBlock),
              action.blocks * kBlock, static_cast<std::byte>(action.value));
  return action;
}

// Changes `content` to what it will be.
std::vector<CloneAction> SnapshotChecker::pick_actions(const std::string& clone,
                                                       std::vector<std::byte>* content) {
  std::vector<CloneAction> actions;
  const std::uint64_t count = prng_.between(1, kActionsMax);
  for (std::uint64_t i = 0; i < count; ++i) {
    CloneAction action;
    const double choice = static_cast<double>(prng_.below(100));
    if (choice < 45) {
      action = pick_write(content);
    } else if (choice < 60 && count_snapshots(clone) < kSnapshotsOfCloneMax) {
      action.kind = CloneAction::Kind::take;
      action.name = "s" + std::to_string(next_name_++);
      add(action.name);
      find(action.name)->of = clone;
      find(action.name)->content = *content;
    } else if (choice < 66) {
      for (const Kept& kept : kept_) {
        if (kept.of != clone || kept.content.empty()) continue;
        action.kind = CloneAction::Kind::rollback;
        action.name = kept.name;
        *content = kept.content;
        break;
      }
      if (action.name.empty()) continue;
    } else {
      action.kind = CloneAction::Kind::flatten_some;
    }
    actions.push_back(action);
  }
  if (prng_.chance(0.5)) {
    CloneAction action;
    action.kind = CloneAction::Kind::flatten;
    actions.push_back(action);
  }
  return actions;
}

Task<void> SnapshotChecker::work(Subject* subject, std::string name) {
  if (find(name)->content.empty()) {
    std::string to_read = name;
    co_await read(subject, std::move(to_read));
  }
  std::vector<std::byte> content = find(name)->content;
  // A snapshot that may be there or not could not be rolled back to, nor counted on.
  const bool is_certain = std::none_of(kept_.begin(), kept_.end(), [&](const Kept& kept) {
    return kept.of == name && kept.state != Kept::State::there;
  });
  if (content.empty() || !is_certain) co_return;
  std::vector<CloneAction> actions = pick_actions(name, &content);
  if (scheduler_.tracing()) {
    scheduler_.trace("does " + std::to_string(actions.size()) + " things with clone " + name);
  }
  find(name)->content.clear();  // a prefix of the actions, if this is cut
  std::string wanted = name;
  const Result<bool> flat = co_await subject->work_on_clone(std::move(wanted), actions);
  if (!flat.ok()) {
    on_error_("working on a clone", flat.error());
    co_return;
  }
  find(name)->content = std::move(content);
  if (flat.value()) find(name)->parent.clear();
  for (const CloneAction& action : actions) {
    if (action.kind == CloneAction::Kind::take) find(action.name)->state = Kept::State::there;
  }
}

// --- All ---

Task<void> SnapshotChecker::check_all(Subject* subject) {
  is_busy_ = true;
  std::vector<std::string> listed = subject->snapshots();
  for (std::size_t i = kept_.size(); i-- != 0;) {
    Kept& kept = kept_[i];
    if (kept.is_clone || !kept.of.empty()) continue;
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
    if (find(name) == nullptr) continue;
    std::string one = name;
    co_await read(subject, std::move(one));
  }
  is_busy_ = false;
}

}  // namespace holdfast::sim
