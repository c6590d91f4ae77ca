// What a request gives besides pictures and conditions, checked before anything runs: sizes, seeds, noise;
// runtimes/arguments.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

// Throws InputError naming the nearest size that would do, where `size` is given and no positive multiple.
void check_size(const char* name, std::optional<std::int64_t> size, std::int64_t multiple);

// Throws InputError where a size in pixels is beyond the grid that the denoiser takes, such as beyond a table of
// positions; what is not given is the training size.
void check_limits(const bundle::Manifest& manifest, std::optional<std::int64_t> height,
                  std::optional<std::int64_t> width);

// The latents' shape for checked sizes in pixels; what is not given is the training size. Throws InputError.
Shape latents_shape(const bundle::Manifest& manifest, std::int64_t batch, std::optional<std::int64_t> height,
                    std::optional<std::int64_t> width, std::optional<std::int64_t> num_frames);

// The seeds of a request, a random one where there is none. Throws InputError.
std::vector<std::uint64_t> read_seeds(const std::vector<std::uint64_t>& seed, std::int64_t batch);

// Throws InputError where the caller's noise is not of `shape`, or not finite.
void check_noise(const Array& noise, const Shape& shape);

}  // namespace dit_deploy::runtime
