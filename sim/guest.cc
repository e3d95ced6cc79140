// SPDX-License-Identifier: Apache-2.0
#include "sim/guest.h"

#include <algorithm>
#include <cstring>

namespace holdfast::sim {
namespace {

constexpr std::uint64_t kVerifyBytes = 128 * kKiB;
constexpr std::uint32_t kVerifyDepth = 4;

const char* operation_name(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::read:
      return "read";
    case BlockOperation::write:
      return "write";
    case BlockOperation::flush:
      return "flush";
    case BlockOperation::discard:
      return "discard";
    case BlockOperation::write_zeroes:
      return "write zeroes";
  }
  return "?";
}

const char* status_name(BlockStatus status) {
  switch (status) {
    case BlockStatus::ok:
      return "ok";
    case BlockStatus::out_of_range:
      return "out of range";
    case BlockStatus::read_only:
      return "read only";
    case BlockStatus::medium_error:
      return "medium error";
    case BlockStatus::shutting_down:
      return "shutting down";
    case BlockStatus::cancelled:
      return "cancelled";
    case BlockStatus::hold_expired:
      return "hold expired";
  }
  return "?";
}

bool is_write(BlockOperation operation) {
  return operation == BlockOperation::write || operation == BlockOperation::discard ||
         operation == BlockOperation::write_zeroes;
}

WriteKind kind_of(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::discard:
      return WriteKind::discard;
    case BlockOperation::write_zeroes:
      return WriteKind::zeros;
    default:
      return WriteKind::data;
  }
}

constexpr std::uint64_t kOperationsBeforeActs = 12;
constexpr std::uint64_t kSnapshotSalt = 0x534E4150;

Task<Result<void>> no_snapshots() {
  co_return Error(ErrorCode::unsupported, "this device has no snapshots");
}

}  // namespace

Task<Result<void>> Subject::create_snapshot(std::string) {
  return no_snapshots();
}
Task<Result<void>> Subject::remove_snapshot(std::string) {
  return no_snapshots();
}
Task<Result<void>> Subject::rollback(std::string) {
  return no_snapshots();
}
Task<Result<void>> Subject::clone(std::string, std::string, std::string) {
  return no_snapshots();
}
Task<Result<void>> Subject::remove_clone(std::string) {
  return no_snapshots();
}
Task<Result<bool>> Subject::work_on_clone(std::string, std::vector<CloneAction>) {
  co_return Error(ErrorCode::unsupported, "this device has no clones");
}
Task<Result<std::vector<std::byte>>> Subject::read_snapshot(std::string) {
  co_return Error(ErrorCode::unsupported, "this device has no snapshots");
}
Task<Result<std::vector<std::byte>>> Subject::read_clone(std::string, std::string, bool) {
  co_return Error(ErrorCode::unsupported, "this device has no clones");
}

Guest::Guest(Scheduler& scheduler, const RunPlan& plan, VolumeModel& model)
    : scheduler_(scheduler),
      plan_(plan),
      model_(model),
      prng_(scheduler.prng().fork()),
      snapshots_(scheduler, model, Prng(plan.seed ^ kSnapshotSalt),
                 [this](const char* what, const Error& error) { check_control(what, error); }) {}

Guest::~Guest() = default;

void Guest::attach(SimHost& host, Subject& subject) {
  host_ = &host;
  subject_ = &subject;
  tasks_ = std::make_unique<TaskScope>();
  closing_ = resizing_ = is_rolling_back_ = false;
  snapshots_.begin_process();
  outstanding_ = controls_ = 0;
  operations_left_ = 0;
  usable_bytes_ = model_.size_bytes();
}

void Guest::detach() {
  tasks_.reset();
  for (auto& slot : slots_) {
    slot->is_busy = false;
    slot->request.device_link.unlink();
  }
  host_ = nullptr;
  subject_ = nullptr;
  verifying_ = false;
  operations_left_ = outstanding_ = controls_ = 0;
}

