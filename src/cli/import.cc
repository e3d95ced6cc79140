// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/rbd_stream.h"
#include "base/units.h"
#include "cli/image_file.h"
#include "cli/image_writer.h"
#include "cli/progress.h"
#include "cli/transfer.h"
#include "host/names.h"

namespace holdfast {
namespace {

constexpr std::size_t kReadBytes = 1 * kMiB;
constexpr std::uint64_t kFirstStreamBytes = 1 * kGiB;  // of a volume for a stream of unknown length

Error from_errno(const std::string& what) {
  return Error(ErrorCode::path_failure, what + ": " + std::strerror(errno));
}

// Where the image comes from: a file, a block device, or a pipe.
class Source {
 public:
  static Result<Source> open(const std::string& file) {
    Source source;
    source.name_ = file == "-" ? "standard input" : file;
    if (file == "-" && ::isatty(STDIN_FILENO) != 0) {
      return Error(ErrorCode::invalid_argument,
                   "standard input is a terminal; pipe an image into this");
    }
    source.descriptor_ =
        file == "-" ? ::dup(STDIN_FILENO) : ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (source.descriptor_ < 0) return from_errno("cannot open " + source.name_);
    struct stat about {};
    if (::fstat(source.descriptor_, &about) != 0) return from_errno(source.name_);
    if (S_ISDIR(about.st_mode)) {
      return Error(ErrorCode::invalid_argument, source.name_ + " is a directory, not an image");
    }
    // A file behind standard input is read on from where it stands.
    if (file != "-" && (S_ISREG(about.st_mode) || S_ISBLK(about.st_mode))) {
      const off_t end = ::lseek(source.descriptor_, 0, SEEK_END);
      if (end < 0 || ::lseek(source.descriptor_, 0, SEEK_SET) != 0) return from_errno(source.name_);
      source.size_bytes_ = static_cast<std::uint64_t>(end);
    }
    return source;
  }
  Source(Source&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)),
        name_(std::move(other.name_)),
        size_bytes_(other.size_bytes_) {}
  Source& operator=(Source&&) = delete;
  ~Source() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  const std::string& name() const { return name_; }
  const std::optional<std::uint64_t>& size_bytes() const { return size_bytes_; }  // of a file

  // Fills the span, but for the end of the image.
  Result<std::size_t> read(std::span<std::byte> into) {
    std::size_t filled = 0;
    while (filled < into.size()) {
      const ssize_t count = ::read(descriptor_, into.data() + filled, into.size() - filled);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return from_errno("cannot read " + name_);
      if (count == 0) break;
      filled += static_cast<std::size_t>(count);
    }
    return filled;
  }
  // What there is, at least one byte; nothing: the end.
  Result<std::size_t> read_some(std::span<std::byte> into) {
    ssize_t count = -1;
    do {
      count = ::read(descriptor_, into.data(), into.size());
    } while (count < 0 && errno == EINTR);
    if (count < 0) return from_errno("cannot read " + name_);
    return static_cast<std::size_t>(count);
  }
  // It would not wait for whoever writes into the pipe.
  bool is_ready() const {
    pollfd watched{descriptor_, POLLIN, 0};
    return ::poll(&watched, 1, 0) != 0;
  }
  // Of a file.
  Result<std::vector<std::byte>> read_at(std::uint64_t offset_bytes, std::size_t bytes) {
    std::vector<std::byte> out(bytes);
    const ssize_t count =
        ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset_bytes));
    if (count < 0) return from_errno("cannot read " + name_);
    out.resize(static_cast<std::size_t>(count));
    return out;
  }
  // To where data comes next in a file; its end, if none comes.
  Result<std::uint64_t> seek_data(std::uint64_t from_bytes) {
    const off_t at = ::lseek(descriptor_, static_cast<off_t>(from_bytes), SEEK_DATA);
    if (at >= 0) return static_cast<std::uint64_t>(at);
    if (errno == ENXIO) return *size_bytes_;
    if (::lseek(descriptor_, static_cast<off_t>(from_bytes), SEEK_SET) < 0)
      return from_errno(name_);
    return from_bytes;  // it cannot tell
  }

 private:
  Source() = default;
  int descriptor_ = -1;
  std::string name_;
  std::optional<std::uint64_t> size_bytes_;
};

class Import {
 public:
  Import(const AskDaemon& ask, const ImportArguments& arguments, Source& source)
      : ask_(ask),
        arguments_(arguments),
        source_(source),
        progress_("Importing " + arguments.pool + "/" + arguments.volume,
                  arguments.shows_progress) {}

  Result<Json> run() {
    format_ = TRY(choose_format());
    Result<void> done = read_image();
    if (done.ok()) {
      progress_.clear();
      auto finished = transfer_->finish();
      if (finished.ok()) return finished;
      done = finished.error();
    }
    progress_.clear();
    return undo(done.take_error());
  }

