#include "runtime/autoencoder.h"

#include <algorithm>
#include <chrono>

#include "bundle/shapes.h"
#include "runtime/finite.h"
#include "runtime/tensors.h"

namespace dit_deploy::runtime {
namespace {

// Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
constexpr std::int64_t kPixelsADecode = 1 << 20;

void timed(Binding& binding, double& seconds) {
  const auto started = std::chrono::steady_clock::now();
  binding.run();
  seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

const float* finite(const HostTensor* tensor, const std::string& name, const char* what) {
  const float* values = floats(tensor, name);
  check_finite(values, static_cast<std::size_t>(bundle::elements(tensor->shape)), what);
  return values;
}

// The latents of frame after frame, [batch · frames, channels, height, width] of [batch, channels, frames, …].
std::vector<float> frame_by_frame(const float* latents, const Shape& shape) {
  const auto batch = static_cast<std::size_t>(shape[0]), channels = static_cast<std::size_t>(shape[1]);
  const auto frames = static_cast<std::size_t>(shape[2]), area = static_cast<std::size_t>(shape[3] * shape[4]);
  std::vector<float> turned(batch * channels * frames * area);
  float* out = turned.data();
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t f = 0; f < frames; ++f) {
      for (std::size_t c = 0; c < channels; ++c) {
        out = std::copy_n(latents + ((b * channels + c) * frames + f) * area, area, out);
      }
    }
  }
  return turned;
}

}  // namespace

std::vector<float> encode(BindingPool& pool, const Pixels& images, const Shape& shape, sampling::NoiseSource& source,
                          double& seconds) {
  const std::size_t rows = shape.size();
  const auto lease =
      pool.borrow({{"batch", images.shape[0]}, {"latent_height", shape[rows - 2]}, {"latent_width", shape[rows - 1]}});
  std::copy(images.values.begin(), images.values.end(), floats(lease->input("images"), "images"));
  timed(*lease, seconds);
  const HostTensor* mean_tensor = lease->output("mean");
  const HostTensor* std_tensor = lease->output("std");
  const float* mean = finite(mean_tensor, "mean", "the VAE encoder's mean holds");
  const auto batch = static_cast<std::size_t>(shape[0]);
  const auto each = static_cast<std::size_t>(bundle::elements(shape)) / batch;
  if (bundle::elements(mean_tensor->shape) / images.shape[0] != static_cast<std::int64_t>(each)) {
    throw BackendError("the VAE encoder's mean is " + bundle::shape_text(mean_tensor->shape) + ", the latents are " +
                       bundle::shape_text(shape) + "; export the bundle again");
  }
  std::vector<float> latents(batch * each);
  const bool one = images.shape[0] == 1;  // one picture for all samples
  for (std::size_t b = 0; b < batch; ++b) std::copy_n(mean + (one ? 0 : b * each), each, latents.data() + b * each);
  if (std_tensor == nullptr) return latents;
  const float* deviation = finite(std_tensor, "std", "the VAE encoder's std holds");
  std::vector<float> noise(latents.size());
  source.draw(noise.data(), batch, each);
  for (std::size_t b = 0; b < batch; ++b) {
    const float* own = deviation + (one ? 0 : b * each);
    for (std::size_t i = 0; i < each; ++i) latents[b * each + i] += own[i] * noise[b * each + i];
  }
  return latents;
}

void decode(BindingPool& pool, const float* latents, const Shape& shape, std::int64_t compression, double& seconds,
            const Decoded& decoded) {
  const bundle::TensorSpec& spec = *pool.runner().component().input("latents");
  Shape turned_shape = shape;
  std::vector<float> turned;
  if (shape.size() == 5 && spec.axes.size() == 4) {
    turned = frame_by_frame(latents, shape);
    latents = turned.data();
    turned_shape = {shape[0] * shape[2], shape[1], shape[3], shape[4]};
  }
  const std::size_t rank = turned_shape.size();
  const std::int64_t pixels =
      turned_shape[rank - 2] * turned_shape[rank - 1] * compression * compression * (rank == 5 ? turned_shape[2] : 1);
  const std::int64_t group = std::max<std::int64_t>(1, kPixelsADecode / pixels);
  const std::int64_t each = bundle::elements(turned_shape) / turned_shape[0];
  for (std::int64_t first = 0; first < turned_shape[0]; first += group) {
    Shape part = turned_shape;
    part[0] = std::min(group, turned_shape[0] - first);
    Sizes sizes;
    std::map<std::string, std::string> owner;
    bundle::bind_axes(spec, DType::float32, part, sizes, owner);
    const auto lease = pool.borrow(sizes);
    std::copy_n(latents + first * each, part[0] * each, floats(lease->input("latents"), "latents"));
    timed(*lease, seconds);
    const HostTensor* tensor = lease->output("images");
    const float* images = finite(tensor, "images", "the VAE decoder's pictures hold");
    const Shape& made = tensor->shape;  // [batch, channels, (frames,) height, width]
    const std::int64_t area = made[made.size() - 2] * made[made.size() - 1];
    std::vector<float> frames;
    std::int64_t count = made[0];
    if (made.size() == 5) {
      frames = frame_by_frame(images, made);
      images = frames.data();
      count *= made[2];
    }
    for (std::int64_t i = 0; i < count; ++i) {
      decoded(images + i * made[1] * area, made[1], made[made.size() - 2], made[made.size() - 1]);
    }
  }
}

}  // namespace dit_deploy::runtime