void Guest::start(std::uint32_t operations) {
  operations_left_ = operations;
  pump();
}

void Guest::pump() {
  while (host_ != nullptr && !is_rolling_back_ && operations_left_ != 0 &&
         outstanding_ < plan_.queue_depth)
    issue();
}

// After a completion: the next requests come from inside it, or a while later.
void Guest::go_on() {
  if (operations_left_ == 0) return;
  if (prng_.chance(plan_.immediate_chance)) {
    pump();
    return;
  }
  scheduler_.schedule(scheduler_.now() + prng_.between(Duration(0), plan_.think_max), host_,
                      EventKind::post, [this] { pump(); });
}

Guest::Choice Guest::choose() {
  const std::pair<Choice, std::uint32_t> weights[] = {
      {Choice::read, plan_.read_weight},
      {Choice::write, plan_.write_weight},
      {Choice::flush, plan_.flush_weight},
      {Choice::discard, plan_.discard_weight},
      {Choice::zeroes, plan_.zeroes_weight},
      {Choice::status, plan_.status_weight},
      {Choice::checkpoint, plan_.checkpoint_weight},
      {Choice::resize, plan_.resize_weight},
      {Choice::snapshot, plan_.snapshot_weight},
      {Choice::rollback, plan_.rollback_weight},
  };
  std::uint64_t total = 0;
  for (const auto& [choice, weight] : weights) total += weight;
  std::uint64_t at = prng_.below(total);
  for (const auto& [choice, weight] : weights) {
    if (at < weight) return choice;
    at -= weight;
  }
  return Choice::write;
}

void Guest::issue() {
  --operations_left_;
  ++operations_;
  if (plan_.cancel_chance > 0 && prng_.chance(plan_.cancel_chance)) cancel_some();
  const Choice choice = choose();
  const bool is_control = choice == Choice::status || choice == Choice::checkpoint ||
                          choice == Choice::resize || choice == Choice::snapshot ||
                          choice == Choice::rollback;
  if (is_control) {
    const bool is_snapshot = choice == Choice::snapshot || choice == Choice::rollback;
    if (!resizing_ && (!is_snapshot || subject_->has_snapshots())) issue_control(choice);
    return;
  }
  Slot& slot = free_slot();
  if (prng_.chance(0.01) && !resizing_) {
    submit_odd_request(slot);
    return;
  }
  pick_range(slot.request);
  switch (choice) {
    case Choice::read:
      submit(slot, BlockOperation::read);
      break;
    case Choice::flush:
      submit(slot, BlockOperation::flush);
      break;
    case Choice::discard:
      submit(slot, BlockOperation::discard);
      break;
    case Choice::zeroes:
      submit(slot, BlockOperation::write_zeroes);
      break;
    default:
      submit(slot, BlockOperation::write);
      break;
  }
}

void Guest::cancel_some() {
  for (const auto& slot : slots_) {
    if (!slot->is_busy || slot->is_verification || !prng_.chance(0.5)) continue;
    if (scheduler_.tracing()) scheduler_.trace("guest cancels " + describe(*slot));
    slot->was_cancelled = true;
    subject_->device().cancel(slot->request);
  }
}

void Guest::issue_control(Choice choice) {
  if (choice == Choice::status) {
    BlockRequest range;
    pick_range(range);
    range.length_bytes = std::max<std::uint64_t>(range.length_bytes, 1);
    const std::size_t extents_max = prng_.pick({1, 3, 1000});
    tasks_->spawn(ask_status(range.offset_bytes, range.length_bytes, extents_max));
  } else if (choice == Choice::checkpoint) {
    tasks_->spawn(do_checkpoint());
  } else if (choice == Choice::snapshot) {
    tasks_->spawn(do_snapshot());
  } else if (choice == Choice::rollback) {
    tasks_->spawn(do_rollback());
  } else {
    const std::uint64_t unit = prng_.pick({512, 4096});
    const std::uint64_t size_bytes =
        kMiB + prng_.between(0, (plan_.volume_bytes_max - kMiB) / unit) * unit;
    tasks_->spawn(do_resize(size_bytes));
  }
}