 private:
  Result<ImageFormat> choose_format();
  Result<void> read_image();
  Result<void> begin(std::uint64_t size_bytes, const std::string& since,
                     const std::string& snapshot);
  Result<void> read_raw_file();
  Result<void> read_raw_stream();
  Result<void> read_rbd();
  Result<void> begin_diff(const RbdStreamReader& reader);
  Result<void> read_with_qemu_img();
  Result<void> check_size(std::uint64_t size_bytes) const;
  Result<std::size_t> next_bytes(std::span<std::byte> into);
  Error undo(Error error);

  const AskDaemon& ask_;
  const ImportArguments& arguments_;
  Source& source_;
  Progress progress_;
  ImageFormat format_ = ImageFormat::raw;
  std::vector<std::byte> beginning_;  // of a stream: read, but not used yet
  std::optional<Transfer> transfer_;
  std::optional<ImageWriter> writer_;
  bool is_change_ = false;
  std::string last_snapshot_;  // where the diff that is being read ends
};

Result<ImageFormat> Import::choose_format() {
  beginning_.resize(kImageBeginningBytes);
  beginning_.resize(TRY(source_.read(beginning_)));
  const bool is_file = source_.size_bytes().has_value();
  std::vector<std::byte> ending;
  if (is_file) {
    const std::uint64_t size_bytes = *source_.size_bytes();
    ending =
        TRY(source_.read_at(size_bytes - std::min<std::uint64_t>(size_bytes, kImageBeginningBytes),
                            kImageBeginningBytes));
  }
  ImageFormat format = recognize_image(beginning_);
  // A VHD of a fixed size has only a footer.
  if (format == ImageFormat::raw && recognize_image(ending) == ImageFormat::vhd) {
    format = ImageFormat::vhd;
  }
  if (!arguments_.format.empty()) format = TRY(parse_image_format(arguments_.format));
  if (is_for_qemu_img(format) && !is_file) {
    return Error(ErrorCode::invalid_argument,
                 std::string("a ") + image_format_name(format) +
                     " image is not read from its beginning to its end; import it from a file");
  }
  if (arguments_.size_bytes.has_value() && format != ImageFormat::raw) {
    return Error(ErrorCode::invalid_argument,
                 std::string("--size is what a raw image has to have; this is a ") +
                     image_format_name(format) + " image, which says its size itself");
  }
  if (is_file) TRY(check_image_ends(format, beginning_, ending, *source_.size_bytes()));
  return format;
}

Result<void> Import::read_image() {
  switch (format_) {
    case ImageFormat::raw:
      return source_.size_bytes().has_value() ? read_raw_file() : read_raw_stream();
    case ImageFormat::rbd_diff:
    case ImageFormat::rbd:
      return read_rbd();
    case ImageFormat::qcow2:
    case ImageFormat::vhd:
    case ImageFormat::vmdk:
      break;
  }
  return read_with_qemu_img();
}

Result<void> Import::begin(std::uint64_t size_bytes, const std::string& since,
                           const std::string& snapshot) {
  Json body = {{"size_bytes", size_bytes}};
  if (!since.empty()) body["since"] = since;
  if (!snapshot.empty()) body["snapshot"] = snapshot;
  is_change_ = !since.empty();
  transfer_.emplace(TRY(Transfer::begin(ask_, arguments_.pool, arguments_.volume, "import", body)));
  writer_.emplace(transfer_->device(), since.empty());
  return {};
}

// Nothing is left of what was done; the message says so.
Error Import::undo(Error error) {
  if (!transfer_.has_value()) return error;
  const auto ended = transfer_->end();
  std::string what = is_change_ ? "the volume is as it was before" : "nothing of it is kept";
  if (!ended.ok()) {
    what = "holdfastd sees to it that " + what + " when it is running again";
  } else if (!ended.value()) {
    // Such as one that was finished, but later than we waited for it.
    what = "what came of it shows: holdfast volume list " + arguments_.pool;
  }
  return Error(error.code(), error.message() + "; " + what);
}

Result<void> Import::check_size(std::uint64_t size_bytes) const {
  const auto refuse = [&](const std::string& why) {
    return Error(ErrorCode::corrupt,
                 source_.name() + " has " + std::to_string(size_bytes) + " bytes, " + why);
  };
  if (arguments_.size_bytes.has_value() && *arguments_.size_bytes != size_bytes) {
    return refuse("but --size says " + std::to_string(*arguments_.size_bytes));
  }
  if (size_bytes % kSectorBytes != 0) {
    return refuse("which is no multiple of 512: it was cut off, or is no raw image");
  }
  return {};
}

Result<void> Import::read_raw_file() {
  const std::uint64_t size_bytes = *source_.size_bytes();
  TRY(check_size(size_bytes));
  TRY(begin(size_bytes, "", ""));
  std::vector<std::byte> piece(kReadBytes);
  std::uint64_t at = TRY(source_.seek_data(0));
  while (at < size_bytes) {
    const std::size_t wanted =
        static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), size_bytes - at));
    const std::span<std::byte> bytes = std::span(piece).first(wanted);
    if (TRY(source_.read(bytes)) != wanted) {
      return Error(ErrorCode::corrupt, source_.name() + " became shorter while it was read");
    }
    TRY(writer_->data(at, bytes));
    at = TRY(source_.seek_data(at + wanted));
    progress_.update(at, size_bytes);
  }
  return writer_->flush();
}

