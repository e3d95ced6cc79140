// SPDX-License-Identifier: Apache-2.0
#include "cli/image_file.h"

#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/rbd_stream.h"
#include "cli/program.h"

namespace holdfast {
namespace {

using Json = nlohmann::ordered_json;

struct FormatName {
  const char* name;
  ImageFormat format;
  const char* of_qemu_img;  // null: qemu-img has no part in it
};

// The first of a format is the one that is shown.
constexpr std::array<FormatName, 8> kFormats = {{
    {"raw", ImageFormat::raw, nullptr},
    {"qcow2", ImageFormat::qcow2, "qcow2"},
    {"vhd", ImageFormat::vhd, "vpc"},
    {"vmdk", ImageFormat::vmdk, "vmdk"},
    {"rbd-diff", ImageFormat::rbd_diff, nullptr},
    {"rbd", ImageFormat::rbd, nullptr},
    {"vpc", ImageFormat::vhd, "vpc"},
    {"rbd-export", ImageFormat::rbd, nullptr},
}};

const FormatName& entry(ImageFormat format) {
  for (const FormatName& each : kFormats) {
    if (each.format == format) return each;
  }
  return kFormats[0];
}

constexpr std::string_view kQcow2Magic = "QFI\xfb";
constexpr std::string_view kVmdkMagic = "KDMV";
constexpr std::string_view kVmdkDescriptor = "# Disk DescriptorFile";
constexpr std::string_view kVhdCookie = "conectix";

// Where they are in a qcow2 header, and a VHD footer; all big-endian.
constexpr std::size_t kQcow2Version = 4;
constexpr std::size_t kQcow2BackingOffset = 8;
constexpr std::size_t kQcow2CryptMethod = 32;
constexpr std::size_t kQcow2IncompatibleFeatures = 72;
constexpr std::uint64_t kQcow2ExternalData = 1 << 2;
constexpr std::size_t kVhdSizeOffset = 48;
constexpr std::size_t kVhdTypeOffset = 60;
constexpr std::uint32_t kVhdFixed = 2;
constexpr std::uint32_t kVhdDynamic = 3;

Error cannot(std::string why) {
  return Error(ErrorCode::corrupt, std::move(why));
}

Error not_alone(const std::string& other) {
  return Error(ErrorCode::unsupported,
               "the image is not whole without another file (" + other +
                   "), and no such file is opened for it; make it one first: qemu-img convert");
}

Result<void> check_qcow2(std::span<const std::byte> begin) {
  if (!as_text(begin).starts_with(kQcow2Magic) || begin.size() < 104) {
    return cannot("this is no qcow2 image: it does not begin like one");
  }
  if (load_big<std::uint64_t>(begin.data() + kQcow2BackingOffset) != 0) {
    return not_alone("its backing file");
  }
  const bool has_features = load_big<std::uint32_t>(begin.data() + kQcow2Version) >= 3;
  if (has_features && (load_big<std::uint64_t>(begin.data() + kQcow2IncompatibleFeatures) &
                       kQcow2ExternalData) != 0) {
    return not_alone("its data file");
  }
  if (load_big<std::uint32_t>(begin.data() + kQcow2CryptMethod) != 0) {
    return Error(ErrorCode::unsupported,
                 "the image is encrypted; decrypt it first: qemu-img convert");
  }
  return {};
}

Result<void> check_vhd(std::span<const std::byte> end, std::uint64_t file_bytes) {
  if (!as_text(end).starts_with(kVhdCookie) || end.size() < kImageBeginningBytes) {
    return cannot("this is no VHD image, or it was cut off: the footer at its end is not there");
  }
  const std::uint64_t size_bytes = load_big<std::uint64_t>(end.data() + kVhdSizeOffset);
  const std::uint32_t type = load_big<std::uint32_t>(end.data() + kVhdTypeOffset);
  if (type == kVhdFixed && size_bytes != file_bytes - kImageBeginningBytes) {
    return cannot("the image says that it holds " + std::to_string(size_bytes) +
                  " bytes, but the file has " + std::to_string(file_bytes - kImageBeginningBytes) +
                  "; it was cut off");
  }
  if (type == kVhdFixed || type == kVhdDynamic) return {};
  return not_alone("its parent");
}

Result<void> check_vmdk(std::span<const std::byte> begin) {
  if (as_text(begin).starts_with(kVmdkMagic)) return {};
  if (as_text(begin).starts_with(kVmdkDescriptor)) return not_alone("its extents");
  return cannot("this is no VMDK image: it does not begin like one");
}

std::string first_line(const std::string& text) {
  const std::size_t start = text.find_first_not_of("\r\n ");
  if (start == std::string::npos) return {};
  return text.substr(start, text.find('\n', start) - start);
}

// What qemu-img says, without its own name.
Error failure(const std::string& what, const ProgramEnd& end) {
  if (end.status == 127) {
    return Error(ErrorCode::unsupported,
                 "qemu-img is not installed, and this format needs it: apt install qemu-utils");
  }
  std::string why = first_line(end.errors);
  if (why.starts_with("qemu-img: ")) why.erase(0, 10);
  if (why.empty()) why = "it ended with status " + std::to_string(end.status);
  return cannot(what + ": " + why);
}

// "    (12.34/100%)\r"
Result<ProgramEnd> run_with_percent(const std::vector<std::string>& arguments,
                                    const OnPercent& on_percent) {
  std::string line;
  return run_program(arguments, [&](std::string_view text) {
    for (const char c : text) {
      if (c == '\r' || c == '\n') {
        const std::size_t at = line.find('(');
        if (at != std::string::npos) on_percent(std::strtod(line.c_str() + at + 1, nullptr));
        line.clear();
      } else if (line.size() < 100) {
        line.push_back(c);
      }
    }
  });
}

}  // namespace

Result<ImageFormat> parse_image_format(const std::string& name) {
  for (const FormatName& each : kFormats) {
    if (name == each.name) return each.format;
  }
  return Error(ErrorCode::invalid_argument,
               "there is no format '" + name + "'; there are raw, qcow2, vhd, vmdk, rbd-diff, rbd");
}

const char* image_format_name(ImageFormat format) {
  return entry(format).name;
}

bool is_for_qemu_img(ImageFormat format) {
  return entry(format).of_qemu_img != nullptr;
}

ImageFormat recognize_image(std::span<const std::byte> beginning) {
  const std::string_view text = as_text(beginning);
  if (text.starts_with("rbd diff v")) return ImageFormat::rbd_diff;
  if (text.starts_with("rbd image v")) return ImageFormat::rbd;
  if (text.starts_with(kQcow2Magic)) return ImageFormat::qcow2;
  if (text.starts_with(kVmdkMagic) || text.starts_with(kVmdkDescriptor)) return ImageFormat::vmdk;
  if (text.starts_with(kVhdCookie)) return ImageFormat::vhd;
  return ImageFormat::raw;
}

Result<void> check_image_ends(ImageFormat format, std::span<const std::byte> beginning,
                              std::span<const std::byte> ending, std::uint64_t file_bytes) {
  switch (format) {
    case ImageFormat::qcow2:
      return check_qcow2(beginning);
    case ImageFormat::vhd:
      return check_vhd(ending, file_bytes);
    case ImageFormat::vmdk:
      return check_vmdk(beginning);
    case ImageFormat::raw:
    case ImageFormat::rbd_diff:
    case ImageFormat::rbd:
      break;
  }
  return {};
}

Result<std::uint64_t> inspect_image(ImageFormat format, const std::string& path) {
  const std::string name = entry(format).of_qemu_img;
  const ProgramEnd info = TRY(run_program({"qemu-img", "info", "--output=json", "-f", name, path}));
  if (info.status != 0) return failure("the image cannot be opened", info);
  const Json about = Json::parse(info.output, nullptr, false);
  if (!about.is_object() || !about.value("virtual-size", Json()).is_number_unsigned()) {
    return cannot("qemu-img does not say how large the image is");
  }
  if (about.contains("backing-filename")) return not_alone("its backing file");
  if (about.value("encrypted", false)) {
    return Error(ErrorCode::unsupported,
                 "the image is encrypted; decrypt it first: qemu-img convert");
  }
  const std::uint64_t size_bytes = about["virtual-size"].get<std::uint64_t>();
  if (format == ImageFormat::vhd) return size_bytes;  // qemu-img cannot check those
  const ProgramEnd check = TRY(run_program({"qemu-img", "check", "-q", "-f", name, path}));
  constexpr int kOnlyLeaks = 3;  // space that nothing uses: nothing is lost
  if (check.status == 0 || check.status == kOnlyLeaks) return size_bytes;
  return failure("the image is damaged or was cut off", check);
}

Result<void> convert_to_volume(ImageFormat format, const std::string& path, const std::string& uri,
                               const OnPercent& on_percent) {
  const ProgramEnd end =
      TRY(run_with_percent({"qemu-img", "convert", "-n", "--target-is-zero", "-p", "-f",
                            entry(format).of_qemu_img, "-O", "raw", path, uri},
                           on_percent));
  if (end.status != 0) return failure("the image could not be read to its end", end);
  return {};
}

Result<void> convert_from_volume(ImageFormat format, const std::string& uri,
                                 const std::string& path, const OnPercent& on_percent) {
  std::vector<std::string> arguments = {
      "qemu-img", "convert", "-p", "-f", "raw", "-O", entry(format).of_qemu_img};
  // Else the size is rounded up to what cylinders, heads and sectors can say.
  if (format == ImageFormat::vhd) arguments.insert(arguments.end(), {"-o", "force_size=on"});
  arguments.insert(arguments.end(), {uri, path});
  const ProgramEnd end = TRY(run_with_percent(arguments, on_percent));
  if (end.status != 0) return failure("the image could not be written", end);
  return {};
}

}  // namespace holdfast
