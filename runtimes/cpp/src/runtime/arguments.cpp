#include "runtime/arguments.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "bundle/shapes.h"
#include "runtime/finite.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// More is a mistake, whose bytes would not fit into 64 bits at last.
constexpr std::int64_t kLargestSide = 1 << 20;

// Python's round(): halves go to the even neighbour.
std::int64_t nearest(std::int64_t size, std::int64_t multiple) {
  const double whole = std::nearbyint(static_cast<double>(size) / static_cast<double>(multiple));
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(whole)) * multiple;
}

std::string list_text(const Shape& shape) {
  std::vector<std::string> parts;
  for (const std::int64_t size : shape) parts.push_back(std::to_string(size));
  return "[" + join(parts) + "]";
}

}  // namespace

void check_size(const char* name, std::optional<std::int64_t> size, std::int64_t multiple) {
  if (!size) return;
  if (*size > kLargestSide) {
    throw InputError(std::string(name) + ": " + std::to_string(*size) + " came, expected at most " +
                     std::to_string(kLargestSide) + " pixels");
  }
  if (*size >= 1 && *size % multiple == 0) return;
  throw InputError(std::string(name) + ": " + std::to_string(*size) + " came, expected a multiple of " +
                   std::to_string(multiple) + " pixels; the nearest is " + std::to_string(nearest(*size, multiple)));
}

void check_limits(const bundle::Manifest& manifest, std::optional<std::int64_t> height,
                  std::optional<std::int64_t> width) {
  const auto& axes = manifest.component("denoiser")->input("latents")->axes;
  const auto check = [&](const char* name, const bundle::AxisSpec& spec, std::optional<std::int64_t> size) {
    const auto* axis = std::get_if<bundle::Axis>(&spec);
    if (axis == nullptr || !size) return;
    const std::int64_t patch = manifest.latents.spatial_compression * axis->multiple, patches = *size / patch;
    const std::string came = std::string(name) + ": " + std::to_string(*size) + " came, expected at ";
    if (axis->maximum && patches > *axis->maximum) {
      throw InputError(came + "most " + std::to_string(*axis->maximum * patch) +
                       " pixels: this model's positions end at " + std::to_string(*axis->maximum) + " patches of " +
                       std::to_string(patch) + " pixels");
    }
    if (patches < axis->minimum) {
      throw InputError(came + "least " + std::to_string(axis->minimum * patch) + " pixels for this model");
    }
  };
  check("height", axes[axes.size() - 2], height);
  check("width", axes[axes.size() - 1], width);
}

Shape latents_shape(const bundle::Latents& latents, std::int64_t batch, std::optional<std::int64_t> height,
                    std::optional<std::int64_t> width, std::optional<std::int64_t> frames) {
  Shape shape{batch, latents.channels};
  if (frames) shape.push_back(*frames);
  shape.push_back(height ? *height / latents.spatial_compression : latents.height);
  shape.push_back(width ? *width / latents.spatial_compression : latents.width);
  return shape;
}

Sizes patch_grid(const Component& denoiser, const Shape& shape) {
  Sizes grid;
  const auto& axes = denoiser.input("latents")->axes;
  for (std::size_t index = 2; index < shape.size(); ++index) {
    const auto& axis = std::get<bundle::Axis>(axes.at(index));  // the manifest was held against this
    const auto free = axis.free(shape[index]);
    if (!free) {
      throw InputError("latents: " + axis.name + " of " + list_text(shape) + " came, which the denoiser does not take");
    }
    grid[axis.name] = *free;
  }
  return grid;
}

std::optional<double> read_frame_rate(const bundle::Manifest& manifest, std::optional<double> frame_rate) {
  if (!frame_rate) return manifest.latents.frame_rate;
  const std::string came = "frame_rate: " + number_repr(*frame_rate) + " came, ";
  if (!manifest.latents.frames) throw InputError(came + "but this bundle draws pictures; leave it out");
  if (!(*frame_rate > 0 && *frame_rate < 1000)) {
    throw InputError(came + "expected pictures a second, above 0 and below 1000");
  }
  return frame_rate;
}

LatentsNoise::LatentsNoise(sampling::NoiseSource& source, const Shape& shape, const bundle::Latents& latents)
    : source_(source),
      batch_(static_cast<std::size_t>(shape[0])),
      channels_(static_cast<std::size_t>(shape[1])),
      frames_(shape.size() == 5 ? static_cast<std::size_t>(shape[2]) : 1),
      plane_(static_cast<std::size_t>(shape[shape.size() - 2] * shape.back())),
      frames_first_(shape.size() == 5 && latents.noise_axes == "frames_channels") {}

void LatentsNoise::draw(float* out) {
  const std::size_t each = channels_ * frames_ * plane_;
  if (!frames_first_) return source_.draw(out, batch_, each);
  drawn_.resize(batch_ * each);
  source_.draw(drawn_.data(), batch_, each);
  const float* from = drawn_.data();
  for (std::size_t b = 0; b < batch_; ++b) {
    for (std::size_t f = 0; f < frames_; ++f) {
      for (std::size_t c = 0; c < channels_; ++c, from += plane_) {
        std::copy_n(from, plane_, out + ((b * channels_ + c) * frames_ + f) * plane_);
      }
    }
  }
}

std::vector<std::uint64_t> read_seeds(const std::vector<std::uint64_t>& seed, std::int64_t batch) {
  if (seed.empty()) return {std::random_device{}() & 0xFFFFFFFFu};
  if (seed.size() != 1 && static_cast<std::int64_t>(seed.size()) != batch) {
    throw InputError("seed: " + std::to_string(seed.size()) + " seeds came for " + std::to_string(batch) +
                     " pictures; give one, or one for each");
  }
  return seed;
}

void check_noise(const Array& noise, const Shape& shape) {
  if (noise.shape != shape) {
    throw InputError("noise: float32" + list_text(noise.shape) +
                     " came, expected a float32 array of the latents' shape " + list_text(shape));
  }
  if (noise.values.size() != static_cast<std::size_t>(bundle::elements(shape))) {
    throw InputError("noise: " + std::to_string(noise.values.size()) + " values came, expected " +
                     std::to_string(bundle::elements(shape)) + " for the shape " + list_text(shape));
  }
  if (!all_finite(noise.values.data(), noise.values.size())) {
    throw InputError("noise: holds NaN or infinite values, expected finite ones");
  }
}

}  // namespace dit_deploy::runtime
