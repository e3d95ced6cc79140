// SPDX-License-Identifier: Apache-2.0
#include "io/file_calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/errors.h"

namespace holdfast::file_calls {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;
constexpr std::size_t kHolderBytesMax = 4096;

template <typename Call>
auto retry_interrupted(Call call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

// 0 or an errno.
int write_everything(int descriptor, const std::byte* bytes, std::size_t count,
                     std::uint64_t offset) {
  while (count != 0) {
    const ssize_t written = retry_interrupted(
        [&] { return pwrite(descriptor, bytes, count, static_cast<off_t>(offset)); });
    if (written < 0) return errno;
    if (written == 0) return EIO;
    bytes += written;
    count -= static_cast<std::size_t>(written);
    offset += static_cast<std::uint64_t>(written);
  }
  return 0;
}

// For file systems without fallocate: only bytes that were written are sure to have space.
int write_zeros(int descriptor, std::uint64_t bytes) {
  AlignedBuffer zeros(kMiB);
  std::memset(zeros.data(), 0, zeros.size());
  for (std::uint64_t done = 0; done < bytes;) {
    const std::size_t count = std::min<std::uint64_t>(zeros.size(), bytes - done);
    if (const int error = write_everything(descriptor, zeros.data(), count, done)) return error;
    done += count;
  }
  return retry_interrupted([&] { return fsync(descriptor); }) == 0 ? 0 : errno;
}

int preallocate(int descriptor, std::uint64_t bytes) {
  // Asked first: some file systems take all there is before they notice that it is not enough, and
  // everybody else meets a full storage meanwhile.
  struct statvfs status {};
  if (fstatvfs(descriptor, &status) == 0 && bytes > status.f_bavail * status.f_frsize) {
    return ENOSPC;
  }
  const auto length = static_cast<off_t>(bytes);
  if (retry_interrupted([&] { return fallocate(descriptor, 0, 0, length); }) != 0) {
    if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
    if (const int error = write_zeros(descriptor, bytes)) return error;
  }
  return retry_interrupted([&] { return ftruncate(descriptor, length); }) == 0 ? 0 : errno;
}

std::string read_holder(int descriptor) {
  std::string line(kHolderBytesMax, '\0');
  const ssize_t count =
      retry_interrupted([&] { return pread(descriptor, line.data(), line.size(), 0); });
  line.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  line.resize(std::min(line.find('\n'), line.size()));
  // Whoever wrote it: nothing that could upset a terminal.
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, '?');
  return line;
}

}  // namespace

Result<Descriptor> open(const std::string& path, const FileOpenOptions& options) {
  int flags = (options.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_DIRECT;
  if (options.create_new) flags |= O_CREAT | O_EXCL;
  const auto open_it = [&](int with) {
    return retry_interrupted([&] { return ::open(path.c_str(), with, kFileMode); });
  };
  Descriptor file(open_it(flags));
  if (file.get() < 0 && errno == EINVAL) {
    // The file system has no direct I/O. Some create the file before they find out.
    file = Descriptor(open_it(flags & ~(O_DIRECT | O_EXCL)));
  }
  if (file.get() < 0) {
    return file_error(options.create_new ? "create" : "open", path, errno);
  }
  if (options.create_new && options.preallocate_bytes != 0) {
    if (const int error = preallocate(file.get(), options.preallocate_bytes)) {
      unlink(path.c_str());
      const std::string action = "allocate " + format_bytes(options.preallocate_bytes) + " for";
      return file_error(action, path, error);
    }
  }
  return file;
}

Result<void> make_directory(const std::string& path) {
  if (mkdir(path.c_str(), kDirectoryMode) != 0) return file_error("make directory", path, errno);
  return {};
}

Result<void> remove_file(const std::string& path) {
  if (unlink(path.c_str()) != 0) return file_error("remove", path, errno);
  return {};
}

Result<void> remove_directory(const std::string& path) {
  if (rmdir(path.c_str()) != 0) return file_error("remove directory", path, errno);
  return {};
}

Result<void> rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return file_error("rename", from + " to " + to, errno);
  }
  return {};
}

Result<void> link(const std::string& from, const std::string& to) {
  if (::link(from.c_str(), to.c_str()) == 0) return {};
  // EPERM: the file system has no links; or it has rules about whose files may be linked.
  if (errno == EPERM || errno == EXDEV || errno == EMLINK || errno == EOPNOTSUPP ||
      errno == ENOSYS) {
    return Error(ErrorCode::unsupported,
                 "cannot link " + from + " to " + to + ": " + std::strerror(errno));
  }
  return file_error("link", from + " to " + to, errno);
}

Result<FileStatus> status(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return file_error("look at", path, errno);
  FileStatus status;
  status.size_bytes = static_cast<std::uint64_t>(found.st_size);
  status.allocated_bytes = static_cast<std::uint64_t>(found.st_blocks) * kSectorBytes;
  status.link_count = found.st_nlink;
  return status;
}

Result<void> sync_directory(const std::string& path) {
  const Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return file_error("open directory", path, errno);
  if (retry_interrupted([&] { return fsync(directory.get()); }) != 0) {
    return file_error("sync directory", path, errno);
  }
  return {};
}

