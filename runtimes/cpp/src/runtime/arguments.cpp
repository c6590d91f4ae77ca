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

Shape latents_shape(const bundle::Manifest& manifest, std::int64_t batch, std::optional<std::int64_t> height,
                    std::optional<std::int64_t> width, std::optional<std::int64_t> num_frames) {
  const bundle::Latents& latents = manifest.latents;
  Shape shape{batch, latents.channels};
  const bool video = manifest.component("denoiser")->input("latents")->axes.size() == 5;
  if (video) {
    const std::int64_t frames = num_frames.value_or(0), stride = latents.temporal_compression;
    // Causal video autoencoders keep the first frame by itself; with a compression of 1 that is every frame.
    if (frames < 1 || (frames - 1) % stride != 0) {
      throw InputError("num_frames: " + (num_frames ? std::to_string(frames) : std::string("none")) +
                       " came, expected 1 more than a multiple of " + std::to_string(stride) + "; the nearest is " +
                       std::to_string(nearest(std::max<std::int64_t>(frames - 1, 1), stride) + 1));
    }
    shape.push_back((frames - 1) / stride + 1);
  } else if (num_frames) {
    throw InputError("num_frames: " + std::to_string(*num_frames) +
                     " came, but this bundle makes pictures; leave it out");
  }
  shape.push_back(height ? *height / latents.spatial_compression : latents.height);
  shape.push_back(width ? *width / latents.spatial_compression : latents.width);
  return shape;
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
