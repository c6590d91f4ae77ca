#include "runtime/tiling.h"

#include <algorithm>
#include <utility>

namespace dit_deploy::runtime {
namespace {

using bundle::Shape;

std::int64_t product(const Shape& shape, std::size_t begin, std::size_t end) {
  std::int64_t count = 1;
  for (std::size_t axis = begin; axis < end; ++axis) count *= shape[axis];
  return count;
}

// How values lie around an axis: `outer` times so many of its lines of `inner` values.
struct Around {
  Around(const Shape& shape, std::size_t axis)
      : outer(product(shape, 0, axis)), length(shape[axis]), inner(product(shape, axis + 1, shape.size())) {}
  std::int64_t outer, length, inner;
};

// Fades the end of `before` along `axis` into the beginning of `piece`, from its `first` on.
void fade(const Planes& before, Planes& piece, std::int64_t extent, std::size_t axis, std::int64_t first = 0) {
  const Around from(before.shape, axis), to(piece.shape, axis);
  extent = std::min({from.length - first, to.length - first, extent});
  const std::int64_t inner = std::min(from.inner, to.inner);
  for (std::int64_t outer = 0; outer < to.outer; ++outer) {
    for (std::int64_t line = 0; line < extent; ++line) {
      const float share = static_cast<float>(line) / static_cast<float>(extent);
      const float* end = before.values.data() + (outer * from.length + from.length - extent + line) * from.inner;
      float* beginning = piece.values.data() + (outer * to.length + first + line) * to.inner;
      for (std::int64_t i = 0; i < inner; ++i) beginning[i] = end[i] * (1.0F - share) + beginning[i] * share;
    }
  }
}

Planes blank(Shape shape) {
  const auto count = static_cast<std::size_t>(bundle::elements(shape));
  return {std::move(shape), std::vector<float>(count)};
}

}  // namespace

Pieces Pieces::of(const bundle::Tiling& tiling, bool in_space) {
  Pieces pieces;
  if (tiling.tile_frames && tiling.stride_frames) pieces.frames = Span{*tiling.tile_frames, *tiling.stride_frames};
  if (!in_space) return pieces;
  pieces.height = Span{tiling.tile_height, tiling.stride_height};
  pieces.width = Span{tiling.tile_width, tiling.stride_width};
  return pieces;
}

Pieces Pieces::square(std::int64_t tile, std::optional<Span> frames) {
  const Span span{tile, std::max<std::int64_t>(1, tile - tile / 4)};
  return {span, span, frames, std::nullopt};
}

bool Pieces::cut_space(const Shape& size) const {
  const std::size_t rank = size.size();
  return (height && size[rank - 2] > height->tile) || (width && size[rank - 1] > width->tile);
}

bool Pieces::cut_time(const Shape& size) const { return size.size() == 3 && frames && size[0] > frames->tile; }

std::int64_t Pieces::count(const Shape& size) const {
  std::size_t count = 1;
  if (cut_space(size)) count = parts(size[size.size() - 2], height).size() * parts(size.back(), width).size();
  if (cut_time(size)) count *= times(size[0], *frames).size();
  return static_cast<std::int64_t>(count);
}

Shape Pieces::extent(const Shape& size) const {
  Shape largest = size;
  const auto along = [](std::int64_t& length, const std::optional<Span>& span) {
    if (span) length = std::min(length, span->tile);
  };
  if (cut_space(size)) {
    along(largest[size.size() - 2], height);
    along(largest.back(), width);
  }
  if (size.size() == 3 && frames) largest[0] = std::min(size[0], frames->tile + 1);
  return largest;
}

std::vector<Part> parts(std::int64_t length, const std::optional<Span>& span) {
  if (!span) return {{0, length}};
  std::vector<Part> all;
  for (std::int64_t first = 0; first < length; first += span->stride)
    all.push_back({first, std::min(first + span->tile, length)});
  return all;
}

std::vector<Part> times(std::int64_t frames, const Span& span) {
  std::vector<Part> all;
  for (std::int64_t first = 0; first < frames; first += span.stride) {
    const Part part{first, std::min(first + span.tile + 1, frames)};
    if (first == 0 || part.size() > 1) all.push_back(part);  // what is left may be the shared frame alone
  }
  return all;
}

Planes assemble(std::size_t rows, std::size_t columns, std::int64_t height, std::int64_t width, const Span& down,
                const Span& across, const std::function<Planes(std::size_t row, std::size_t column)>& make) {
  Planes whole;
  std::vector<Planes> above, done;
  std::int64_t top = 0;
  for (std::size_t row = 0; row < rows; ++row, top += down.stride) {
    done.clear();
    std::int64_t left = 0;
    for (std::size_t column = 0; column < columns; ++column) {
      Planes piece = make(row, column);
      const std::size_t rank = piece.shape.size();
      if (whole.shape.empty()) {
        Shape shape = piece.shape;
        shape[rank - 2] = height;
        shape[rank - 1] = width;
        whole = blank(std::move(shape));
      }
      if (!above.empty()) fade(above[column], piece, down.overlap(), rank - 2);
      if (!done.empty()) fade(done.back(), piece, across.overlap(), rank - 1);
      const std::int64_t tall = piece.shape[rank - 2], wide = piece.shape[rank - 1];
      const std::int64_t kept = std::min(across.stride, wide);
      const std::int64_t lines = std::min({down.stride, tall, height - top}), values = std::min(kept, width - left);
      for (std::int64_t plane = 0; plane < product(piece.shape, 0, rank - 2); ++plane) {
        for (std::int64_t line = 0; line < lines; ++line) {
          std::copy_n(piece.values.data() + (plane * tall + line) * wide, values,
                      whole.values.data() + (plane * height + top + line) * width + left);
        }
      }
      left += kept;
      done.push_back(std::move(piece));
    }
    std::swap(above, done);
  }
  return whole;
}

Planes assemble_frames(std::size_t count, std::int64_t frames, const Span& span,
                       const std::function<Planes(std::size_t index)>& make) {
  Planes whole, before;
  std::int64_t first = 0;
  for (std::size_t index = 0; index < count; ++index) {
    Planes piece = make(index);
    const std::int64_t dropped = index == 0 ? 0 : 1;
    if (index == 0) {
      Shape shape = piece.shape;
      shape[2] = frames;
      whole = blank(std::move(shape));
    } else {
      fade(before, piece, span.overlap(), 2, dropped);
    }
    const Around from(piece.shape, 2);
    const std::int64_t kept = std::min({span.stride + 1 - dropped, from.length - dropped, frames - first});
    for (std::int64_t outer = 0; outer < from.outer; ++outer) {
      std::copy_n(piece.values.data() + (outer * from.length + dropped) * from.inner, kept * from.inner,
                  whole.values.data() + (outer * frames + first) * from.inner);
    }
    first += kept;
    before = std::move(piece);
  }
  return whole;
}

Planes part_of(const float* values, const Shape& shape, const Part& frames, const Part& rows, const Part& columns) {
  const std::size_t rank = shape.size();
  Planes part{shape, {}};
  if (rank == 5) part.shape[2] = frames.size();
  part.shape[rank - 2] = rows.size();
  part.shape[rank - 1] = columns.size();
  part.values.reserve(static_cast<std::size_t>(bundle::elements(part.shape)));
  const std::int64_t count = rank == 5 ? shape[2] : 1;
  const Part taken = rank == 5 ? frames : Part{0, 1};
  for (std::int64_t plane = 0; plane < shape[0] * shape[1]; ++plane) {
    for (std::int64_t frame = taken.begin; frame < taken.end; ++frame) {
      for (std::int64_t row = rows.begin; row < rows.end; ++row) {
        const float* line =
            values + ((plane * count + frame) * shape[rank - 2] + row) * shape[rank - 1] + columns.begin;
        part.values.insert(part.values.end(), line, line + columns.size());
      }
    }
  }
  return part;
}

}  // namespace dit_deploy::runtime
