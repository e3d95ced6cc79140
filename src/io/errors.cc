// SPDX-License-Identifier: Apache-2.0
#include "io/errors.h"

#include <cerrno>
#include <cstring>
#include <string>

namespace holdfast {
namespace {

std::string_view advice(int error) {
  switch (error) {
    case ENOSPC:
      return "the storage is full: free space on it or extend it";
    case EDQUOT:
      return "the disk quota is used up: raise it or free space";
    case EACCES:
    case EPERM:
      return "check owner and mode of the file and of the directories above it";
    case EROFS:
      return "the file system is mounted read-only: look for errors in the kernel log";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (LimitNOFILE= in the systemd unit, ulimit -n)";
    case EIO:
      return "the storage reports an error: look at the kernel log";
    case ESTALE:
      return "the file server no longer knows the file: check the mount";
    case ETIMEDOUT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ENOTCONN:
    case ECONNRESET:
    case ECONNREFUSED:
      return "the storage cannot be reached: check network and server";
    case ENODEV:
    case ENXIO:
      return "the device is gone: check cables and paths";
    case ENOTDIR:
      return "a part of the path is not a directory";
    case EISDIR:
      return "it is a directory";
    case ELOOP:
      return "too many symbolic links";
    case ENAMETOOLONG:
      return "the path is too long: use a shorter one";
    case ENOLCK:
      return "the file system offers no locks: mount it with locking";
    default:
      return "";
  }
}

}  // namespace

ErrorCode error_code_of_errno(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return ErrorCode::not_found;
    case EEXIST:
    case ENOTEMPTY:
      return ErrorCode::already_exists;
    case EBUSY:
    case ETXTBSY:
      return ErrorCode::busy;
    case ENOSPC:
    case EDQUOT:
      return ErrorCode::no_space;
    case EROFS:
      return ErrorCode::read_only;
    case EIO:
    case ETIMEDOUT:
    case ESTALE:
    case ENODEV:
    case ENXIO:
    case EREMOTEIO:
    case ENOMEDIUM:
    case ENOLINK:
    case ECOMM:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ENETRESET:
    case ENOTCONN:
    case ECONNRESET:
    case ECONNABORTED:
    case ECONNREFUSED:
    case ESHUTDOWN:
    // Short of a resource for a moment: held and tried again like a lost path.
    case EAGAIN:
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
    case EINTR:
      return ErrorCode::path_failure;
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOLCK:
      return ErrorCode::unsupported;
    case EBADMSG:  // what file systems call their own EFSBADCRC
    case EUCLEAN:
    case EILSEQ:
      return ErrorCode::corrupt;
    case EACCES:
    case EPERM:
    case EISDIR:
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP:
    case EFBIG:
      return ErrorCode::invalid_argument;
    default:
      return ErrorCode::internal;
  }
}

Error file_error(std::string_view action, std::string_view path, int error) {
  std::string message = "cannot ";
  message.append(action).append(" ").append(path).append(": ").append(std::strerror(error));
  if (const std::string_view what = advice(error); !what.empty()) message.append("; ").append(what);
  return Error(error_code_of_errno(error), std::move(message));
}

}  // namespace holdfast
