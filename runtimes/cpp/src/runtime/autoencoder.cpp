#include "runtime/autoencoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "bundle/shapes.h"
#include "runtime/finite.h"
#include "runtime/tensors.h"
#include "runtime/tiling.h"

namespace dit_deploy::runtime {
namespace {

// Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
constexpr std::int64_t kPixelsADecode = 1 << 20;

const float* finite(const HostTensor* tensor, const std::string& name, const char* what) {
  const float* values = floats(tensor, name);
  check_finite(values, static_cast<std::size_t>(bundle::elements(tensor->shape)), what);
  return values;
}

// Encoder or decoder, called with values of one shape after another.
class Half {
 public:
  Half(BindingPool& pool, const char* given, double& seconds) : pool_(pool), given_(given), seconds_(seconds) {}

  // Runs on values of `shape`; outputs are valid until the next call.
  void run(const float* values, const Shape& shape) {
    Sizes sizes;
    std::map<std::string, std::string> owner;
    const bundle::TensorSpec& spec = *pool_.runner().component().input(given_);
    bundle::bind_axes(spec, spec.dtype, shape, sizes, owner);
    if (!lease_ || sizes != sizes_) {
      lease_ = {};
      lease_ = pool_.borrow(sizes);
      sizes_ = std::move(sizes);
    }
    std::copy_n(values, bundle::elements(shape), floats(lease_->input(given_), given_));
    const auto started = std::chrono::steady_clock::now();
    lease_->run();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  }
  const HostTensor* output(const char* name) { return lease_->output(name); }

