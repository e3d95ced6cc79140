// SPDX-License-Identifier: Apache-2.0
//
// Images in files: which format one has, whether it is whole, and qemu-img for those formats that
// it knows better.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"

namespace holdfast {

enum class ImageFormat { raw, qcow2, vhd, vmdk, rbd_diff, rbd };

// "raw", "vpc" (another name of vhd), ...; invalid_argument names those there are.
Result<ImageFormat> parse_image_format(const std::string& name);
const char* image_format_name(ImageFormat format);
// qcow2, vhd, vmdk: those that need a file they can look around in.
bool is_for_qemu_img(ImageFormat format);

inline constexpr std::size_t kImageBeginningBytes = 512;
// From the first bytes of an image; raw where they say nothing.
ImageFormat recognize_image(std::span<const std::byte> beginning);

// Why an image of that format cannot be taken as it is, from its first and its last 512 bytes:
// it refers to other files, is encrypted, or was cut off.
Result<void> check_image_ends(ImageFormat format, std::span<const std::byte> beginning,
                              std::span<const std::byte> ending, std::uint64_t file_bytes);

// `path` is absolute: then no part of it is anything but a name to qemu-img.
// The size of the disk in it; corrupt: qemu-img finds it damaged or cut off.
Result<std::uint64_t> inspect_image(ImageFormat format, const std::string& path);
// Between a file and an NBD URI. `on_percent` is called now and then.
using OnPercent = std::function<void(double percent)>;
Result<void> convert_to_volume(ImageFormat format, const std::string& path, const std::string& uri,
                               const OnPercent& on_percent);
Result<void> convert_from_volume(ImageFormat format, const std::string& uri,
                                 const std::string& path, const OnPercent& on_percent);

}  // namespace holdfast