Guest::Slot& Guest::free_slot() {
  for (auto& slot : slots_) {
    if (!slot->is_busy) return *slot;
  }
  slots_.push_back(std::make_unique<Slot>());
  slots_.back()->guest = this;
  return *slots_.back();
}

void Guest::pick_range(BlockRequest& request) {
  const std::uint64_t unit = plan_.alignment_bytes;
  const std::uint64_t length_max = prng_.chance(0.6)
                                       ? std::min<std::uint64_t>(plan_.length_bytes_max, 8 * kKiB)
                                       : plan_.length_bytes_max;
  // Whole blocks are the common case at every alignment.
  const std::uint64_t length_unit = prng_.chance(0.5) ? kBlockBytes : unit;
  std::uint64_t length =
      std::max<std::uint64_t>(
          prng_.between(1, std::max<std::uint64_t>(length_max / length_unit, 1)), 1) *
      length_unit;
  const std::uint64_t region =
      plan_.hot_bytes != 0 && prng_.chance(0.8) ? plan_.hot_bytes : usable_bytes_;
  length = std::min(length, usable_bytes_);
  std::uint64_t offset = prng_.below(region / unit) * unit;
  if (prng_.chance(0.05)) offset = round_down(usable_bytes_ - length, unit);  // up to the very end
  if (offset + length > usable_bytes_) offset = round_down(usable_bytes_ - length, unit);
  request.offset_bytes = offset;
  request.length_bytes = length;
}

// Guest memory begins anywhere and comes in pieces.
void Guest::prepare_memory(Slot& slot) {
  const std::uint64_t length = slot.request.length_bytes;
  if (slot.memory.size() < length + kBlockBytes) slot.memory = AlignedBuffer(length + kBlockBytes);
  slot.data = slot.memory.data() + prng_.pick({0, 0, 512, 1024, 4, 1});
  slot.vectors.clear();
  const std::uint64_t pieces = prng_.chance(0.5) ? 1 : prng_.between(1, 5);
  std::uint64_t done = 0;
  for (std::uint64_t i = 1; i <= pieces && done < length; ++i) {
    std::uint64_t count = i == pieces ? length - done : prng_.between(1, length - done);
    if (i != pieces && count > 4096 && prng_.chance(0.7)) count = round_down(count, 4096);
    slot.vectors.push_back({slot.data + done, count});
    done += count;
  }
}

void Guest::submit(Slot& slot, BlockOperation operation) {
  BlockRequest& request = slot.request;
  request.operation = operation;
  request.force_unit_access = is_write(operation) && prng_.chance(plan_.unit_access_chance);
  request.keep_allocated = operation == BlockOperation::write_zeroes && prng_.chance(0.5);
  request.buffers = {};
  request.on_complete = &Guest::on_complete;
  request.context = &slot;
  request.log_order = 0;
  slot.is_busy = true;
  slot.expects_out_of_range = slot.was_cancelled = false;
  slot.number = next_number_++;
  slot.write = 0;
  if (operation == BlockOperation::flush) {
    request.offset_bytes = request.length_bytes = 0;
    slot.flush_covers = model_.begin_flush();
  } else if (operation == BlockOperation::read || operation == BlockOperation::write) {
    prepare_memory(slot);
    request.buffers = slot.vectors;
  }
  if (operation == BlockOperation::read) {
    std::memset(slot.data, 0xDB, request.length_bytes);
    slot.token = slot.is_verification ? 0 : model_.begin_read();
  }
  if (is_write(operation)) {
    slot.write = model_.begin_write(kind_of(operation), request);
    if (operation == BlockOperation::write) {
      model_.fill(slot.write, {slot.data, request.length_bytes});
    }
  }
  ++outstanding_;
  if (scheduler_.tracing()) scheduler_.trace("guest submits " + describe(slot));
  subject_->device().submit(request);
}

