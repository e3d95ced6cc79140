// SPDX-License-Identifier: Apache-2.0
#include "pool/rados_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>

#include "base/assert.h"

namespace holdfast {
namespace {

std::uint64_t total_bytes(const FileRequest& request) {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < request.vector_count; ++i) bytes += request.vectors[i].iov_len;
  return bytes;
}

// Copies between the request's memory from `offset` on and a buffer.
void copy(const FileRequest& request, std::uint64_t offset, std::byte* buffer, std::size_t bytes,
          bool to_request) {
  for (std::uint32_t i = 0; i < request.vector_count && bytes != 0; ++i) {
    const iovec& vector = request.vectors[i];
    if (offset >= vector.iov_len) {
      offset -= vector.iov_len;
      continue;
    }
    auto* const memory = static_cast<std::byte*>(vector.iov_base) + offset;
    const std::size_t part = std::min<std::size_t>(bytes, vector.iov_len - offset);
    to_request ? std::memcpy(memory, buffer, part) : std::memcpy(buffer, memory, part);
    buffer += part;
    bytes -= part;
    offset = 0;
  }
}

// Where [offset, offset + bytes) of the request is in memory; null: in more than one place.
std::byte* contiguous(const FileRequest& request, std::uint64_t offset, std::size_t bytes) {
  for (std::uint32_t i = 0; i < request.vector_count; ++i) {
    const iovec& vector = request.vectors[i];
    if (offset >= vector.iov_len) {
      offset -= vector.iov_len;
      continue;
    }
    if (bytes > vector.iov_len - offset) return nullptr;
    return static_cast<std::byte*>(vector.iov_base) + offset;
  }
  return nullptr;
}

}  // namespace

// The part of a request that is in one stripe.
struct RadosFile::Piece {
  RadosTransfer transfer;
  Operation* operation = nullptr;
  std::uint64_t request_offset = 0;
  std::unique_ptr<std::byte[]> bounce;
};

struct RadosFile::Operation {
  RadosFile* file = nullptr;
  FileRequest* request = nullptr;
  std::deque<Piece> pieces;
  std::size_t left = 0;
  int error = 0;
};

RadosFile::~RadosFile() {
  HOLDFAST_ASSERT(in_flight_ == 0);
}

void RadosFile::complete_soon(FileRequest& request, int error) {
  request.error = error;
  executor_.post([&request] { request.complete(); });
}

void RadosFile::start(FileRequest& request) {
  if (request.operation == FileOperation::sync_data) return complete_soon(request, 0);
  const std::uint64_t bytes = total_bytes(request);
  if (request.offset_bytes > layout_.length_bytes ||
      bytes > layout_.length_bytes - request.offset_bytes) {
    const bool is_read = request.operation == FileOperation::read;
    return complete_soon(request, is_read ? ENODATA : EFBIG);
  }
  if (bytes == 0) return complete_soon(request, 0);
  auto* operation = new Operation;  // NOLINT: deleted with its last piece
  operation->file = this;
  operation->request = &request;
  request.error = 0;
  split(request, *operation);
  operation->left = operation->pieces.size();
  ++in_flight_;
  for (Piece& piece : operation->pieces) client_.submit(piece.transfer, layout_.lane);
}

void RadosFile::split(FileRequest& request, Operation& operation) {
  const std::uint64_t stripe = layout_.stripe_bytes;
  const std::uint64_t objects = layout_.objects.size();
  const std::uint64_t bytes = total_bytes(request);
  for (std::uint64_t done = 0; done < bytes;) {
    const std::uint64_t at = request.offset_bytes + done;
    const std::uint64_t turn = at / stripe;
    const std::uint64_t within = at % stripe;
    const auto length = static_cast<std::size_t>(std::min(bytes - done, stripe - within));
    Piece& piece = operation.pieces.emplace_back();
    piece.operation = &operation;
    piece.request_offset = done;
    RadosTransfer& transfer = piece.transfer;
    transfer.object = &layout_.objects[turn % objects];
    transfer.is_write = request.operation == FileOperation::write;
    transfer.bytes = length;
    transfer.offset_bytes = turn / objects * stripe + within;
    transfer.on_complete = &RadosFile::piece_done;
    transfer.context = &piece;
    transfer.data = contiguous(request, done, length);
    if (transfer.data == nullptr) {
      piece.bounce = std::make_unique_for_overwrite<std::byte[]>(length);
      transfer.data = piece.bounce.get();
      if (transfer.is_write) copy(request, done, transfer.data, length, false);
    }
    done += length;
  }
}

void RadosFile::piece_done(RadosTransfer& transfer) {
  Piece& piece = *static_cast<Piece*>(transfer.context);
  Operation& operation = *piece.operation;
  RadosFile& file = *operation.file;
  // A crash came before the object was made; nothing can have been written to it.
  if (transfer.error == ENOENT && !transfer.is_write && file.layout_.has_gaps) transfer.error = 0;
  if (transfer.error != 0) {
    operation.error = transfer.error;
  } else if (!transfer.is_write) {
    if (transfer.bytes_transferred < transfer.bytes) {
      if (!file.layout_.has_gaps) operation.error = ENODATA;
      std::memset(transfer.data + transfer.bytes_transferred, 0,
                  transfer.bytes - transfer.bytes_transferred);
    }
    if (piece.bounce != nullptr) {
      copy(*operation.request, piece.request_offset, transfer.data, transfer.bytes, true);
    }
  }
  if (--operation.left != 0) return;
  FileRequest& request = *operation.request;
  request.error = operation.error;
  --file.in_flight_;
  delete &operation;  // NOLINT: made in start()
  request.complete();
}

}  // namespace holdfast