 private:
  BindingPool& pool_;
  const char* given_;
  double& seconds_;
  BindingPool::Lease lease_;
  Sizes sizes_;
};

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

// Mean and, where the encoder has one, deviation of the posterior, [images, channels, height, width].
struct Posterior {
  Planes mean, deviation;
};

Planes copied(const HostTensor* tensor, const std::string& name, const char* what) {
  const float* values = finite(tensor, name, what);
  return {tensor->shape, {values, values + bundle::elements(tensor->shape)}};
}

Posterior posterior_of(Half& half, const float* images, const Shape& shape) {
  half.run(images, shape);
  Posterior found{copied(half.output("mean"), "mean", "the VAE encoder's mean holds"), {}};
  if (half.output("std") != nullptr) {
    found.deviation = copied(half.output("std"), "std", "the VAE encoder's std holds");
  }
  return found;
}

template <typename Function>
void apply(std::vector<float>& values, Function function) {
  for (float& value : values) value = function(value);
}

// What fades into what comes next are the mean and the logarithm of the deviation, which is what diffusers blends.
Posterior posterior_in_pieces(Half& half, const Pixels& images, const Shape& shape, std::int64_t tile) {
  const auto rows = pieces(shape[2], tile), columns = pieces(shape[3], tile);
  const std::int64_t compression = images.shape[2] / shape[2];
  std::vector<Posterior> parts;
  for (const Span& down : rows) {
    for (const Span& across : columns) {
      const Planes part =
          part_of(images.values.data(), images.shape, {down.begin * compression, down.end * compression},
                  {across.begin * compression, across.end * compression});
      parts.push_back(posterior_of(half, part.values.data(), part.shape));
      apply(parts.back().deviation.values, [](float value) { return std::log(value); });
    }
  }
  const Shape whole{images.shape[0], shape[1], shape[2], shape[3]};
  const auto blended = [&](Planes Posterior::* member) {
    return assemble(whole, tile, rows.size(), columns.size(), [&](std::size_t row, std::size_t column) {
      return std::move(parts[row * columns.size() + column].*member);
    });
  };
  const bool draws = !parts.front().deviation.shape.empty();
  Posterior found{blended(&Posterior::mean), draws ? blended(&Posterior::deviation) : Planes{}};
  apply(found.deviation.values, [](float value) { return std::exp(value); });
  return found;
}

// A part of the latents decoded, in one piece or in several: [batch, channels, (frames,) height, width].
Planes decoded_part(Half& half, const float* latents, const Shape& shape, std::int64_t compression,
                    std::optional<std::int64_t> tile) {
  const auto run = [&](const float* values, const Shape& own) {
    half.run(values, own);
    return copied(half.output("images"), "images", "the VAE decoder's pictures hold");
  };
  if (!tile) return run(latents, shape);
  const auto rows = pieces(shape[2], *tile), columns = pieces(shape[3], *tile);
  Planes first;  // its channels are those of the whole
  const auto piece = [&](std::size_t row, std::size_t column) {
    if (row == 0 && column == 0) return std::move(first);
    const Planes part = part_of(latents, shape, rows[row], columns[column]);
    return run(part.values.data(), part.shape);
  };
  const Planes part = part_of(latents, shape, rows[0], columns[0]);
  first = run(part.values.data(), part.shape);
  const Shape whole{shape[0], first.shape[1], shape[2] * compression, shape[3] * compression};
  return assemble(whole, *tile * compression, rows.size(), columns.size(), piece);
}

}  // namespace

std::optional<std::int64_t> tile_of(std::optional<std::int64_t> vae_tile, std::int64_t compression) {
  if (!vae_tile) return std::nullopt;
  const std::int64_t multiple = 4 * compression;
  if (*vae_tile < 1 || *vae_tile % multiple != 0) {
    throw InputError("vae_tile: " + std::to_string(*vae_tile) + " came, expected a multiple of " +
                     std::to_string(multiple) + " pixels, or None");
  }
  return *vae_tile / compression;
}

std::vector<float> encode(BindingPool& pool, const Pixels& images, const Shape& shape, sampling::NoiseSource& source,
                          std::optional<std::int64_t> tile, double& seconds) {
  Half half(pool, "images", seconds);
  const bool whole = shape.size() != 4 || !tile || std::max(shape[2], shape[3]) <= *tile;
  const Posterior posterior =
      whole ? posterior_of(half, images.values.data(), images.shape) : posterior_in_pieces(half, images, shape, *tile);
  const Planes &mean = posterior.mean, &deviation = posterior.deviation;
  const auto batch = static_cast<std::size_t>(shape[0]);
  const auto each = static_cast<std::size_t>(bundle::elements(shape)) / batch;
  if (bundle::elements(mean.shape) / images.shape[0] != static_cast<std::int64_t>(each)) {
    throw BackendError("the VAE encoder's mean is " + bundle::shape_text(mean.shape) + ", the latents are " +
                       bundle::shape_text(shape) + "; export the bundle again");
  }
  std::vector<float> latents(batch * each);
  const bool one = images.shape[0] == 1;  // one picture for all samples
  for (std::size_t b = 0; b < batch; ++b) {
    std::copy_n(mean.values.data() + (one ? 0 : b * each), each, latents.data() + b * each);
  }
  if (deviation.shape.empty()) return latents;
  const std::size_t draws = one && source.shared() ? 1 : batch;
  std::vector<float> noise(draws * each);
  source.draw(noise.data(), draws, each);
  for (std::size_t b = 0; b < batch; ++b) {
    const float* own = deviation.values.data() + (one ? 0 : b * each);
    const float* drawn = noise.data() + (draws == 1 ? 0 : b * each);
    for (std::size_t i = 0; i < each; ++i) latents[b * each + i] += own[i] * drawn[i];
  }
  return latents;
}

void decode(BindingPool& pool, const float* latents, const Shape& shape, std::int64_t compression,
            std::optional<std::int64_t> tile, double& seconds, const Decoded& decoded) {
  Half half(pool, "latents", seconds);
  Shape turned_shape = shape;
  std::vector<float> turned;
  if (shape.size() == 5 && pool.runner().component().input("latents")->axes.size() == 4) {
    turned = frame_by_frame(latents, shape);
    latents = turned.data();
    turned_shape = {shape[0] * shape[2], shape[1], shape[3], shape[4]};
  }
  const std::size_t rank = turned_shape.size();
  const std::int64_t height = turned_shape[rank - 2], width = turned_shape[rank - 1];
  if (rank == 5 || (tile && std::max(height, width) <= *tile)) tile.reset();
  const std::int64_t side = tile ? *tile * *tile : height * width;
  const std::int64_t pixels = side * compression * compression * (rank == 5 ? turned_shape[2] : 1);
  const std::int64_t group = std::max<std::int64_t>(1, kPixelsADecode / pixels);
  const std::int64_t each = bundle::elements(turned_shape) / turned_shape[0];
  for (std::int64_t first = 0; first < turned_shape[0]; first += group) {
    Shape part = turned_shape;
    part[0] = std::min(group, turned_shape[0] - first);
    Planes images = decoded_part(half, latents + first * each, part, compression, tile);
    Shape made = images.shape;
    if (made.size() == 5) {
      images.values = frame_by_frame(images.values.data(), made);
      made = {made[0] * made[2], made[1], made[3], made[4]};
    }
    // Only now, as what lies outside 0 … 1 takes part in the blending.
    apply(images.values, [](float value) { return std::clamp(value, 0.0F, 1.0F); });
    for (std::int64_t i = 0; i < made[0]; ++i) {
      decoded(images.values.data() + i * made[1] * made[2] * made[3], made[1], made[2], made[3]);
    }
  }
}

}  // namespace dit_deploy::runtime