// Beyond the end, or of no length at all.
void Guest::submit_odd_request(Slot& slot) {
  BlockRequest& request = slot.request;
  const bool is_empty = prng_.chance(0.5);
  request.operation = prng_.chance(0.5) ? BlockOperation::discard : BlockOperation::write_zeroes;
  request.force_unit_access = false;
  request.keep_allocated = false;
  request.offset_bytes = is_empty ? 0 : model_.size_bytes() - prng_.below(2) * 512;
  request.length_bytes = is_empty ? 0 : 4096;
  request.buffers = {};
  request.on_complete = &Guest::on_complete;
  request.context = &slot;
  slot.is_busy = true;
  slot.is_verification = slot.was_cancelled = false;
  slot.expects_out_of_range = !is_empty;
  slot.number = next_number_++;
  slot.write = 0;
  ++outstanding_;
  if (scheduler_.tracing()) scheduler_.trace("guest submits the odd " + describe(slot));
  subject_->device().submit(request);
}

void Guest::on_complete(BlockRequest& request, BlockStatus status) {
  Slot& slot = *static_cast<Slot*>(request.context);
  slot.guest->completed(slot, status);
}

void Guest::completed(Slot& slot, BlockStatus status) {
  if (!slot.is_busy) {
    scheduler_.fail("answer once", "answered twice: " + describe(slot));
    return;
  }
  if (scheduler_.tracing()) {
    scheduler_.trace("guest hears " + std::string(status_name(status)) + " of " + describe(slot));
  }
  scheduler_.mix(slot.number ^ (static_cast<std::uint64_t>(status) << 56));
  slot.is_busy = false;
  --outstanding_;
  if (slot.is_verification) {
    slot.is_verification = false;
    verified_part(slot, status);
    return;
  }
  check_answer(slot, status);
  if (operations_ % 16 == 0) {
    const std::string broken = subject_->broken_bound();
    if (!broken.empty()) scheduler_.fail("bounded memory", broken);
  }
  if (!scheduler_.failed()) go_on();
}

bool Guest::is_acceptable(const Slot& slot, BlockStatus status) const {
  if (status == BlockStatus::shutting_down) return closing_;
  if (status == BlockStatus::cancelled) return slot.was_cancelled;
  if (slot.expects_out_of_range) return status == BlockStatus::out_of_range;
  if (status == BlockStatus::medium_error) return plan_.rot;
  return status == BlockStatus::ok;
}

void Guest::check_answer(Slot& slot, BlockStatus status) {
  const BlockRequest& request = slot.request;
  const bool is_ok = status == BlockStatus::ok;
  if (!is_acceptable(slot, status)) {
    scheduler_.fail("errors", std::string("answered \"") + status_name(status) +
                                  "\": " + describe(slot) +
                                  (plan_.rot ? ""
                                             : " (no medium error was injected, and storage "
                                               "faults must be held)"));
  }
  if (slot.write != 0) {
    model_.end_write(slot.write, is_ok);
  } else if (request.operation == BlockOperation::flush) {
    if (is_ok) model_.end_flush(slot.flush_covers);
  } else if (request.operation == BlockOperation::read) {
    if (is_ok)
      model_.check_read(slot.token, request.offset_bytes, {slot.data, request.length_bytes});
    model_.end_read(slot.token);
  }
}

void Guest::verify() {
  verifying_ = true;
  content_.assign(model_.size_bytes(), std::byte{0});
  unreadable_.assign(plan_.rot ? divide_up(model_.size_bytes(), kBlockBytes) : 0, false);
  parts_.clear();
  for (std::uint64_t at = 0; at < model_.size_bytes(); at += kVerifyBytes) {
    parts_.emplace_back(at, std::min(kVerifyBytes, model_.size_bytes() - at));
  }
  verify_some();
}

