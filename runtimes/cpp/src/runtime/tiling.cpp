#include "runtime/tiling.h"

#include <algorithm>

#include "bundle/shapes.h"

namespace dit_deploy::runtime {
namespace {

// Fades the end of `before` into the beginning of `piece`, downwards (axis 2) or to the right (axis 3).
void fade(const Planes& before, Planes& piece, std::int64_t extent, std::size_t axis) {
  extent = std::min({before.shape[axis], piece.shape[axis], extent});
  const std::int64_t planes = piece.shape[0] * piece.shape[1];
  const std::int64_t height = axis == 2 ? extent : std::min(before.shape[2], piece.shape[2]);
  const std::int64_t width = axis == 3 ? extent : std::min(before.shape[3], piece.shape[3]);
  const std::int64_t top = axis == 2 ? before.shape[2] - extent : 0, left = axis == 3 ? before.shape[3] - extent : 0;
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    for (std::int64_t row = 0; row < height; ++row) {
      const float* from = before.values.data() + (plane * before.shape[2] + top + row) * before.shape[3] + left;
      float* to = piece.values.data() + (plane * piece.shape[2] + row) * piece.shape[3];
      for (std::int64_t column = 0; column < width; ++column) {
        const float share = static_cast<float>(axis == 2 ? row : column) / static_cast<float>(extent);
        to[column] = from[column] * (1.0F - share) + to[column] * share;
      }
    }
  }
}

}  // namespace

std::vector<Span> pieces(std::int64_t size, std::int64_t tile) {
  std::vector<Span> spans;
  const std::int64_t stride = std::max<std::int64_t>(1, tile - tile / 4);
  for (std::int64_t begin = 0; begin < size; begin += stride) spans.push_back({begin, std::min(begin + tile, size)});
  return spans;
}

Planes assemble(const bundle::Shape& shape, std::int64_t tile, std::size_t rows, std::size_t columns,
                const std::function<Planes(std::size_t row, std::size_t column)>& make) {
  Planes whole{shape, std::vector<float>(static_cast<std::size_t>(bundle::elements(shape)))};
  const std::int64_t overlap = tile / 4, limit = tile - overlap;
  std::vector<Planes> above, done;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::int64_t top = static_cast<std::int64_t>(row) * limit;
    done.clear();
    for (std::size_t column = 0; column < columns; ++column) {
      Planes piece = make(row, column);
      if (!above.empty()) fade(above[column], piece, overlap, 2);
      if (!done.empty()) fade(done.back(), piece, overlap, 3);
      const std::int64_t left = static_cast<std::int64_t>(column) * limit;
      const std::int64_t height = std::min({limit, piece.shape[2], shape[2] - top});
      const std::int64_t width = std::min({limit, piece.shape[3], shape[3] - left});
      for (std::int64_t plane = 0; plane < shape[0] * shape[1]; ++plane) {
        for (std::int64_t line = 0; line < height; ++line) {
          std::copy_n(piece.values.data() + (plane * piece.shape[2] + line) * piece.shape[3], width,
                      whole.values.data() + (plane * shape[2] + top + line) * shape[3] + left);
        }
      }
      done.push_back(std::move(piece));
    }
    std::swap(above, done);
  }
  return whole;
}

Planes part_of(const float* values, const bundle::Shape& shape, Span rows, Span columns) {
  Planes part{{shape[0], shape[1], rows.size(), columns.size()}, {}};
  part.values.reserve(static_cast<std::size_t>(bundle::elements(part.shape)));
  for (std::int64_t plane = 0; plane < shape[0] * shape[1]; ++plane) {
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const float* line = values + (plane * shape[2] + row) * shape[3] + columns.begin;
      part.values.insert(part.values.end(), line, line + columns.size());
    }
  }
  return part;
}

}  // namespace dit_deploy::runtime
