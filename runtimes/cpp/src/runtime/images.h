// Pictures on their way in and out: 8 bits ↔ floats in 0 … 1; runtimes/images.py.
#pragma once

#include <optional>
#include <vector>

#include "dit_deploy/pipeline.hpp"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

// Pictures as values in 0 … 1, [batch, channels, height, width].
struct Pixels {
  Shape shape;
  std::vector<float> values;
};

// Returns pictures laid over white where they are transparent, made grey or RGB as `channels` says and resized by
// Lanczos to `height` × `width`; without these, to the first one's own size rounded down to `multiple`.
// A picture has 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels. Throws InputError.
Pixels read_images(const std::vector<Picture>& pictures, std::int64_t multiple, std::int64_t channels,
                   std::optional<std::int64_t> height, std::optional<std::int64_t> width);

// One picture of `channels` planes in 0 … 1, rounded as diffusers rounds.
Picture to_picture(const float* planes, std::int64_t channels, std::int64_t height, std::int64_t width);

}  // namespace dit_deploy::runtime