void Guest::verify_some() {
  while (!parts_.empty() && outstanding_ < kVerifyDepth) {
    Slot& slot = free_slot();
    slot.request.offset_bytes = parts_.front().first;
    slot.request.length_bytes = parts_.front().second;
    parts_.pop_front();
    slot.is_verification = true;
    submit(slot, BlockOperation::read);
  }
  if (parts_.empty() && outstanding_ == 0) verifying_ = false;
}

void Guest::verified_part(Slot& slot, BlockStatus status) {
  const BlockRequest& request = slot.request;
  if (status == BlockStatus::ok) {
    std::memcpy(content_.data() + request.offset_bytes, slot.data, request.length_bytes);
  } else if (!is_acceptable(slot, status)) {
    check_answer(slot, status);
    return;
  } else if (request.length_bytes <= kBlockBytes) {
    unreadable_[request.offset_bytes / kBlockBytes] = true;
  } else {
    for (std::uint64_t at = 0; at < request.length_bytes; at += kBlockBytes) {
      parts_.emplace_back(request.offset_bytes + at,
                          std::min(kBlockBytes, request.length_bytes - at));
    }
  }
  verify_some();
}

void Guest::check_control(const char* what, const Error& error) {
  const bool is_fault =
      error.code() == ErrorCode::path_failure || error.code() == ErrorCode::no_space;
  if ((is_fault && faults_possible_) || closing_ || plan_.rot) return;
  scheduler_.fail("errors", std::string(what) + " failed without a reason: " + error.message());
}

Task<void> Guest::ask_status(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                             std::size_t extents_max) {
  ++controls_;
  const VolumeModel::Token token = model_.begin_read();
  auto result = co_await subject_->device().block_status(offset_bytes, length_bytes, extents_max);
  if (result.ok()) {
    check_extents(offset_bytes, length_bytes, extents_max, *result, token);
  } else {
    check_control("block status", result.error());
  }
  model_.end_read(token);
  --controls_;
  go_on();
}

void Guest::check_extents(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                          std::size_t extents_max, const std::vector<BlockExtent>& extents,
                          VolumeModel::Token token) {
  std::uint64_t at = offset_bytes;
  std::string why;
  if (extents.empty()) why = "no extent";
  if (extents.size() > extents_max) why = "more extents than asked for";
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const BlockExtent& extent = extents[i];
    if (extent.length_bytes == 0) why = "an empty extent";
    if (extent.hole && !extent.zero) why = "a hole that does not read as zeros";
    if (i != 0 && extents[i - 1].hole == extent.hole && extents[i - 1].zero == extent.zero) {
      why = "equal extents that are not merged";
    }
    if (extent.zero) model_.check_reads_as_zero(token, at, extent.length_bytes);
    at += extent.length_bytes;
  }
  if (at > offset_bytes + length_bytes) why = "more bytes than asked for";
  if (why.empty()) return;
  scheduler_.fail("block status", why + " in the answer for " + std::to_string(length_bytes) +
                                      " bytes at " + std::to_string(offset_bytes));
}

Task<void> Guest::do_checkpoint() {
  ++controls_;
  if (scheduler_.tracing()) scheduler_.trace("guest's operator asks for a checkpoint");
  auto result = co_await subject_->checkpoint();
  if (!result.ok()) check_control("checkpoint", result.error());
  --controls_;
  go_on();
}

Task<void> Guest::do_snapshot() {
  ++controls_;
  // Of an empty device there is nothing to be known.
  const std::uint32_t acts = operations_ < kOperationsBeforeActs ? 1 : plan_.snapshot_acts;
  for (std::uint32_t i = 0; i < acts && !resizing_ && !closing_; ++i) {
    co_await snapshots_.act(subject_);
  }
  --controls_;
  go_on();
}

void Guest::check_snapshots() {
  if (plan_.snapshot_weight != 0 && subject_->has_snapshots()) tasks_->spawn(do_check_snapshots());
}

