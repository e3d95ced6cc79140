// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "api/client.h"
#include "base/rbd_stream.h"
#include "base/units.h"
#include "cli/image_file.h"
#include "cli/image_writer.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/target_file.h"
#include "cli/transfer.h"

namespace holdfast {
namespace {

// Ceph's `rbd` keeps the data of one extent in memory, and cannot zero 2 GiB at once.
constexpr std::uint64_t kDataBytesMax = 4 * kMiB;
constexpr std::uint64_t kZeroBytesMax = 1 * kGiB;

struct Extent {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  bool is_zero = false;
};

class Export {
 public:
  Export(const AskDaemon& ask, const ExportArguments& arguments, ImageFormat format,
         TargetFile& target)
      : ask_(ask),
        arguments_(arguments),
        format_(format),
        target_(target),
        progress_("Exporting " + arguments.pool + "/" + arguments.volume,
                  arguments.shows_progress) {}

  Result<Json> run() {
    Transfer transfer = TRY(begin(arguments_.snapshot));
    Result<void> done = write_image(transfer);
    if (done.ok()) done = target_.finish();
    const Result<bool> ended = transfer.end();
    progress_.clear();
    if (!done.ok()) return done.take_error();
    if (!ended.ok()) return ended.error();
    const auto name = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
    return Json{{"pool", arguments_.pool},
                {"volume", arguments_.volume},
                {"snapshot", name(arguments_.snapshot)},
                {"since", name(arguments_.since)},
                {"file", arguments_.file},
                {"format", image_format_name(format_)},
                {"size_bytes", transfer.size_bytes()},
                {"written_bytes", target_.written_bytes()}};
  }

 private:
  Result<Transfer> begin(const std::string& snapshot) {
    Json body = Json::object();
    if (!snapshot.empty()) body["snapshot"] = snapshot;
    return Transfer::begin(ask_, arguments_.pool, arguments_.volume, "export", body);
  }
  std::string volume_target() const {
    return "/v1/pools/" + escape_url(arguments_.pool) + "/volumes/" + escape_url(arguments_.volume);
  }

  Result<void> write_image(Transfer& transfer);
  Result<void> write_raw(Transfer& transfer);
  Result<void> write_diff(Transfer& transfer, RbdVersion version, const RbdDiff& diff);
  Result<void> write_rbd(Transfer& transfer);
  Result<void> write_with_qemu_img(Transfer& transfer);
  Result<std::vector<std::string>> older_snapshots(const std::string& snapshot);
  // Calls visit(extent) for what differs between two snapshots; without `since`, for what has
  // content.
  template <typename Visit>
  Result<void> visit_extents(const std::string& snapshot, const std::string& since, Visit visit);
  // The same for data in pieces, with their bytes.
  template <typename Visit>
  Result<void> read_extent(Transfer& transfer, const Extent& extent, Visit visit);

