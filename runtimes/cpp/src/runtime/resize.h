// Lanczos as Pillow computes it on 8 bits, so that image-to-image starts from the same pixels as in Python.
#pragma once

#include "dit_deploy/pipeline.hpp"

namespace dit_deploy::runtime {

// `picture` at another size, as PIL.Image.resize((width, height), Image.Resampling.LANCZOS) gives it: equal bytes.
Picture resized(const Picture& picture, std::int64_t height, std::int64_t width);

}  // namespace dit_deploy::runtime
