#include "runtime/autoencoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "bundle/shapes.h"
#include "runtime/finite.h"
#include "runtime/tensors.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
constexpr std::int64_t kPixelsADecode = 1 << 20;
constexpr Compression kLatents{};

// A free size of the VAE's graphs → what of it a piece has.
using Place = std::map<std::string, Part>;

Part part_at(const Place& place, const bundle::AxisSpec& spec, std::int64_t size) {
  const auto* axis = std::get_if<bundle::Axis>(&spec);
  const auto found = axis == nullptr ? place.end() : place.find(axis->name);
  return found == place.end() ? Part{0, size} : Part{found->second.begin, std::min(found->second.end, size)};
}

// Copies the part of `whole` that is at `place` to an input of the decoder.
void copy_part(const Planes& whole, const bundle::TensorSpec& spec, const Place& place, const HostTensor* input) {
  float* out = floats(input, spec.name);
  const std::size_t rank = whole.shape.size();
  std::vector<Part> taken;
  Shape shape;
  for (std::size_t axis = 0; axis < std::min(rank, spec.axes.size()); ++axis) {
    taken.push_back(part_at(place, spec.axes[axis], whole.shape[axis]));
    shape.push_back(taken.back().size());
  }
  if (rank == 0 || shape != input->shape) {
    throw BackendError("the VAE decoder takes " + spec.name + " of " + bundle::shape_text(input->shape) + ", " +
                       bundle::shape_text(shape) + " came; export the bundle again");
  }
  std::vector<std::int64_t> at(rank);
  for (std::size_t axis = 0; axis < rank; ++axis) at[axis] = taken[axis].begin;
  const std::int64_t line = taken.back().size();
  for (bool more = line > 0; more;) {
    std::int64_t from = 0;
    for (std::size_t axis = 0; axis < rank; ++axis) from = from * whole.shape[axis] + at[axis];
    out = std::copy_n(whole.values.data() + from, line, out);
    std::size_t axis = rank - 1;
    while (axis > 0 && ++at[axis - 1] == taken[axis - 1].end) {
      at[axis - 1] = taken[axis - 1].begin;
      --axis;
    }
    more = axis > 0;
  }
}

// Encoder or decoder, called with values of one shape after another.
class Half {
 public:
  Half(BindingPool& pool, const char* given, const DecoderInputs* inputs, double& seconds)
      : pool_(pool),
        given_(given),
        inputs_(inputs),
        seconds_(seconds),
        spec_(*pool.runner().component().input(given)) {}

  bool of_pictures() const { return spec_.axes.size() == 4; }

  // Runs on values of `shape`, which are at `place` of the whole; outputs are valid until the next call.
  void run(const float* values, const Shape& shape, const Place& place) {
    Sizes sizes;
    for (std::size_t index = 0; index < spec_.axes.size(); ++index) {
      const auto* axis = std::get_if<bundle::Axis>(&spec_.axes[index]);
      if (axis == nullptr) continue;
      const auto free = axis->free(shape.at(index));
      if (!free) {
        throw InputError(std::string("the VAE's ") + given_ + ": " + axis->name + " of " +
                         std::to_string(shape[index]) + " came, which it does not take");
      }
      sizes[axis->name] = *free;
    }
    if (!lease_ || sizes != sizes_) {
      lease_ = {};
      lease_ = pool_.borrow(sizes);
      sizes_ = std::move(sizes);
    }
    const HostTensor* input = lease_->input(given_);
    if (input == nullptr || input->shape != shape) {
      throw BackendError(std::string("the VAE takes ") + given_ + " of " +
                         bundle::shape_text(input == nullptr ? Shape{} : input->shape) + ", " +
                         bundle::shape_text(shape) + " came; export the bundle again");
    }
    std::copy_n(values, bundle::elements(shape), floats(input, given_));
    if (inputs_ != nullptr) {
      for (const auto& [name, whole] : *inputs_) {
        copy_part(whole, *pool_.runner().component().input(name), place, lease_->input(name));
      }
    }
    const auto started = std::chrono::steady_clock::now();
    lease_->run();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  }

  // A copy of an output; what is not finite throws, with the beginning of the message `what`.
  Planes output(const char* name, const char* what) {
    const HostTensor* tensor = lease_->output(name);
    const float* values = floats(tensor, name);
    const std::int64_t count = bundle::elements(tensor->shape);
    check_finite(values, static_cast<std::size_t>(count), what);
    return {tensor->shape, {values, values + count}};
  }
  bool has_output(const char* name) { return pool_.runner().component().output(name) != nullptr; }

