#include "dit_deploy_run/exif.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace dit_deploy::run {

namespace {

constexpr int kUpright = 1;
constexpr std::uint32_t kOrientationTag = 0x0112, kShort = 3;

// `size` bytes at `at` as a number; 0 beyond the end.
std::uint32_t number(std::string_view data, std::size_t at, std::size_t size, bool big_endian) {
  if (size > data.size() || at > data.size() - size) return 0;
  std::uint32_t value = 0;
  for (std::size_t index = 0; index < size; ++index) {
    const std::size_t byte = big_endian ? index : size - 1 - index;
    value = value << 8 | static_cast<std::uint8_t>(data[at + byte]);
  }
  return value;
}

// Of a block of TIFF, as Exif is one: byte order, 42, where the first directory is; entries of tag, type, count, value.
int orientation_in_tiff(std::string_view tiff) {
  const std::string_view order = tiff.substr(0, 2);
  if (order != "MM" && order != "II") return kUpright;
  const bool big = order == "MM";
  if (number(tiff, 2, 2, big) != 42) return kUpright;
  const std::size_t directory = number(tiff, 4, 4, big);
  const std::size_t count = number(tiff, directory, 2, big);
  for (std::size_t index = 0; index < count; ++index) {
    const std::size_t entry = directory + 2 + 12 * index;
    if (entry >= tiff.size()) break;
    if (number(tiff, entry, 2, big) != kOrientationTag || number(tiff, entry + 2, 2, big) != kShort) continue;
    const auto value = static_cast<int>(number(tiff, entry + 8, 2, big));
    return value >= 1 && value <= 8 ? value : kUpright;
  }
  return kUpright;
}

// Segments of JPEG up to the start of the scan: FF, marker, size of what follows with the size itself.
int orientation_in_jpeg(std::string_view file) {
  constexpr std::uint32_t kApp1 = 0xE1, kStartOfScan = 0xDA, kEnd = 0xD9;
  for (std::size_t at = 2; at + 4 <= file.size();) {
    if (static_cast<std::uint8_t>(file[at]) != 0xFF) break;
    const std::uint32_t marker = number(file, at + 1, 1, true);
    if (marker == 0xFF) {  // a fill byte
      ++at;
      continue;
    }
    if (marker == kStartOfScan || marker == kEnd) break;
    const std::size_t size = number(file, at + 2, 2, true);
    if (size < 2) break;
    const std::string_view segment = file.substr(at + 4, size - 2);
    constexpr std::string_view kExif("Exif\0\0", 6);
    if (marker == kApp1 && segment.substr(0, kExif.size()) == kExif) {
      return orientation_in_tiff(segment.substr(kExif.size()));
    }
    at += 2 + size;
  }
  return kUpright;
}

// Chunks of PNG: size, name, data, check sum.
int orientation_in_png(std::string_view file) {
  for (std::size_t at = 8; at + 12 <= file.size();) {
    const std::size_t size = number(file, at, 4, true);
    const std::string_view name = file.substr(at + 4, 4);
    if (name == "eXIf") return orientation_in_tiff(file.substr(at + 8, size));
    if (name == "IEND") break;
    at += 12 + size;
  }
  return kUpright;
}

}  // namespace

int orientation(std::string_view file) {
  if (file.substr(0, 2) == "\xFF\xD8") return orientation_in_jpeg(file);
  if (file.substr(0, 8) == "\x89PNG\r\n\x1A\n") return orientation_in_png(file);
  return kUpright;
}

Picture turned_upright(Picture picture, int orientation) {
  if (orientation <= kUpright || orientation > 8) return picture;
  const std::int64_t rows = picture.height, columns = picture.width;
  const bool swapped = orientation >= 5;
  Picture out{swapped ? columns : rows, swapped ? rows : columns, picture.channels, {}};
  out.pixels.resize(picture.pixels.size());
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  for (std::int64_t y = 0; y < out.height; ++y) {
    for (std::int64_t x = 0; x < out.width; ++x) {
      std::int64_t row = swapped ? x : y, column = swapped ? y : x;
      if (from_below) row = rows - 1 - row;
      if (from_right) column = columns - 1 - column;
      for (std::int64_t channel = 0; channel < out.channels; ++channel) {
        out.pixels[static_cast<std::size_t>((y * out.width + x) * out.channels + channel)] =
            picture.pixels[static_cast<std::size_t>((row * columns + column) * out.channels + channel)];
      }
    }
  }
  return out;
}

}  // namespace dit_deploy::run
