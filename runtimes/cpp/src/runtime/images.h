// Pictures on their way in and out: 8 bits ↔ floats in 0 … 1; runtimes/images.py.
#pragma once

#include <optional>
#include <string>
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
// A picture has 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels. `what` is the name of the argument, for the
// InputError that is thrown.
Pixels read_images(const std::vector<Picture>& pictures, std::int64_t multiple, std::int64_t channels,
                   std::optional<std::int64_t> height, std::optional<std::int64_t> width,
                   const std::string& what = "image");

// The first `frames` pictures of a video, or all, as [1, channels, frames, height, width] in 0 … 1; runtimes/video.py.
Pixels read_video(const std::vector<Picture>& video, std::int64_t multiple, std::int64_t channels,
                  std::optional<std::int64_t> frames, std::optional<std::int64_t> height,
                  std::optional<std::int64_t> width);

// The middle of a checked picture as a vision encoder sees it, [3, size, size] in 0 … 1: resized to `size` on its shorter
// side by Pillow's bicubic filter.
std::vector<float> middle_of(const Picture& picture, std::int64_t size);

// One picture of `channels` planes in 0 … 1, rounded as diffusers rounds.
Picture to_picture(const float* planes, std::int64_t channels, std::int64_t height, std::int64_t width);

}  // namespace dit_deploy::runtime