Task<void> Guest::do_check_snapshots() {
  ++controls_;
  co_await snapshots_.check_all(subject_);
  --controls_;
  go_on();
}

// With nothing else going on: a rollback is for volumes that nobody uses.
Task<void> Guest::do_rollback() {
  const SnapshotChecker::Kept* const kept = snapshots_.pick_for_rollback();
  if (kept == nullptr) co_return;
  const std::string name = kept->name;
  std::vector<std::byte> content = kept->content;
  ++controls_;
  resizing_ = is_rolling_back_ = true;
  while (outstanding_ != 0 || controls_ > 1) co_await sleep_for(*host_, 50us);
  if (snapshots_.is_there(name)) {
    if (scheduler_.tracing()) scheduler_.trace("rolls back to " + name);
    rollback_under_way_ = content;
    possible_sizes_.push_back(content.size());
    std::string wanted = name;
    const Result<void> done = co_await subject_->rollback(std::move(wanted));
    if (done.ok()) {
      model_.replaced(content);
      usable_bytes_ = model_.size_bytes();
      forget_rollback();
      possible_sizes_.clear();
    } else {
      check_control("rollback", done.error());
    }
  }
  resizing_ = is_rolling_back_ = false;
  --controls_;
  pump();
}

bool Guest::reaches_beyond(std::uint64_t size_bytes) const {
  for (const auto& slot : slots_) {
    const BlockRequest& request = slot->request;
    if (slot->is_busy && request.offset_bytes + request.length_bytes > size_bytes) return true;
  }
  return false;
}

// Requests go on meanwhile, in the part that stays.
Task<void> Guest::do_resize(std::uint64_t size_bytes) {
  ++controls_;
  resizing_ = true;
  usable_bytes_ = std::min(size_bytes, model_.size_bytes());
  while (reaches_beyond(usable_bytes_) || controls_ > 1) co_await sleep_for(*host_, 50us);
  if (scheduler_.tracing()) scheduler_.trace("resize to " + std::to_string(size_bytes));
  possible_sizes_.push_back(size_bytes);
  auto result = co_await subject_->resize(size_bytes);
  const std::uint64_t now_bytes = subject_->device().info().size_bytes;
  if (!result.ok()) check_control("resize", result.error());
  if (result.ok() && now_bytes != size_bytes) {
    scheduler_.fail("resize", "the device says " + std::to_string(now_bytes) + " bytes after " +
                                  "a resize to " + std::to_string(size_bytes));
  }
  if (scheduler_.tracing()) scheduler_.trace("resized to " + std::to_string(now_bytes));
  if (now_bytes == size_bytes) model_.resize(size_bytes);
  if (result.ok()) possible_sizes_.clear();
  usable_bytes_ = model_.size_bytes();
  resizing_ = false;
  --controls_;
  go_on();
}

std::string Guest::describe(const Slot& slot) const {
  const BlockRequest& request = slot.request;
  std::string text =
      "request " + std::to_string(slot.number) + ": " + operation_name(request.operation);
  if (request.force_unit_access) text += " with FUA";
  if (request.operation != BlockOperation::flush) {
    text += " of " + std::to_string(request.length_bytes) + " bytes at " +
            std::to_string(request.offset_bytes) + " (block " +
            std::to_string(request.offset_bytes / kBlockBytes) + ")";
  }
  if (slot.write != 0) text += " as write " + std::to_string(slot.write);
  if (request.log_order != 0) text += ", log order " + std::to_string(request.log_order);
  return text;
}

std::string Guest::describe_outstanding() const {
  std::string text = std::to_string(outstanding_) + " requests and " + std::to_string(controls_) +
                     " control operations are not answered:";
  for (const auto& slot : slots_) {
    if (slot->is_busy) text += "\n  " + describe(*slot);
  }
  return text;
}

}  // namespace holdfast::sim
