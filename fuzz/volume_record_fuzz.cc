// SPDX-License-Identifier: Apache-2.0
//
// Volume records: what is accepted encodes to the same bytes.
#include "base/assert.h"
#include "format/pool_record.h"
#include "fuzz/sealed_input.h"

using namespace holdfast;  // NOLINT: a program of one file

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::vector<std::byte> block = sealed_input(data, bytes, format::kVolumeRecordMagic);
  const auto record = format::decode_volume_record(block);
  if (record.ok()) {
    HOLDFAST_ASSERT(format::encode_volume_record(record.value()) == block);
  } else {
    HOLDFAST_ASSERT(!record.error().message().empty());
  }
  return 0;
}
