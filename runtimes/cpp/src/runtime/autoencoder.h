// Pictures ↔ latents by the bundle's VAE, on borrowed buffers; what is not finite is an error, never a picture.
// runtimes/autoencoder.py.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "runtime/images.h"
#include "runtime/runner.h"
#include "sampling/noise.h"

namespace dit_deploy::runtime {

// The side of a piece in latent pixels, of `vae_tile` in pixels; nothing: the picture is one piece. Throws InputError where
// it is no positive multiple of four latent pixels, so that a quarter of it is none either.
std::optional<std::int64_t> tile_of(std::optional<std::int64_t> vae_tile, std::int64_t compression);

// Latents of `shape` [batch, …] drawn from the posterior of pictures [batch or 1, channels, height, width]; adds the
// encoder's time to `seconds`. `source` gives one draw where the encoder has a deviation, none where it does not: for each
// picture, or for each sample where these have seeds of their own. Pictures larger than `tile` latent pixels go through
// the encoder piece by piece.
std::vector<float> encode(BindingPool& pool, const Pixels& images, const Shape& shape, sampling::NoiseSource& source,
                          std::optional<std::int64_t> tile, double& seconds);

// What decode() hands over for each picture or frame, in order: planes [channels, height, width] in 0 … 1.
using Decoded =
    std::function<void(const float* planes, std::int64_t channels, std::int64_t height, std::int64_t width)>;

// Decodes latents [batch, channels, (frames,) height, width]; a decoder of pictures gets the frames of a video one by one.
// Latents larger than `tile` go through the decoder piece by piece.
void decode(BindingPool& pool, const float* latents, const Shape& shape, std::int64_t compression,
            std::optional<std::int64_t> tile, double& seconds, const Decoded& decoded);

}  // namespace dit_deploy::runtime
