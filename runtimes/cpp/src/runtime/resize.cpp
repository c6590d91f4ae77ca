#include "runtime/resize.h"

#include <algorithm>
#include <cmath>

namespace dit_deploy::runtime {
namespace {

// Pillow keeps weights as integers: 8 bits of the pixel and 2 of headroom leave 22 of 32.
constexpr int kPrecision = 32 - 8 - 2;
constexpr double kPi = 3.141592653589793238462643383279502884;

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * kPi) / (x * kPi); }

double lanczos(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

// Keys' cubic convolution with a = −0.5.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

// A filter, and how far from the middle it reaches.
struct Kernel {
  double (*weight)(double x);
  double support;
};
constexpr Kernel kLanczos{lanczos, 3.0}, kBicubic{bicubic, 2.0};

// Which pixels of a line one output pixel is made of, and their weights.
struct Window {
  std::int64_t first = 0;
  std::vector<std::int32_t> weights;
};

std::vector<Window> windows(std::int64_t from, std::int64_t to, const Kernel& kernel) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double filter_scale = std::max(scale, 1.0);
  const double support = kernel.support * filter_scale;
  std::vector<Window> all(static_cast<std::size_t>(to));
  std::vector<double> weights;
  for (std::int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const auto last = std::min(static_cast<std::int64_t>(center + support + 0.5), from);
    weights.clear();
    double sum = 0.0;
    for (std::int64_t x = first; x < last; ++x) {
      weights.push_back(kernel.weight((static_cast<double>(x) - center + 0.5) * (1.0 / filter_scale)));
      sum += weights.back();
    }
    Window& window = all[static_cast<std::size_t>(i)];
    window.first = first;
    for (const double weight : weights) {
      const double exact = (sum != 0.0 ? weight / sum : weight) * (1 << kPrecision);
      window.weights.push_back(static_cast<std::int32_t>(exact < 0 ? exact - 0.5 : exact + 0.5));
    }
  }
  return all;
}

// One output value: the weighted sum of values `stride` apart.
std::uint8_t weighted(const std::uint8_t* values, std::int64_t stride, const Window& window) {
  std::int32_t sum = 1 << (kPrecision - 1);
  for (std::size_t i = 0; i < window.weights.size(); ++i) {
    sum += values[static_cast<std::int64_t>(i) * stride] * window.weights[i];
  }
  return static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255));
}

Picture blank(std::int64_t height, std::int64_t width, std::int64_t channels) {
  return {height, width, channels, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width * channels))};
}

Picture wider(const Picture& picture, std::int64_t width, const Kernel& kernel) {
  if (width == picture.width) return picture;
  Picture done = blank(picture.height, width, picture.channels);
  const std::vector<Window> columns = windows(picture.width, width, kernel);
  auto* out = done.pixels.data();
  for (std::int64_t y = 0; y < picture.height; ++y) {
    const std::uint8_t* line = picture.pixels.data() + y * picture.width * picture.channels;
    for (const Window& window : columns) {
      for (std::int64_t c = 0; c < picture.channels; ++c) {
        *out++ = weighted(line + window.first * picture.channels + c, picture.channels, window);
      }
    }
  }
  return done;
}

Picture higher(const Picture& picture, std::int64_t height, const Kernel& kernel) {
  if (height == picture.height) return picture;
  Picture done = blank(height, picture.width, picture.channels);
  const std::int64_t stride = picture.width * picture.channels;
  auto* out = done.pixels.data();
  for (const Window& window : windows(picture.height, height, kernel)) {
    const std::uint8_t* lines = picture.pixels.data() + window.first * stride;
    for (std::int64_t i = 0; i < stride; ++i) *out++ = weighted(lines + i, stride, window);
  }
  return done;
}

}  // namespace

Picture resized(const Picture& picture, std::int64_t height, std::int64_t width, Filter filter) {
  const Kernel& kernel = filter == Filter::lanczos ? kLanczos : kBicubic;
  // What is between the two passes is rounded, so their order shows. Pillow 13 begins with the height where more lines
  // go than twice the columns that do; tests/runtimes/cpp/golden_images.py holds it against that.
  const std::int64_t lower = picture.height - height, narrower = picture.width - width;
  if (lower > 0 && 2 * narrower < lower) return wider(higher(picture, height, kernel), width, kernel);
  return higher(wider(picture, width, kernel), height, kernel);
}

}  // namespace dit_deploy::runtime
