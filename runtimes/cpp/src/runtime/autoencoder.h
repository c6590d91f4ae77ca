// Pictures ↔ latents by the bundle's VAE, on borrowed buffers; what is not finite is an error, never a picture.
// runtimes/autoencoder.py.
#pragma once

#include <functional>
#include <vector>

#include "runtime/images.h"
#include "runtime/runner.h"
#include "sampling/noise.h"

namespace dit_deploy::runtime {

// Latents of `shape` [batch, …] drawn from the posterior of pictures [batch or 1, channels, height, width]; adds the
// encoder's time to `seconds`. `source` gives one draw where the encoder has a deviation, none where it does not.
std::vector<float> encode(BindingPool& pool, const Pixels& images, const Shape& shape, sampling::NoiseSource& source,
                          double& seconds);

// What decode() hands over for each picture or frame, in order: planes [channels, height, width] in 0 … 1.
using Decoded =
    std::function<void(const float* planes, std::int64_t channels, std::int64_t height, std::int64_t width)>;

// Decodes latents [batch, channels, (frames,) height, width]; a decoder of pictures gets the frames of a video one by one.
void decode(BindingPool& pool, const float* latents, const Shape& shape, std::int64_t compression, double& seconds,
            const Decoded& decoded);

}  // namespace dit_deploy::runtime