  const AskDaemon& ask_;
  const ExportArguments& arguments_;
  const ImageFormat format_;
  TargetFile& target_;
  Progress progress_;
  std::vector<std::byte> piece_ = std::vector<std::byte>(kDataBytesMax);
};

Result<void> Export::write_image(Transfer& transfer) {
  switch (format_) {
    case ImageFormat::raw:
      return write_raw(transfer);
    case ImageFormat::rbd_diff:
      return write_diff(transfer, RbdVersion::v1,
                        {arguments_.since, arguments_.snapshot, transfer.size_bytes()});
    case ImageFormat::rbd:
      return write_rbd(transfer);
    case ImageFormat::qcow2:
    case ImageFormat::vhd:
    case ImageFormat::vmdk:
      break;
  }
  return write_with_qemu_img(transfer);
}

template <typename Visit>
Result<void> Export::visit_extents(const std::string& snapshot, const std::string& since,
                                   Visit visit) {
  Json body = {{"snapshot", snapshot}, {"since", since}};
  for (;;) {
    const Json part = TRY(ask_("POST", volume_target() + "/diff", body));
    for (const Json& each : part.value("extents", Json::array())) {
      const Extent extent{each.value("offset_bytes", std::uint64_t{0}),
                          each.value("length_bytes", std::uint64_t{0}),
                          text_of(each, "type") == "zero"};
      TRY(visit(extent));
    }
    const Json next = part.value("next_bytes", Json());
    if (!next.is_number()) return {};
    body["offset_bytes"] = next;
  }
}

template <typename Visit>
Result<void> Export::read_extent(Transfer& transfer, const Extent& extent, Visit visit) {
  std::uint64_t at = extent.offset_bytes;
  const std::uint64_t end = at + extent.length_bytes;
  while (at < end) {
    const std::size_t count =
        static_cast<std::size_t>(std::min<std::uint64_t>(kDataBytesMax, end - at));
    const std::span<std::byte> bytes = std::span(piece_).first(count);
    TRY(transfer.device().read(at, bytes));
    TRY(visit(at, bytes));
    at += count;
    progress_.update(at, transfer.size_bytes());
  }
  return {};
}

Result<void> Export::write_raw(Transfer& transfer) {
  std::uint64_t stream_at = 0;
  const auto fill_up_to = [&](std::uint64_t offset_bytes) -> Result<void> {
    const std::vector<std::byte> zeros(kBlockBytes * 64);
    while (stream_at < offset_bytes) {
      const std::size_t count =
          static_cast<std::size_t>(std::min<std::uint64_t>(zeros.size(), offset_bytes - stream_at));
      TRY(target_.write(std::span(zeros).first(count)));
      stream_at += count;
    }
    return {};
  };
  const auto write = [&](std::uint64_t offset_bytes,
                         std::span<const std::byte> bytes) -> Result<void> {
    if (!target_.is_stream()) {
      return is_all_zero(bytes) ? Result<void>() : target_.write_at(offset_bytes, bytes);
    }
    TRY(fill_up_to(offset_bytes));
    stream_at += bytes.size();
    return target_.write(bytes);
  };
  if (!target_.is_stream()) TRY(target_.set_size(transfer.size_bytes()));
  const auto copy = [&](const Extent& extent) -> Result<void> {
    if (extent.is_zero) return {};
    return read_extent(transfer, extent, write);
  };
  TRY(visit_extents(transfer.snapshot(), "", copy));
  if (target_.is_stream()) TRY(fill_up_to(transfer.size_bytes()));
  return {};
}

Result<void> Export::write_diff(Transfer& transfer, RbdVersion version, const RbdDiff& diff) {
  const auto write_data = [&](std::uint64_t at, std::span<std::byte> bytes) {
    const bool is_zero = is_all_zero(bytes);
    auto written = target_.write(encode_rbd_extent(version, is_zero, at, bytes.size()));
    return is_zero || !written.ok() ? written : target_.write(bytes);
  };
  const auto write_extent = [&](const Extent& extent) -> Result<void> {
    if (!extent.is_zero) return read_extent(transfer, extent, write_data);
    std::uint64_t at = extent.offset_bytes;
    const std::uint64_t end = at + extent.length_bytes;
    while (at < end) {
      const std::uint64_t count = std::min(kZeroBytesMax, end - at);
      TRY(target_.write(encode_rbd_extent(version, true, at, count)));
      at += count;
    }
    return {};
  };
  TRY(target_.write(encode_rbd_diff_begin(version, diff)));
  TRY(visit_extents(transfer.snapshot(), diff.from, write_extent));
  return target_.write(encode_rbd_diff_end());
}

// In the order in which they were taken, up to one.
Result<std::vector<std::string>> Export::older_snapshots(const std::string& snapshot) {
  const Json answer = TRY(ask_("GET", volume_target() + "/snapshots", nullptr));
  std::vector<std::string> names;
  for (const Json& each : answer.value("snapshots", Json::array())) {
    if (text_of(each, "name") == snapshot) return names;
    names.push_back(text_of(each, "name"));
  }
  return Error(ErrorCode::not_found, "snapshot '" + snapshot + "' was removed meanwhile");
}

// A diff for each snapshot, and the last for what comes after them: nothing, where a snapshot is
// exported.
Result<void> Export::write_rbd(Transfer& transfer) {
  const std::vector<std::string> older = TRY(older_snapshots(transfer.snapshot()));
  const bool is_of_snapshot = !arguments_.snapshot.empty();
  TRY(target_.write(encode_rbd_image_begin(older.size() + (is_of_snapshot ? 2 : 1))));
  std::string before;
  for (const std::string& name : older) {
    Transfer one = TRY(begin(name));
    const Result<void> written = write_diff(one, RbdVersion::v2, {before, name, one.size_bytes()});
    const Result<bool> ended = one.end();
    TRY(written);
    TRY(ended);
    before = name;
  }
  if (!is_of_snapshot) {
    return write_diff(transfer, RbdVersion::v2, {before, "", transfer.size_bytes()});
  }
  TRY(write_diff(transfer, RbdVersion::v2, {before, arguments_.snapshot, transfer.size_bytes()}));
  TRY(target_.write(
      encode_rbd_diff_begin(RbdVersion::v2, {arguments_.snapshot, "", transfer.size_bytes()})));
  return target_.write(encode_rbd_diff_end());
}

Result<void> Export::write_with_qemu_img(Transfer& transfer) {
  const std::uint64_t size_bytes = transfer.size_bytes();
  return convert_from_volume(format_, transfer.uri(), target_.partial_path(), [&](double percent) {
    progress_.update(static_cast<std::uint64_t>(percent / 100 * static_cast<double>(size_bytes)),
                     size_bytes);
  });
}

Result<ImageFormat> choose_format(const ExportArguments& arguments) {
  if (!arguments.format.empty()) return parse_image_format(arguments.format);
  for (const ImageFormat format : {ImageFormat::qcow2, ImageFormat::vhd, ImageFormat::vmdk}) {
    if (arguments.file.ends_with(std::string(".") + image_format_name(format))) return format;
  }
  return ImageFormat::raw;
}

}  // namespace

Result<Json> export_image(const AskDaemon& ask, const ExportArguments& arguments) {
  const ImageFormat format = TRY(choose_format(arguments));
  if (!arguments.since.empty() && format != ImageFormat::rbd_diff) {
    return Error(ErrorCode::invalid_argument,
                 "--since is for --format rbd-diff; the others hold a whole image");
  }
  if (arguments.file == "-" && is_for_qemu_img(format)) {
    return Error(ErrorCode::invalid_argument,
                 std::string("a ") + image_format_name(format) +
                     " image is not written from its beginning to its end; export it to a file");
  }
  TargetFile target = TRY(TargetFile::create(arguments.file));
  return Export(ask, arguments, format, target).run();
}

}  // namespace holdfast
