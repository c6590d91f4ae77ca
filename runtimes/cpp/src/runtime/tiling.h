// A picture piece by piece through the VAE, blended where the pieces overlap, as diffusers' AutoencoderKL does it;
// runtimes/tiling.py.
//
// Pieces overlap by a quarter. Over the overlap each fades linearly into the next, below first, then beside; what is
// blended already is blended again.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::runtime {

// A part of a side, `end` left out.
struct Span {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

// The parts of a side of `size` that pieces of at most `tile` cover; `tile` is a multiple of four.
std::vector<Span> pieces(std::int64_t size, std::int64_t tile);

// Values of [batch, channels, height, width], row-major.
struct Planes {
  bundle::Shape shape;
  std::vector<float> values;
};

// Blends rows of pieces into planes of `shape`. make(row, column) gives the piece at that place, at most `tile` on a side;
// it is called row by row, and only one row of pieces is kept.
Planes assemble(const bundle::Shape& shape, std::int64_t tile, std::size_t rows, std::size_t columns,
                const std::function<Planes(std::size_t row, std::size_t column)>& make);

// The part of planes at `rows` and `columns`.
Planes part_of(const float* values, const bundle::Shape& shape, Span rows, Span columns);

}  // namespace dit_deploy::runtime
