// Lanczos and bicubic as Pillow computes them on 8 bits, so that image-to-image starts from the same pixels as in Python.
#pragma once

#include "dit_deploy/pipeline.hpp"

namespace dit_deploy::runtime {

enum class Filter { lanczos, bicubic };

// `picture` at another size, as PIL.Image.resize((width, height), Image.Resampling.LANCZOS) gives it, or BICUBIC: equal
// bytes.
Picture resized(const Picture& picture, std::int64_t height, std::int64_t width, Filter filter = Filter::lanczos);

}  // namespace dit_deploy::runtime