 private:
  BindingPool& pool_;
  const char* given_;
  const DecoderInputs* inputs_;
  double& seconds_;
  const bundle::TensorSpec& spec_;
  BindingPool::Lease lease_;
  Sizes sizes_;
};

// [batch, channels, frames, height, width] as [batch · frames, channels, height, width].
Planes by_frame(const float* values, const Shape& shape) {
  const auto batch = static_cast<std::size_t>(shape[0]), channels = static_cast<std::size_t>(shape[1]);
  const auto frames = static_cast<std::size_t>(shape[2]), area = static_cast<std::size_t>(shape[3] * shape[4]);
  Planes turned{{shape[0] * shape[2], shape[1], shape[3], shape[4]}, {}};
  turned.values.resize(batch * channels * frames * area);
  float* out = turned.values.data();
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t f = 0; f < frames; ++f) {
      for (std::size_t c = 0; c < channels; ++c) {
        out = std::copy_n(values + ((b * channels + c) * frames + f) * area, area, out);
      }
    }
  }
  return turned;
}

// The other way.
Planes by_video(const Planes& pictures, std::int64_t frames) {
  const Shape& shape = pictures.shape;
  const std::int64_t batch = shape[0] / frames, channels = shape[1], area = shape[2] * shape[3];
  Planes turned{{batch, channels, frames, shape[2], shape[3]}, {}};
  turned.values.reserve(pictures.values.size());
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t f = 0; f < frames; ++f) {
        const float* plane = pictures.values.data() + ((b * frames + f) * channels + c) * area;
        turned.values.insert(turned.values.end(), plane, plane + area);
      }
    }
  }
  return turned;
}

using Call = std::function<Planes(const float* values, const Shape& shape, const Place& place)>;

// What sends values through a graph, in pieces: `given` and `made` are the units of what goes in and comes out, one of which
// is the latents'.
struct Way {
  const Call& call;
  Compression given, made;
};

Part pixels_of(const Part& part, const Compression& unit) { return {part.begin * unit.space, part.end * unit.space}; }
Part frames_of(const Part& part, const Compression& unit) {
  return {part.begin * unit.time, (part.end - 1) * unit.time + 1};
}

// `size` is that of the latents, [frames,] height, width; `place` is what the values are of the whole, where not all.
Planes through_space(const Way& way, const float* values, const Shape& shape, const Shape& size, const Pieces& pieces,
                     const Place& place) {
  if (!pieces.cut_space(size)) return way.call(values, shape, place);
  const std::int64_t height = size[size.size() - 2], width = size[size.size() - 1];
  const std::vector<Part> rows = parts(height, pieces.height), columns = parts(width, pieces.width);
  const Span down = pieces.height.value_or(Span{height, height}).scaled(way.made.space);
  const Span across = pieces.width.value_or(Span{width, width}).scaled(way.made.space);
  return assemble(rows.size(), columns.size(), height * way.made.space, width * way.made.space, down, across,
                  [&](std::size_t row, std::size_t column) {
                    const Part all{0, shape.size() == 5 ? shape[2] : 1};
                    const Planes part = part_of(values, shape, all, pixels_of(rows[row], way.given),
                                                pixels_of(columns[column], way.given));
                    Place own = place;
                    own["latent_height"] = rows[row];
                    own["latent_width"] = columns[column];
                    return way.call(part.values.data(), part.shape, own);
                  });
}

Planes through(const Way& way, const float* values, const Shape& shape, const Shape& size, const Pieces& pieces,
               const Place& place) {
  if (!pieces.cut_time(size)) return through_space(way, values, shape, size, pieces, place);
  const std::vector<Part> all = times(size[0], *pieces.frames);
  const std::size_t rank = shape.size();
  return assemble_frames(
      all.size(), 1 + (size[0] - 1) * way.made.time, pieces.frames->scaled(way.made.time), [&](std::size_t index) {
        const Planes part =
            part_of(values, shape, frames_of(all[index], way.given), {0, shape[rank - 2]}, {0, shape[rank - 1]});
        Place own = place;
        own["latent_frames"] = all[index];
        return through_space(way, part.values.data(), part.shape, {all[index].size(), size[1], size[2]}, pieces, own);
      });
}

template <typename Function>
void apply(float* values, std::size_t count, Function function) {
  for (std::size_t i = 0; i < count; ++i) values[i] = function(values[i]);
}

// Mean and, where the encoder has one, deviation of the posterior, [images, channels, (frames,) height, width].
struct Posterior {
  Planes mean, deviation;
};

