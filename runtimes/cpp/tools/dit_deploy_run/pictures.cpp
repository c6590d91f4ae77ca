#include "dit_deploy_run/pictures.h"

#include <stb_image.h>
#include <stb_image_write.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string_view>
#include <system_error>

#include "dit_deploy_run/exif.h"
#include "dit_deploy_run/files.h"

namespace dit_deploy::run {

namespace {

constexpr std::int64_t kMostPixels = 178'956'970;  // as Pillow: more is a decompression bomb
constexpr int kJpegQuality = 95;
constexpr std::int64_t kGap = 2;  // pixels between the pictures of a contact sheet

struct Free {
  void operator()(void* pixels) const { stbi_image_free(pixels); }
};

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& why) {
  throw InputError("image: " + path.string() + " cannot be read as a picture: " + why);
}

std::string contents(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) throw InputError("image: " + path.string() + " does not exist");
  if (std::filesystem::is_directory(path, failed)) refuse(path, "it is a folder");
  std::ifstream stream(path, std::ios::binary);
  std::string data{std::istreambuf_iterator<char>(stream), {}};
  if (!stream.good() && !stream.eof()) refuse(path, "it cannot be opened");
  if (data.empty()) refuse(path, "it is empty");
  if (data.size() > INT_MAX) refuse(path, "it has more than two gigabytes");
  return data;
}

bool is_png(std::string_view data) { return data.substr(0, 8) == "\x89PNG\r\n\x1A\n"; }

// Grey in 16 bits is scaled, as runtimes/images.py does; colours keep their upper 8 bits, as Pillow opens them.
bool is_grey_in_16_bits(std::string_view data) {
  constexpr std::size_t kDepth = 24, kColourType = 25;
  return is_png(data) && data.size() > kColourType && data[kDepth] == 16 && data[kColourType] == 0;
}

}  // namespace

Picture read_picture(const std::filesystem::path& path) {
  const std::string data = contents(path);
  if (!is_png(data) && data.compare(0, 2, "\xFF\xD8") != 0) {
    refuse(path, "it is neither PNG nor JPEG; convert it to a .png or .jpg file");
  }
  const auto* bytes = reinterpret_cast<const stbi_uc*>(data.data());
  const int size = static_cast<int>(data.size());
  int width = 0, height = 0, channels = 0;
  if (stbi_info_from_memory(bytes, size, &width, &height, &channels) == 0) refuse(path, stbi_failure_reason());
  if (std::int64_t{width} * height > kMostPixels) {
    refuse(path, std::to_string(width) + "×" + std::to_string(height) + " pixels came, at most " +
                     std::to_string(kMostPixels) + " are read");
  }
  Picture picture;
  if (is_grey_in_16_bits(data)) {
    const std::unique_ptr<stbi_us, Free> grey(stbi_load_16_from_memory(bytes, size, &width, &height, &channels, 1));
    if (!grey) refuse(path, stbi_failure_reason());
    picture = {height, width, 1, std::vector<std::uint8_t>(std::size_t(width) * std::size_t(height))};
    for (std::size_t index = 0; index < picture.pixels.size(); ++index) {
      picture.pixels[index] = static_cast<std::uint8_t>((grey.get()[index] + 128U) / 257U);  // 65535 / 255, rounded
    }
  } else {
    const std::unique_ptr<stbi_uc, Free> pixels(stbi_load_from_memory(bytes, size, &width, &height, &channels, 0));
    if (!pixels) refuse(path, stbi_failure_reason());
    const std::size_t count = std::size_t(width) * std::size_t(height) * std::size_t(channels);
    picture = {height, width, channels, {pixels.get(), pixels.get() + count}};
  }
  return turned_upright(std::move(picture), orientation(data));
}

std::vector<Picture> read_frames(const std::filesystem::path& folder) {
  std::error_code failed;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    const std::string suffix = lower(entry.path().extension().string());
    if (suffix == ".png" || suffix == ".jpg" || suffix == ".jpeg") files.push_back(entry.path());
  }
  if (failed) throw InputError("video: " + folder.string() + " is no folder of pictures: " + failed.message());
  if (files.empty()) throw InputError("video: " + folder.string() + " holds no pictures");
  std::sort(files.begin(), files.end());
  std::vector<Picture> frames;
  for (const auto& file : files) frames.push_back(read_picture(file));
  return frames;
}

std::string encoded(const Picture& picture, const std::string& suffix) {
  std::string out;
  const auto append = [](void* context, void* data, int size) {
    static_cast<std::string*>(context)->append(static_cast<const char*>(data), static_cast<std::size_t>(size));
  };
  const int width = static_cast<int>(picture.width), height = static_cast<int>(picture.height);
  const int channels = static_cast<int>(picture.channels);
  const int done =
      lower(suffix) == ".png"
          ? stbi_write_png_to_func(append, &out, width, height, channels, picture.pixels.data(), 0)
          : stbi_write_jpg_to_func(append, &out, width, height, channels, picture.pixels.data(), kJpegQuality);
  if (done == 0)
    throw InputError(std::to_string(width) + "×" + std::to_string(height) + " pixels do not fit into a " + suffix);
  return out;
}

Picture contact_sheet(const std::vector<Picture>& pictures, std::optional<std::int64_t> columns) {
  const auto count = static_cast<std::int64_t>(pictures.size());
  const auto square = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const std::int64_t wide = std::min(columns.value_or(square), count);
  const std::int64_t rows = (count + wide - 1) / wide;
  const Picture& first = pictures.front();
  Picture sheet{rows * (first.height + kGap) - kGap, wide * (first.width + kGap) - kGap, first.channels, {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.height * sheet.width * sheet.channels), 255);
  const auto line = static_cast<std::size_t>(first.width * first.channels);
  for (std::int64_t index = 0; index < count; ++index) {
    const std::int64_t top = index / wide * (first.height + kGap), left = index % wide * (first.width + kGap);
    for (std::int64_t y = 0; y < first.height; ++y) {
      std::memcpy(&sheet.pixels[static_cast<std::size_t>(((top + y) * sheet.width + left) * sheet.channels)],
                  &pictures[static_cast<std::size_t>(index)].pixels[static_cast<std::size_t>(y) * line], line);
    }
  }
  return sheet;
}

}  // namespace dit_deploy::run
