// What a request gives besides pictures and conditions, checked before anything runs: sizes, rates, seeds, noise;
// runtimes/arguments.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/runner.h"
#include "sampling/noise.h"

namespace dit_deploy::runtime {

// Throws InputError naming the nearest size that would do, where `size` is given and no positive multiple.
void check_size(const char* name, std::optional<std::int64_t> size, std::int64_t multiple);

// Throws InputError where a size in pixels is beyond the grid that the denoiser takes, such as beyond a table of
// positions; what is not given is the training size.
void check_limits(const bundle::Manifest& manifest, std::optional<std::int64_t> height,
                  std::optional<std::int64_t> width);

// The latents' shape for checked sizes in pixels; what is not given is the training size. `frames` is the number of latent
// frames, for a video.
Shape latents_shape(const bundle::Latents& latents, std::int64_t batch, std::optional<std::int64_t> height,
                    std::optional<std::int64_t> width, std::optional<std::int64_t> frames);

// The free sizes of latents of `shape`, without the batch: how many patches they are along each axis. Throws InputError
// where the denoiser takes no such latents.
Sizes patch_grid(const Component& denoiser, const Shape& shape);

// Pictures a second of a video, the usual number where none is asked for; nothing for a bundle of pictures. Throws
// InputError.
std::optional<double> read_frame_rate(const bundle::Manifest& manifest, std::optional<double> frame_rate);

// The seeds of a request, a random one where there is none. Throws InputError.
std::vector<std::uint64_t> read_seeds(const std::vector<std::uint64_t>& seed, std::int64_t batch);

// Draws noise for latents of a shape, in the order in which the model's are drawn. After the first draw, it allocates
// nothing.
class LatentsNoise {
 public:
  // `source` outlives it.
  LatentsNoise(sampling::NoiseSource& source, const Shape& shape, const bundle::Latents& latents);
  void draw(float* out);

 private:
  sampling::NoiseSource& source_;
  const std::size_t batch_, channels_, frames_, plane_;
  const bool frames_first_;
  std::vector<float> drawn_;
};

// Throws InputError where the caller's noise is not of `shape`, or not finite.
void check_noise(const Array& noise, const Shape& shape);

}  // namespace dit_deploy::runtime