// `first` and `second` beside each other along the channels.
Planes joined(const Planes& first, const Planes& second) {
  Planes both{first.shape, {}};
  both.shape[1] += second.shape[1];
  const auto batch = static_cast<std::size_t>(first.shape[0]);
  for (std::size_t b = 0; b < batch; ++b) {
    for (const Planes* one : {&first, &second}) {
      const std::size_t each = one->values.size() / batch;
      const float* values = one->values.data() + b * each;
      both.values.insert(both.values.end(), values, values + each);
    }
  }
  return both;
}

// The two halves of the channels.
Posterior split(const Planes& both) {
  Posterior halves;
  const auto batch = static_cast<std::size_t>(both.shape[0]);
  const std::size_t each = both.values.size() / batch / 2;
  for (Planes* one : {&halves.mean, &halves.deviation}) {
    one->shape = both.shape;
    one->shape[1] /= 2;
    for (std::size_t b = 0; b < batch; ++b) {
      const float* values = both.values.data() + (2 * b + (one == &halves.mean ? 0 : 1)) * each;
      one->values.insert(one->values.end(), values, values + each);
    }
  }
  return halves;
}

// Larger pictures go through in pieces, and what fades into what comes next are the mean and the logarithm of the deviation,
// which is what diffusers blends.
Posterior posterior_of(Half& half, const float* images, const Shape& shape, const Shape& size, const Pieces& pieces,
                       const Compression& compression) {
  const bool draws = half.has_output("std"), cut = pieces.cut(size);
  const Call call = [&](const float* values, const Shape& own, const Place& place) {
    half.run(values, own, place);
    Planes mean = half.output("mean", "the VAE encoder's mean holds");
    if (!draws) return mean;
    Planes deviation = half.output("std", "the VAE encoder's std holds");
    if (cut) apply(deviation.values.data(), deviation.values.size(), [](float value) { return std::log(value); });
    return joined(mean, deviation);
  };
  Planes found = through({call, compression, kLatents}, images, shape, size, pieces, {});
  if (!draws) return {std::move(found), {}};
  Posterior posterior = split(found);
  if (cut)
    apply(posterior.deviation.values.data(), posterior.deviation.values.size(),
          [](float value) { return std::exp(value); });
  return posterior;
}

bool has_axis(const bundle::TensorSpec& spec, const std::string& name) {
  return std::any_of(spec.axes.begin(), spec.axes.end(), [&](const bundle::AxisSpec& one) {
    const auto* axis = std::get_if<bundle::Axis>(&one);
    return axis != nullptr && axis->name == name;
  });
}

// The free sizes of latents of `shape`.
Sizes sizes_of(const Component& decoder, const Shape& shape) {
  Sizes sizes;
  const auto& axes = decoder.input("latents")->axes;
  for (std::size_t index = 0; index < std::min(axes.size(), shape.size()); ++index) {
    const auto* axis = std::get_if<bundle::Axis>(&axes[index]);
    if (axis == nullptr) continue;
    if (const auto free = axis->free(shape[index])) sizes[axis->name] = *free;
  }
  return sizes;
}

}  // namespace

Pieces pieces_of(const bundle::Manifest& manifest, const Request& request) {
  const auto& tiling = manifest.tiling;
  const Pieces always = tiling && tiling->always_in_time ? Pieces::of(*tiling, false) : Pieces{};
  const std::int64_t compression = manifest.latents.spatial_compression, multiple = 4 * compression;
  if (request.vae_tile_of_model) {
    if (request.vae_tile) throw InputError("vae_tile: came beside the model's own pieces; give one of the two");
    if (!tiling) {
      throw InputError("vae_tile: \"model\" came, but this model has no pieces of its own; give a multiple of " +
                       std::to_string(multiple) + " pixels");
    }
    return Pieces::of(*tiling, true);
  }
  if (!request.vae_tile) return always;
  if (*request.vae_tile < 1 || *request.vae_tile % multiple != 0) {
    throw InputError("vae_tile: " + std::to_string(*request.vae_tile) + " came, expected a multiple of " +
                     std::to_string(multiple) + " pixels, or None");
  }
  return Pieces::square(*request.vae_tile / compression, always.frames);
}

