// The VAE's pieces by a memory budget: the largest that fit, from the shapes that its graphs note; runtimes/memory.py.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bundle/activations.h"
#include "bundle/bundle.h"
#include "runtime/tiling.h"

namespace dit_deploy::runtime {

// A number of bytes: digits, with a unit of powers of 1000 behind them, such as "2G" or "512M". Throws InputError where it is
// none, or not above 0.
std::int64_t read_bytes(const std::string& text);

// What vae_tile may be for latents of `size` with its pieces: ever smaller squares, whose side is given in latent pixels, and
// nothing for the family's own.
std::vector<std::pair<std::optional<std::int64_t>, Pieces>> smaller_pieces(const bundle::Manifest& manifest,
                                                                           const bundle::Shape& size,
                                                                           const Pieces& always);

// Keeps the VAE of a bundle, which outlives it, to a budget of bytes beside the weights. Several threads may ask at once.
class VaeMemory {
 public:
  VaeMemory(const bundle::Bundle& bundle, std::int64_t budget) : bundle_(bundle), budget_(budget) {}

  // The largest pieces of latents of `size`, [frames,] height, width, with which the VAE keeps to the budget: the whole, if it
  // does. `always` is how the family is cut where memory is plenty; `encoded` is how many pictures or videos are encoded, all
  // at once; one at a time is decoded. Throws InputError where the budget is not enough for the smallest piece, BundleError
  // where the decoder's graph cannot be read.
  Pieces pieces_within(const bundle::Shape& size, const Pieces& always, std::int64_t encoded);

 private:
  // About how many bytes one call of the decoder takes beside its weights, an upper bound on a CPU. Attention is taken for one
  // that holds all its scores.
  double decoder_bytes(const bundle::Shape& extent, std::int64_t batch);
  const bundle::NotedGraph& graph();

  const bundle::Bundle& bundle_;
  const std::int64_t budget_;
  std::mutex mutex_;
  std::optional<bundle::NotedGraph> graph_;
};

}  // namespace dit_deploy::runtime
