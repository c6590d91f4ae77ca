// What a request gives besides pictures, checked before anything runs: sizes, conditions, seeds, noise;
// runtimes/arguments.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/steps.h"

namespace dit_deploy::runtime {

// Throws InputError naming the nearest size that would do, where `size` is given and no positive multiple.
void check_size(const char* name, std::optional<std::int64_t> size, std::int64_t multiple);

// The conditions of a request for both halves of guidance, checked against the denoiser's declaration.
struct Conditions {
  std::vector<Condition> tensors;
  Sizes sizes;  // free sizes that they fix, "batch" among them
  std::int64_t batch = 1;
};
Conditions read_conditions(const bundle::Manifest& manifest, const Request& request);

// The latents' shape for checked sizes in pixels; what is not given is the training size. Throws InputError.
Shape latents_shape(const bundle::Manifest& manifest, std::int64_t batch, std::optional<std::int64_t> height,
                    std::optional<std::int64_t> width, std::optional<std::int64_t> num_frames);

// The seeds of a request, a random one where there is none. Throws InputError.
std::vector<std::uint64_t> read_seeds(const std::vector<std::uint64_t>& seed, std::int64_t batch);

// Throws InputError where the caller's noise is not of `shape`, or not finite.
void check_noise(const Array& noise, const Shape& shape);

}  // namespace dit_deploy::runtime
