// Pictures and videos ↔ latents by the bundle's VAE, on borrowed buffers; what is not finite is an error, never a picture.
// A bundle of videos may have a VAE of pictures, which then takes frame by frame (Latte). runtimes/autoencoder.py.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dit_deploy/pipeline.hpp"
#include "runtime/images.h"
#include "runtime/runner.h"
#include "runtime/tiling.h"
#include "sampling/noise.h"

namespace dit_deploy::runtime {

// How many pixels, and pictures after the first, a latent pixel and a latent frame stand for.
struct Compression {
  std::int64_t space = 1, time = 1;

  static Compression of(const bundle::Latents& latents) {
    return {latents.spatial_compression, latents.temporal_compression};
  }
};

// The pieces that a request asks for: vae_tile pixels on a side, the model's own, or none. Throws InputError where
// vae_tile is no positive multiple of four latent pixels, so that a quarter of it is none either; or the model has no
// pieces of its own.
Pieces pieces_of(const bundle::Manifest& manifest, const Request& request);

// Latents of `shape` [batch, channels, …] drawn from the posterior of pictures [batch or 1, channels, (frames,) height,
// width]; adds the encoder's time to `seconds`. `source` gives one draw where the encoder has a deviation, none where it
// does not: for each picture, or for each sample where these have seeds of their own. Larger pictures are cut into `pieces`.
std::vector<float> encode(BindingPool& pool, const Pixels& images, const Shape& shape, sampling::NoiseSource& source,
                          const Pieces& pieces, const Compression& compression, double& seconds);

// What a decoder takes beside the latents, by name.
using DecoderInputs = std::map<std::string, Planes>;

// Throws InputError where a request's number for the decoder is none of 0 … 1, or the decoder takes none.
void check_decoder_numbers(const Component& decoder, const Request& request);

// What a decoder takes beside latents of `shape`: noise, drawn in the order of declaration, and how much of it is to be
// removed (LTX-Video).
DecoderInputs decoder_inputs(const Component& decoder, const Shape& shape, sampling::NoiseSource& source,
                             const Request& request);

// Called with how many pieces are done, and of how many.
using Advance = std::function<void(std::int64_t done, std::int64_t total)>;

// What decode() hands over for each picture or frame, in order: planes [channels, height, width] in 0 … 1.
using Decoded =
    std::function<void(const float* planes, std::int64_t channels, std::int64_t height, std::int64_t width)>;

// Decodes latents [batch, channels, (frames,) height, width], the frames of a video one after another. Larger latents are
// cut into `pieces`; `advance`, where there is one, is called after each.
void decode(BindingPool& pool, const float* latents, const Shape& shape, const Compression& compression,
            const Pieces& pieces, const DecoderInputs& inputs, double& seconds, const Advance& advance,
            const Decoded& decoded);

}  // namespace dit_deploy::runtime