Result<std::vector<std::string>> list(const std::string& path) {
  struct Close {
    void operator()(DIR* directory) const { closedir(directory); }
  };
  const std::unique_ptr<DIR, Close> directory(opendir(path.c_str()));
  if (directory == nullptr) return file_error("list", path, errno);
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(directory.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return file_error("list", path, errno);
  return names;
}

Result<void> truncate(const std::string& path, std::uint64_t size_bytes) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.get() < 0) return file_error("open", path, errno);
  const auto size = static_cast<off_t>(size_bytes);
  if (retry_interrupted([&] { return ftruncate(file.get(), size); }) != 0) {
    return file_error("truncate", path, errno);
  }
  return {};
}

// Cutting the file to the size it has, like fallocate, takes the inode's lock and lets direct I/O
// in flight finish first: a process that was killed may have left some in the kernel, which
// outlives both the process and its file lock.
Result<void> allocate(const std::string& path, std::uint64_t size_bytes) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.get() < 0) return file_error("open", path, errno);
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return file_error("look at", path, errno);
  const auto size = static_cast<off_t>(size_bytes);
  const auto allocated_bytes = static_cast<std::uint64_t>(status.st_blocks) * kSectorBytes;
  const std::uint64_t missing_bytes = size_bytes - std::min(size_bytes, allocated_bytes);
  struct statvfs space {};
  if (missing_bytes != 0 && fstatvfs(file.get(), &space) == 0 &&
      missing_bytes > space.f_bavail * space.f_frsize) {
    return file_error("allocate " + format_bytes(size_bytes) + " for", path, ENOSPC);
  }
  if (retry_interrupted([&] { return fallocate(file.get(), 0, 0, size); }) != 0) {
    if (errno != EOPNOTSUPP && errno != ENOSYS) {
      return file_error("allocate " + format_bytes(size_bytes) + " for", path, errno);
    }
    if (missing_bytes != 0) {
      if (const int error = write_zeros(file.get(), size_bytes)) {
        return file_error("allocate " + format_bytes(size_bytes) + " for", path, error);
      }
    }
  }
  if (retry_interrupted([&] { return ftruncate(file.get(), size); }) != 0) {
    return file_error("truncate", path, errno);
  }
  return {};
}

Result<std::uint64_t> allocated_bytes(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return file_error("look at", path, errno);
  return static_cast<std::uint64_t>(status.st_blocks) * kSectorBytes;
}

Result<FileSystemSpace> space(const std::string& path) {
  struct statvfs status {};
  if (retry_interrupted([&] { return statvfs(path.c_str(), &status); }) != 0) {
    return file_error("ask for the space of", path, errno);
  }
  return FileSystemSpace{.capacity_bytes = status.f_blocks * status.f_frsize,
                         .available_bytes = status.f_bavail * status.f_frsize};
}

Result<std::vector<std::byte>> read_file(const std::string& path) {
  const Descriptor file(
      retry_interrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (file.get() < 0) return file_error("open", path, errno);
  std::vector<std::byte> bytes;
  struct stat status {};
  if (fstat(file.get(), &status) == 0 && status.st_size > 0) {
    bytes.reserve(
        std::min<std::size_t>(static_cast<std::size_t>(status.st_size), kSmallFileBytesMax) + 1);
  }
  for (;;) {
    const std::size_t before = bytes.size();
    bytes.resize(std::max<std::size_t>(bytes.capacity(), before + kBlockBytes));
    const ssize_t count = retry_interrupted(
        [&] { return read(file.get(), bytes.data() + before, bytes.size() - before); });
    if (count < 0) return file_error("read", path, errno);
    bytes.resize(before + static_cast<std::size_t>(count));
    if (count == 0) return bytes;
    if (bytes.size() > kSmallFileBytesMax) {
      return Error(ErrorCode::corrupt, "cannot read " + path + ": it is larger than " +
                                           format_bytes(kSmallFileBytesMax) +
                                           ", so it is not what it should be");
    }
  }
}

Result<void> write_file(const std::string& path, const std::vector<std::byte>& bytes) {
  const Descriptor file(retry_interrupted(
      [&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, kFileMode); }));
  if (file.get() < 0) return file_error("create", path, errno);
  int error = write_everything(file.get(), bytes.data(), bytes.size(), 0);
  if (error == 0 && retry_interrupted([&] {
                      return ftruncate(file.get(), static_cast<off_t>(bytes.size()));
                    }) != 0) {
    error = errno;
  }
  if (error == 0 && retry_interrupted([&] { return fsync(file.get()); }) != 0) error = errno;
  if (error != 0) return file_error("write", path, error);
  return {};
}

Result<Descriptor> lock(const std::string& path, const std::string& holder) {
  Descriptor file(retry_interrupted(
      [&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kFileMode); }));
  if (file.get() < 0) return file_error("open", path, errno);
  // Of the open file, not of the process: closing another descriptor of it does not drop the lock.
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (retry_interrupted([&] { return fcntl(file.get(), F_OFD_SETLK, &whole); }) != 0) {
    if (errno != EAGAIN && errno != EACCES) return file_error("lock", path, errno);
    const std::string line = read_holder(file.get());
    return Error(ErrorCode::busy, path + " is locked by " +
                                      (line.empty() ? std::string("another process") : line) +
                                      "; stop that process first");
  }
  const std::string line = holder + "\n";
  int error = ftruncate(file.get(), 0) == 0 ? 0 : errno;
  if (error == 0) {
    error = write_everything(file.get(), reinterpret_cast<const std::byte*>(line.data()),
                             line.size(), 0);
  }
  // Full storage must not keep a pool from opening: the line is only for people.
  if (error != 0 && error != ENOSPC && error != EDQUOT) return file_error("write", path, error);
  return file;
}

}  // namespace holdfast::file_calls