Result<std::size_t> Import::next_bytes(std::span<std::byte> into) {
  if (beginning_.empty()) {
    // While there is nothing to read, what was read is written.
    if (transfer_.has_value() && !source_.is_ready()) TRY(transfer_->device().drain());
    return source_.read_some(into);
  }
  const std::size_t taken = std::min(beginning_.size(), into.size());
  std::copy_n(beginning_.begin(), taken, into.begin());
  beginning_.erase(beginning_.begin(), beginning_.begin() + static_cast<std::ptrdiff_t>(taken));
  return taken;
}

// The volume grows as the stream does, and gets its size at the end.
Result<void> Import::read_raw_stream() {
  TRY(begin(arguments_.size_bytes.value_or(kFirstStreamBytes), "", ""));
  std::vector<std::byte> piece(kReadBytes);
  std::uint64_t at = 0;
  for (;;) {
    const std::size_t count = TRY(next_bytes(piece));
    if (count == 0) break;
    if (at + count > transfer_->size_bytes()) {
      if (arguments_.size_bytes.has_value()) {
        return Error(ErrorCode::corrupt, source_.name() + " goes on behind the " +
                                             std::to_string(*arguments_.size_bytes) +
                                             " bytes that --size says");
      }
      TRY(writer_->flush());
      TRY(transfer_->step(2 * transfer_->size_bytes(), ""));
      *writer_ = ImageWriter(transfer_->device(), true);
    }
    TRY(writer_->data(at, std::span(piece).first(count)));
    at += count;
    progress_.update(at, arguments_.size_bytes.value_or(0));
  }
  TRY(check_size(at));
  TRY(writer_->flush());
  return transfer_->step(at, "");
}

Result<void> Import::read_rbd() {
  RbdStreamReader reader;
  std::vector<std::byte> piece(kReadBytes);
  for (;;) {
    switch (TRY(reader.next())) {
      case RbdStreamReader::Event::need_input:
      case RbdStreamReader::Event::end: {
        const std::size_t count = TRY(next_bytes(piece));
        if (count == 0) {
          TRY(reader.finish());
          if (reader.is_image() && !last_snapshot_.empty()) {
            return transfer_->step(reader.diff().size_bytes, last_snapshot_);
          }
          return {};
        }
        reader.feed(std::span(piece).first(count));
        progress_.update(reader.position_bytes(), source_.size_bytes().value_or(0));
        break;
      }
      case RbdStreamReader::Event::diff:
        TRY(begin_diff(reader));
        break;
      case RbdStreamReader::Event::data:
        TRY(writer_->data(reader.offset_bytes(), reader.bytes()));
        break;
      case RbdStreamReader::Event::zero:
        TRY(writer_->zero(reader.offset_bytes(), reader.length_bytes()));
        break;
      case RbdStreamReader::Event::diff_end:
        TRY(writer_->flush());
        break;
    }
  }
}

Result<void> Import::begin_diff(const RbdStreamReader& reader) {
  const RbdDiff& diff = reader.diff();
  if (reader.is_image() != (format_ == ImageFormat::rbd)) {
    return Error(ErrorCode::invalid_argument,
                 std::string("this is what 'rbd export") +
                     (reader.is_image() ? " --export-format 2" : "-diff") +
                     "' writes; import it with --format " +
                     (reader.is_image() ? "rbd" : "rbd-diff"));
  }
  for (const std::string* name : {&diff.from, &diff.to}) {
    if (name->empty()) continue;
    auto checked = check_name("snapshot", *name);
    if (!checked.ok()) {
      return Error(ErrorCode::unsupported, checked.error().message() +
                                               "; rename it with 'rbd snap rename', and export "
                                               "it again");
    }
  }
  if (reader.diff_index() == 0) {
    last_snapshot_ = reader.is_image() ? diff.to : "";
    return begin(diff.size_bytes, diff.from, reader.is_image() ? "" : diff.to);
  }
  TRY(transfer_->step(diff.size_bytes, last_snapshot_));
  last_snapshot_ = diff.to;
  writer_->go_on(transfer_->device());
  return {};
}

Result<void> Import::read_with_qemu_img() {
  const std::string path = std::filesystem::absolute(arguments_.file).lexically_normal().string();
  const std::uint64_t size_bytes = TRY(inspect_image(format_, path));
  TRY(begin(size_bytes, "", ""));
  TRY(convert_to_volume(format_, path, transfer_->uri(), [&](double percent) {
    progress_.update(static_cast<std::uint64_t>(percent / 100 * static_cast<double>(size_bytes)),
                     size_bytes);
  }));
  return writer_->flush();
}

}  // namespace

Result<Json> import_image(const AskDaemon& ask, const ImportArguments& arguments) {
  if (!arguments.format.empty()) TRY(parse_image_format(arguments.format));
  Source source = TRY(Source::open(arguments.file));
  return Import(ask, arguments, source).run();
}

}  // namespace holdfast