std::vector<float> encode(BindingPool& pool, const Pixels& images, const Shape& shape, sampling::NoiseSource& source,
                          const Pieces& pieces, const Compression& compression, double& seconds) {
  Half half(pool, "images", nullptr, seconds);
  const bool folded = half.of_pictures() && shape.size() == 5;
  Planes turned;
  if (folded) turned = by_frame(images.values.data(), images.shape);
  const Shape size(shape.begin() + (half.of_pictures() ? static_cast<std::ptrdiff_t>(shape.size()) - 2 : 2),
                   shape.end());
  Posterior posterior = posterior_of(half, folded ? turned.values.data() : images.values.data(),
                                     folded ? turned.shape : images.shape, size, pieces, compression);
  if (folded) {
    posterior.mean = by_video(posterior.mean, shape[2]);
    if (!posterior.deviation.shape.empty()) posterior.deviation = by_video(posterior.deviation, shape[2]);
  }
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

void check_decoder_numbers(const Component& decoder, const Request& request) {
  const auto check = [&](const char* name, std::optional<double> given) {
    if (!given) return;
    if (decoder.input(name) == nullptr) throw InputError(std::string(name) + ": this bundle's VAE decoder takes none");
    if (!(*given >= 0 && *given <= 1)) {
      throw InputError(std::string(name) + ": " + number_repr(*given) + " came, a number of 0 to 1 was expected");
    }
  };
  check("decode_timestep", request.decode_timestep);
  check("decode_noise_scale", request.decode_noise_scale);
}

DecoderInputs decoder_inputs(const Component& decoder, const Shape& shape, sampling::NoiseSource& source,
                             const Request& request) {
  const double timestep = request.decode_timestep.value_or(0.0);
  const std::map<std::string, double> numbers{{"decode_timestep", timestep},
                                              {"decode_noise_scale", request.decode_noise_scale.value_or(timestep)}};
  const Sizes sizes = sizes_of(decoder, shape);
  DecoderInputs made;
  for (const bundle::TensorSpec& spec : decoder.inputs) {
    if (spec.name.rfind("noise", 0) == 0) {
      Planes noise{bundle::shape_of(spec, sizes), {}};
      noise.values.resize(static_cast<std::size_t>(bundle::elements(noise.shape)));
      const auto batch = static_cast<std::size_t>(shape[0]);
      if (has_axis(spec, "batch")) {
        source.draw(noise.values.data(), batch, noise.values.size() / batch);
      } else {
        source.draw_for_all(noise.values.data(), noise.values.size());
      }
      made[spec.name] = std::move(noise);
    } else if (const auto number = numbers.find(spec.name); number != numbers.end()) {
      made[spec.name] = {{shape[0]},
                         std::vector<float>(static_cast<std::size_t>(shape[0]), static_cast<float>(number->second))};
    }
  }
  return made;
}

void decode(BindingPool& pool, const float* latents, const Shape& shape, const Compression& compression,
            const Pieces& pieces, const DecoderInputs& inputs, double& seconds, const Advance& advance,
            const Decoded& decoded) {
  Half half(pool, "latents", &inputs, seconds);
  Planes turned;
  Shape given = shape;
  if (half.of_pictures() && shape.size() == 5) {
    turned = by_frame(latents, shape);
    latents = turned.values.data();
    given = turned.shape;
  }
  const Shape size(given.begin() + 2, given.end());
  const std::int64_t pixels =
      pieces.largest(size) * compression.space * compression.space * (size.size() == 3 ? compression.time : 1);
  const std::int64_t group = pieces.samples.value_or(std::max<std::int64_t>(1, kPixelsADecode / pixels));
  const std::int64_t total = (given[0] + group - 1) / group * pieces.count(size);
  std::int64_t done = 0;
  const std::int64_t each = bundle::elements(given) / given[0];
  const Call call = [&](const float* values, const Shape& own, const Place& place) {
    half.run(values, own, place);
    if (advance) advance(++done, total);
    return half.output("images", "the VAE decoder's pictures hold");
  };
  for (std::int64_t first = 0; first < given[0]; first += group) {
    Shape part = given;
    part[0] = std::min(group, given[0] - first);
    Planes images = through({call, kLatents, compression}, latents + first * each, part, size, pieces,
                            {{"batch", {first, first + group}}});
    // Only now, as what lies outside 0 … 1 takes part in the blending.
    apply(images.values.data(), images.values.size(), [](float value) { return std::clamp(value, 0.0F, 1.0F); });
    if (images.shape.size() == 5) images = by_frame(images.values.data(), images.shape);
    const Shape& made = images.shape;
    for (std::int64_t i = 0; i < made[0]; ++i) {
      decoded(images.values.data() + i * made[1] * made[2] * made[3], made[1], made[2], made[3]);
    }
  }
}

}  // namespace dit_deploy::runtime
