// Latents piece by piece through the VAE, blended where the pieces overlap, as diffusers' autoencoders do it;
// runtimes/tiling.py.
//
// In space each piece fades linearly into the next, below first, then beside; what is blended already is blended again. In
// time, pieces after the first begin one frame early, as a causal autoencoder makes one picture of its first latent frame;
// that one is dropped, and the rest fades into what came before.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "bundle/manifest.h"
#include "bundle/shapes.h"

namespace dit_deploy::runtime {

// A part of an axis, `end` left out.
struct Part {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

// How long a piece is along an axis, and how far it is to the next one.
struct Span {
  std::int64_t tile = 0, stride = 0;

  // In units that are `by` times smaller.
  Span scaled(std::int64_t by) const { return {tile * by, stride * by}; }
  // What a piece shares with the next.
  std::int64_t overlap() const { return tile - stride; }
};

// How latents are cut; nothing along an axis: they are not. Lengths are in latent pixels and latent frames. `samples` is how
// many samples are decoded at once at most; nothing: as many as their size suggests.
struct Pieces {
  std::optional<Span> height, width, frames;
  std::optional<std::int64_t> samples;

  // The pieces of a family's own tiling, in time alone where `in_space` is false.
  static Pieces of(const bundle::Tiling& tiling, bool in_space);
  // Pieces of `tile` latent pixels on a side that share a quarter, as AutoencoderKL cuts pictures.
  static Pieces square(std::int64_t tile, std::optional<Span> frames);

  // Whether latents of `size`, [frames,] height, width, are cut in space, in time, at all.
  bool cut_space(const bundle::Shape& size) const;
  bool cut_time(const bundle::Shape& size) const;
  bool cut(const bundle::Shape& size) const { return cut_space(size) || cut_time(size); }
  // How many pieces latents of `size` are cut into.
  std::int64_t count(const bundle::Shape& size) const;
  // The size of the largest piece, [frames,] height, width; and how many latent pixels it has, over all its frames.
  bundle::Shape extent(const bundle::Shape& size) const;
  std::int64_t largest(const bundle::Shape& size) const { return bundle::elements(extent(size)); }
};

// The parts of an axis of `length` that pieces cover; all of it without a span.
std::vector<Part> parts(std::int64_t length, const std::optional<Span>& span);
// The latent frames of each piece; those after the first begin with one that the piece before has too.
std::vector<Part> times(std::int64_t frames, const Span& span);

// Values of [batch, channels, (frames,) height, width], row-major.
struct Planes {
  bundle::Shape shape;
  std::vector<float> values;
};

// Blends rows of pieces into planes of `height` × `width`; the spans are in their units. make(row, column) gives the piece at
// that place; it is called row by row, and only one row of pieces is kept.
Planes assemble(std::size_t rows, std::size_t columns, std::int64_t height, std::int64_t width, const Span& down,
                const Span& across, const std::function<Planes(std::size_t row, std::size_t column)>& make);
// Blends `count` pieces that follow each other in time into one of `frames`. The first keeps `stride` frames and one more;
// of each later one the first frame is dropped, and `stride` are kept.
Planes assemble_frames(std::size_t count, std::int64_t frames, const Span& span,
                       const std::function<Planes(std::size_t index)>& make);

// The part of [batch, channels, (frames,) height, width] at `frames`, where it has some, `rows` and `columns`.
Planes part_of(const float* values, const bundle::Shape& shape, const Part& frames, const Part& rows,
               const Part& columns);

}  // namespace dit_deploy::runtime
