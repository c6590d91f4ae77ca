#include "runtime/images.h"

#include <algorithm>
#include <cmath>

#include "bundle/shapes.h"
#include "runtime/resize.h"

namespace dit_deploy::runtime {
namespace {

// More is no picture but a mistake; the product of such sizes still fits into 64 bits.
constexpr std::int64_t kLargestSide = 1 << 20;

std::string size_text(const Picture& picture) {
  return std::to_string(picture.width) + "×" + std::to_string(picture.height);
}

void check_picture(const Picture& picture, const std::string& what) {
  if (picture.channels < 1 || picture.channels > 4) {
    throw InputError(what + ": " + std::to_string(picture.channels) +
                     " channels came, expected 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA)");
  }
  if (picture.height < 1 || picture.width < 1 || picture.height > kLargestSide || picture.width > kLargestSide) {
    throw InputError(what + ": a picture of " + size_text(picture) + " pixels came, expected 1×1 to " +
                     std::to_string(kLargestSide) + "×" + std::to_string(kLargestSide));
  }
  const auto expected = static_cast<std::uint64_t>(picture.height * picture.width * picture.channels);
  if (picture.pixels.size() != expected) {
    throw InputError(what + ": " + std::to_string(picture.pixels.size()) + " bytes of pixels came, expected " +
                     std::to_string(expected) + " for " + size_text(picture) + " pixels of " +
                     std::to_string(picture.channels) + " channels");
  }
}

// Pillow's alpha_composite over opaque white: weights of 7 more bits, and a division by 255 by shifts.
std::uint8_t over_white(std::uint32_t value, std::uint32_t alpha) {
  const std::uint32_t weight = alpha << 7;
  const std::uint32_t sum = value * weight + 255u * ((255u << 7) - weight) + (0x80u << 7);
  return static_cast<std::uint8_t>((((sum >> 8) + sum) >> 8) >> 7);
}

// ITU-R 601-2 luma in Pillow's fixed point.
std::uint8_t luma(const std::uint8_t* rgb) {
  return static_cast<std::uint8_t>((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

// `picture` with 1 or 3 channels, without transparency.
Picture opaque(const Picture& picture, std::int64_t channels) {
  if (picture.channels == channels) return picture;
  const auto from = static_cast<std::size_t>(picture.channels);
  const auto to = static_cast<std::size_t>(channels);
  const auto count = static_cast<std::size_t>(picture.height * picture.width);
  const bool grey = from <= 2, transparent = from == 2 || from == 4;
  Picture done{picture.height, picture.width, channels, std::vector<std::uint8_t>(count * to)};
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* in = picture.pixels.data() + i * from;
    std::uint8_t rgb[3] = {in[0], grey ? in[0] : in[1], grey ? in[0] : in[2]};
    if (transparent) {
      for (std::uint8_t& value : rgb) value = over_white(value, in[from - 1]);
    }
    if (to == 1) {
      done.pixels[i] = luma(rgb);
    } else {
      std::copy_n(rgb, 3, done.pixels.data() + i * 3);
    }
  }
  return done;
}

// The values of a picture in 0 … 1, plane by plane.
void append_planes(const Picture& picture, std::vector<float>& out) {
  const auto channels = static_cast<std::size_t>(picture.channels);
  const auto area = static_cast<std::size_t>(picture.height * picture.width);
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::size_t i = 0; i < area; ++i) {
      out.push_back(static_cast<float>(picture.pixels[i * channels + c]) / 255.0f);
    }
  }
}

}  // namespace

Pixels read_images(const std::vector<Picture>& pictures, std::int64_t multiple, std::int64_t channels,
                   std::optional<std::int64_t> height, std::optional<std::int64_t> width, const std::string& what) {
  for (const Picture& picture : pictures) check_picture(picture, what);
  const Picture& first = pictures.front();
  const std::int64_t rows = height.value_or(first.height / multiple * multiple);
  const std::int64_t columns = width.value_or(first.width / multiple * multiple);
  if (rows < 1 || columns < 1) {
    throw InputError(what + ": " + size_text(first) + " pixels came, at least " + std::to_string(multiple) + "×" +
                     std::to_string(multiple) + " expected");
  }
  Pixels pixels;
  pixels.shape = {static_cast<std::int64_t>(pictures.size()), channels, rows, columns};
  pixels.values.reserve(static_cast<std::size_t>(bundle::elements(pixels.shape)));
  for (const Picture& picture : pictures) {
    append_planes(resized(opaque(picture, channels), rows, columns), pixels.values);
  }
  return pixels;
}

Pixels read_video(const std::vector<Picture>& video, std::int64_t multiple, std::int64_t channels,
                  std::optional<std::int64_t> frames, std::optional<std::int64_t> height,
                  std::optional<std::int64_t> width) {
  const auto count = static_cast<std::int64_t>(video.size());
  if (frames && count < *frames) {
    throw InputError("video: " + std::to_string(count) + " frames came, num_frames is " + std::to_string(*frames) +
                     "; ask for fewer, or give more");
  }
  const std::vector<Picture> taken(video.begin(),
                                   video.begin() + std::clamp<std::int64_t>(frames.value_or(count), 1, count));
  const Pixels pictures = read_images(taken, multiple, channels, height, width, "video");
  const Shape& shape = pictures.shape;
  const auto area = static_cast<std::ptrdiff_t>(shape[2] * shape[3]);
  Pixels pixels{{1, shape[1], shape[0], shape[2], shape[3]}, {}};
  pixels.values.reserve(pictures.values.size());
  for (std::int64_t c = 0; c < shape[1]; ++c) {
    for (std::int64_t f = 0; f < shape[0]; ++f) {
      const float* plane = pictures.values.data() + (f * shape[1] + c) * area;
      pixels.values.insert(pixels.values.end(), plane, plane + area);
    }
  }
  return pixels;
}

std::vector<float> middle_of(const Picture& picture, std::int64_t size) {
  const std::int64_t shorter = std::min(picture.height, picture.width);
  if (size > kLargestSide || size * std::max(picture.height, picture.width) / shorter > kLargestSide) {
    throw InputError("image: a picture of " + size_text(picture) + " pixels came, which is too narrow to be cut");
  }
  const std::int64_t height = size * picture.height / shorter, width = size * picture.width / shorter;
  const Picture whole = resized(opaque(picture, 3), height, width, Filter::bicubic);
  const std::int64_t top = (height - size) / 2, left = (width - size) / 2;
  Picture middle{size, size, 3, {}};
  for (std::int64_t row = top; row < top + size; ++row) {
    const std::uint8_t* line = whole.pixels.data() + (row * width + left) * 3;
    middle.pixels.insert(middle.pixels.end(), line, line + size * 3);
  }
  std::vector<float> values;
  append_planes(middle, values);
  return values;
}

Picture to_picture(const float* planes, std::int64_t channels, std::int64_t height, std::int64_t width) {
  const auto area = static_cast<std::size_t>(height * width), count = static_cast<std::size_t>(channels);
  Picture picture{height, width, channels, std::vector<std::uint8_t>(area * count)};
  for (std::size_t c = 0; c < count; ++c) {
    for (std::size_t i = 0; i < area; ++i) {
      // nearbyint rounds halves to even, as numpy does.
      const float value = std::nearbyint(planes[c * area + i] * 255.0f);
      picture.pixels[i * count + c] = static_cast<std::uint8_t>(std::clamp(value, 0.0f, 255.0f));
    }
  }
  return picture;
}

}  // namespace dit_deploy::runtime
