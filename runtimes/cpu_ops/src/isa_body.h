// All kernels, for the instruction set whose file includes this one. No include guard: it is compiled once for each.
//
// The including file opens a namespace of its own and defines kWidth (lanes of a vector), kRows × kColumns (vectors of
// accumulators of a tile), vi/vf, the byte products (PreparedA, PreparedB, dot), those of attention (Pair, …), least, most and low_bytes.
// GCC's vector extensions do the rest, so that the arithmetic is written once.

INLINE vf splat(float value) { return vf{} + value; }
INLINE vi splat(std::int32_t value) { return vi{} + value; }

INLINE vf load_part(const float* source, int lanes) {
  if (lanes == kWidth) return load<vf>(source);
  float part[kWidth] = {};
  for (int i = 0; i < lanes; ++i) part[i] = source[i];
  return load<vf>(part);
}

template <class T, class Vector>
INLINE void store_part(T* target, Vector value, int lanes) {
  if (lanes == kWidth) return store(target, value);
  T part[kWidth];
  std::memcpy(part, &value, sizeof(part));
  for (int i = 0; i < lanes; ++i) target[i] = part[i];
}

// Nearest integer of value · 1, ties to even, held to [0, 255] around a zero point of 128. NaN becomes 0.
INLINE vu8 quantize(vf value) {
  value = most(value, splat(-128.0f));
  value = least(value, splat(127.0f));
  // Adding 1.5 · 2²³ leaves the integer in the low bits of the mantissa.
  return low_bytes(bits<vi>(value + splat(12582912.0f + 128.0f)));
}

// x · Φ(x) with Φ(x) − ½ as an odd polynomial that minimises the largest error of the product, 4e-5, and is ½ at the
// limit (linear programme over [0, limit]); beyond it, Φ is 0 or 1 to 4e-6.
INLINE vf gelu(vf x, const float* coefficients, float limit) {
  vf z = least(most(x, splat(-limit)), splat(limit));
  vf u = z * z;
  vf p = splat(coefficients[8]);
#pragma GCC unroll 8
  for (int i = 7; i >= 0; --i) p = p * u + splat(coefficients[i]);
  return x * (z * p + splat(0.5f));
}

// 2^x for x ≤ 0, relative error 2e-7; below 2^-126 it is 2^-126.
INLINE vf exp2(vf x) {
  x = most(x, splat(-126.0f));
  vf shifted = x + splat(12582912.0f);
  vf f = x - (shifted - splat(12582912.0f));
  vf p = splat(0.0013266970636323094f);
  p = p * f + splat(0.009675459936261177f);
  p = p * f + splat(0.05550742521882057f);
  p = p * f + splat(0.24022121727466583f);
  p = p * f + splat(0.6931469440460205f);
  p = p * f + splat(1.0000001192092896f);
  return bits<vf>(bits<vi>(p) + (bits<vi>(shifted) << 23));
}

// Halves folded onto each other until one lane is left.
template <class Operation>
INLINE float reduce(vf value, const Operation& operation) {
#pragma GCC unroll 4
  for (int half = kWidth / 2; half; half /= 2) {
    vi order;
    for (int i = 0; i < kWidth; ++i) order[i] = i ^ half;
    value = operation(value, __builtin_shuffle(value, order));
  }
  return value[0];
}

INLINE float sum(vf value) {
  return reduce(value, [](vf a, vf b) __attribute__((always_inline)) { return a + b; });
}
INLINE float largest(vf value) {
  return reduce(value, [](vf a, vf b) __attribute__((always_inline)) { return most(a, b); });
}

// ---- products of bytes ----

template <int MR>
INLINE void tile_rows(const std::uint8_t* a, std::size_t lda, const std::int8_t* b, std::size_t k4,
                      const std::int32_t* start, std::int32_t* c) {
  for (int column = 0; column < kPanel; column += kColumns * kWidth) {
    vi acc[MR][kColumns];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) acc[i][j] = load<vi>(start + column + j * kWidth);
    const std::int8_t* bk = b + 4 * column;
    const std::uint8_t* ak = a;
    for (std::size_t k = 0; k < k4; ++k, bk += 4 * kPanel, ak += 4) {
      PreparedB bs[kColumns];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) bs[j] = prepare_b(load<vi>(bk + 4 * j * kWidth));
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        PreparedA as = prepare_a(splat(load<std::int32_t>(ak + i * lda)));
#pragma GCC unroll 8
        for (int j = 0; j < kColumns; ++j) acc[i][j] = dot(acc[i][j], as, bs[j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) store(c + i * kPanel + column + j * kWidth, acc[i][j]);
  }
}

void tile(int rows, const std::uint8_t* a, std::size_t lda, const std::int8_t* b, std::size_t k4,
          const std::int32_t* start, std::int32_t* c) {
  switch (rows) {
      // clang-format off: it takes kRows < 5 for the beginning of arguments
    case 1: return tile_rows<1>(a, lda, b, k4, start, c);
    case 2: return tile_rows<2>(a, lda, b, k4, start, c);
    case 3: return tile_rows<3>(a, lda, b, k4, start, c);
    case 4: return tile_rows<4>(a, lda, b, k4, start, c);
    case 5: return tile_rows<kRows < 5 ? 1 : 5>(a, lda, b, k4, start, c);
    case 6: return tile_rows<kRows < 6 ? 1 : 6>(a, lda, b, k4, start, c);
    case 7: return tile_rows<kRows < 7 ? 1 : 7>(a, lda, b, k4, start, c);
    default: return tile_rows<kRows < 8 ? 1 : 8>(a, lda, b, k4, start, c);
      // clang-format on
  }
}

template <Activation kActivation, Output kOutput, bool kGated, bool kWhole>
INLINE void finish_as(const Finish& f, const std::int32_t* c, std::size_t row, int rows, std::size_t column,
                      int columns) {
  const float *scale = f.scale + column, *bias = f.bias + column;
  const vf inverse_scale = splat(f.inverse_scale);
  for (int i = 0; i < rows; ++i) {
    const std::size_t at = (row + i) * f.columns + column;
    const float* gate = kGated ? f.gate + (row + i) / f.tokens * f.gate_stride + column : nullptr;
#pragma GCC unroll 4
    for (int j = 0; j < kPanel; j += kWidth) {
      const int lanes = kWhole || columns - j >= kWidth ? kWidth : columns - j;
      if (lanes <= 0) break;
      vf y = __builtin_convertvector(load<vi>(c + i * kPanel + j), vf);
      y = y * load<vf>(scale + j) + load<vf>(bias + j);
      if (kActivation == Activation::kGelu) y = gelu(y, kGelu, kGeluLimit);
      if (kActivation == Activation::kGeluTanh) y = gelu(y, kGeluTanh, kGeluTanhLimit);
      if (kGated) y = load_part(gate + j, lanes) * y + load_part(f.residual + at + j, lanes);
      if (kOutput == Output::kFloat) store_part(static_cast<float*>(f.destination) + at + j, y, lanes);
      if (kOutput == Output::kBfloat16)
        store_part(static_cast<std::uint16_t*>(f.destination) + at + j, to_bfloat16(y), lanes);
      if (kOutput == Output::kUint8)
        store_part(static_cast<std::uint8_t*>(f.destination) + at + j, quantize(y * inverse_scale), lanes);
    }
  }
}

template <Activation kActivation, Output kOutput, bool kGated>
INLINE void finish_any(const Finish& f, const std::int32_t* c, std::size_t row, int rows, std::size_t column,
                       int columns) {
  if (columns == kPanel) return finish_as<kActivation, kOutput, kGated, true>(f, c, row, rows, column, columns);
  finish_as<kActivation, kOutput, kGated, false>(f, c, row, rows, column, columns);
}

template <Activation kActivation>
INLINE void finish_activated(const Finish& f, const std::int32_t* c, std::size_t row, int rows, std::size_t column,
                             int columns) {
  switch (f.output) {
    case Output::kUint8:
      return finish_any<kActivation, Output::kUint8, false>(f, c, row, rows, column, columns);
    case Output::kBfloat16:
      return finish_any<kActivation, Output::kBfloat16, false>(f, c, row, rows, column, columns);
    case Output::kFloat:
      break;
  }
  if (f.gate) return finish_any<kActivation, Output::kFloat, true>(f, c, row, rows, column, columns);
  finish_any<kActivation, Output::kFloat, false>(f, c, row, rows, column, columns);
}

void finish(const Finish& f, const std::int32_t* c, std::size_t row, int rows, std::size_t column, int columns) {
  switch (f.activation) {
    case Activation::kGelu:
      return finish_activated<Activation::kGelu>(f, c, row, rows, column, columns);
    case Activation::kGeluTanh:
      return finish_activated<Activation::kGeluTanh>(f, c, row, rows, column, columns);
    case Activation::kNone:
      return finish_activated<Activation::kNone>(f, c, row, rows, column, columns);
  }
}

// ---- normalisation ----

template <bool kAffine, bool kModulated>
INLINE void norm_row(const Norm& n, std::size_t row) {
  constexpr std::size_t kChains = 4;  // for the latency of an addition
  const std::size_t width = n.width, whole = width / (kChains * kWidth) * (kChains * kWidth);
  const float* x = n.source + row * width;
  vf totals[kChains] = {}, squares[kChains] = {};
  for (std::size_t i = 0; i < whole; i += kChains * kWidth)
#pragma GCC unroll 4
    for (std::size_t j = 0; j < kChains; ++j) totals[j] += load<vf>(x + i + j * kWidth);
  float rest = 0;
  for (std::size_t i = whole; i < width; ++i) rest += x[i];
  const float mean = (sum((totals[0] + totals[1]) + (totals[2] + totals[3])) + rest) / static_cast<float>(width);
  for (std::size_t i = 0; i < whole; i += kChains * kWidth)
#pragma GCC unroll 4
    for (std::size_t j = 0; j < kChains; ++j) {
      vf difference = load<vf>(x + i + j * kWidth) - splat(mean);
      squares[j] += difference * difference;
    }
  rest = 0;
  for (std::size_t i = whole; i < width; ++i) rest += (x[i] - mean) * (x[i] - mean);
  const float square = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) + rest;
  const vf factor = splat(1.0f / std::sqrt(square / static_cast<float>(width) + n.epsilon));
  const vf inverse_scale = splat(n.inverse_scale), offset = splat(n.offset);
  const float* scale = n.scale ? n.scale + row / n.tokens * n.scale_stride : nullptr;
  const float* shift = n.shift ? n.shift + row / n.tokens * n.shift_stride : nullptr;
  std::uint8_t* target = n.destination + row * width;
  const auto finish = [&](std::size_t i, int lanes) __attribute__((always_inline)) {
    vf y = (load_part(x + i, lanes) - splat(mean)) * factor;
    if (kAffine && n.gamma) y = y * load_part(n.gamma + i, lanes);
    if (kAffine && n.beta) y = y + load_part(n.beta + i, lanes);
    if (kModulated)
      y = y * (load_part(scale + i, lanes) + offset) + load_part(shift + i, lanes);
    else if (shift)
      y = y + load_part(shift + i, lanes);
    store_part(target + i, quantize(y * inverse_scale), lanes);
  };
  std::size_t i = 0;
  for (; i + kWidth <= width; i += kWidth) finish(i, kWidth);
  if (i < width) finish(i, static_cast<int>(width - i));
}

void norm(const Norm& n, std::size_t first, std::size_t rows) {
  const bool affine = n.gamma || n.beta, modulated = n.scale && n.shift;
  for (std::size_t row = first; row < first + rows; ++row) {
    if (affine)
      modulated ? norm_row<true, true>(n, row) : norm_row<true, false>(n, row);
    else
      modulated ? norm_row<false, true>(n, row) : norm_row<false, false>(n, row);
  }
}

// ---- attention ----
//
// Scores and averages are products of a row-major left side, whose elements are broadcast kPairs at a time, with a
// packed right side [k / kPairs][columns][kPairs].

constexpr int kAttendRows = 6;
constexpr int kAttendColumns = kWidth == 16 ? 4 : 2;  // vectors: 6 × 4 accumulators of 32 registers, 6 × 2 of 16
constexpr std::size_t kKeyPanel = kAttendColumns * kWidth;
constexpr std::size_t kKeyRoom = (kKeyBlock + kKeyPanel - 1) / kKeyPanel * kKeyPanel;

INLINE std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

// c[MR, NV · kWidth] = initial + a · b, with lda in bytes and ldb, ldc in elements, where initial is c · factor of its row, or zero.
template <int MR, int NV, bool kAdd>
INLINE void product_rows(const char* a, std::size_t lda, const Pair* b, std::size_t ldb, std::size_t steps, float* c,
                         std::size_t ldc, const float* factor) {
  vf acc[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = kAdd ? load<vf>(c + i * ldc + j * kWidth) * splat(factor[i]) : splat(0.0f);
  for (std::size_t k = 0; k < steps; ++k, b += ldb, a += sizeof(Pair)) {
    vp bs[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) bs[j] = load<vp>(b + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      vp as = broadcast_pair(load<Pair>(a + i * lda));
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] = dot_pairs(acc[i][j], as, bs[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) store(c + i * ldc + j * kWidth, acc[i][j]);
}

template <int NV, bool kAdd>
INLINE void product_vectors(int rows, const char* a, std::size_t lda, const Pair* b, std::size_t ldb, std::size_t steps,
                            float* c, std::size_t ldc, const float* factor) {
  switch (rows) {
    case 1:
      return product_rows<1, NV, kAdd>(a, lda, b, ldb, steps, c, ldc, factor);
    case 2:
      return product_rows<2, NV, kAdd>(a, lda, b, ldb, steps, c, ldc, factor);
    case 3:
      return product_rows<3, NV, kAdd>(a, lda, b, ldb, steps, c, ldc, factor);
    case 4:
      return product_rows<4, NV, kAdd>(a, lda, b, ldb, steps, c, ldc, factor);
    case 5:
      return product_rows<5, NV, kAdd>(a, lda, b, ldb, steps, c, ldc, factor);
    default:
      return product_rows<6, NV, kAdd>(a, lda, b, ldb, steps, c, ldc, factor);
  }
}

template <bool kAdd>
void product(int rows, const void* left, std::size_t lda, const Pair* b, std::size_t columns, std::size_t steps,
             float* c, std::size_t ldc, const float* factor) {
  const char* a = static_cast<const char*>(left);
  std::size_t column = 0;
  for (; column + kKeyPanel <= columns; column += kKeyPanel)
    product_vectors<kAttendColumns, kAdd>(rows, a, lda, b + column, columns, steps, c + column, ldc, factor);
  for (; column < columns; column += kWidth)
    product_vectors<1, kAdd>(rows, a, lda, b + column, columns, steps, c + column, ldc, factor);
}

// Packing of a block: pairs of bfloat16 where the processor multiplies those, else floats. Padding is zero.

INLINE float from_bfloat16(std::uint16_t value) { return bits<float>(static_cast<std::uint32_t>(value) << 16); }

INLINE Pair pair(std::uint16_t first, std::uint16_t second) {
  if constexpr (kPairs == 2)
    return static_cast<Pair>(first | static_cast<std::uint32_t>(second) << 16);
  else
    return static_cast<Pair>(from_bfloat16(first));
}

INLINE void pack_query(const std::uint16_t* query, std::size_t width, Pair* packed) {
  std::size_t i = 0;
  for (; i + kPairs <= width; i += kPairs) packed[i / kPairs] = pair(query[i], query[i + kPairs - 1]);
  if (i < width) packed[i / kPairs] = pair(query[i], 0);
}

// [keys, width] → [width / kPairs][columns]
INLINE void pack_keys(const std::uint16_t* key, std::size_t stride, std::size_t keys, std::size_t columns,
                      std::size_t width, Pair* packed) {
  const std::size_t steps = (width + kPairs - 1) / kPairs, whole = width / kPairs;
  for (std::size_t first = 0; first < columns; first += kWidth) {
    std::size_t step = 0;
    if (first + kWidth <= keys)
      for (; step + kTransposed <= whole; step += kTransposed)
        transpose(key + first * stride + kPairs * step, stride, packed + step * columns + first, columns);
    for (; step < steps; ++step)
      for (std::size_t i = first; i < first + kWidth; ++i) {
        const std::uint16_t* at = key + i * stride + kPairs * step;
        packed[step * columns + i] = i >= keys ? 0 : step < whole ? pair(at[0], at[kPairs - 1]) : pair(at[0], 0);
      }
  }
}

// [keys, width] → [room / kPairs][columns]
INLINE void pack_values(const std::uint16_t* value, std::size_t stride, std::size_t keys, std::size_t room,
                        std::size_t width, std::size_t columns, Pair* packed) {
  for (std::size_t i = 0; i < room; i += kPairs, packed += columns) {
    const std::uint16_t *one = value + i * stride, *two = value + (i + kPairs - 1) * stride;
    std::size_t j = 0;
    if (i + kPairs <= keys)
      for (; j + kWidth <= width; j += kWidth) {
        vu pairs = __builtin_convertvector(load<vu16>(one + j), vu);
        pairs = kPairs == 2 ? pairs | __builtin_convertvector(load<vu16>(two + j), vu) << 16 : pairs << 16;
        store(packed + j, pairs);
      }
    for (; j < columns; ++j) packed[j] = i >= keys || j >= width ? 0 : pair(one[j], i + kPairs <= keys ? two[j] : 0);
  }
}

INLINE void prefetch(const std::uint16_t* row, std::size_t width) {
  for (std::size_t i = 0; i < width; i += 32) __builtin_prefetch(row + i);  // 64 bytes
}

INLINE void store_weights(Pair* weights, std::size_t column, vf p) {
  if constexpr (kPairs == 2)
    store(reinterpret_cast<std::uint16_t*>(weights) + column, to_bfloat16(p));
  else
    store(weights + column, p);
}

// Where the parts of the scratch memory lie.
struct AttendScratch {
  std::size_t steps, columns;  // pairs of a head; columns of a value, padded
  Pair *key, *value, *query, *weights;
  float *scores, *output, *maxima, *totals;
  std::size_t bytes;

  AttendScratch(std::size_t width, void* memory)
      : steps((width + kPairs - 1) / kPairs), columns(round_up(width, kWidth)) {
    char* at = static_cast<char*>(memory);
    bytes = 0;
    auto take = [&](std::size_t size) {
      char* part = at == nullptr ? nullptr : at + bytes;
      bytes += round_up(size, 64);
      return part;
    };
    key = reinterpret_cast<Pair*>(take(kKeyRoom * steps * sizeof(Pair)));
    value = reinterpret_cast<Pair*>(take(kKeyRoom / kPairs * columns * sizeof(Pair)));
    query = reinterpret_cast<Pair*>(take(kAttendRows * steps * sizeof(Pair)));
    weights = reinterpret_cast<Pair*>(take(kAttendRows * kKeyRoom / kPairs * sizeof(Pair)));
    scores = reinterpret_cast<float*>(take(kAttendRows * kKeyRoom * sizeof(float)));
    output = reinterpret_cast<float*>(take(kQueryTile * columns * sizeof(float)));
    maxima = reinterpret_cast<float*>(take(kQueryTile * sizeof(float)));
    totals = reinterpret_cast<float*>(take(kQueryTile * sizeof(float)));
  }
};

std::size_t attend_scratch(std::size_t width) { return AttendScratch(width, nullptr).bytes; }

// Scores of one row become weights: exp(score − the largest yet), their sum added to the row's.
INLINE float soften(const float* scores, Pair* weights, std::size_t keys, std::size_t room, float scale, float& maximum,
                    float& total) {
  const std::size_t whole = keys / kWidth * kWidth;
  vf top = splat(-INFINITY);
  std::size_t i = 0;
  for (; i < whole; i += kWidth) top = most(top, load<vf>(scores + i));
  float now = largest(top);
  for (; i < keys; ++i) now = scores[i] > now ? scores[i] : now;
  now = now * scale > maximum ? now * scale : maximum;  // the scale is positive
  const float factor = maximum == -INFINITY ? 0.0f : std::exp2(maximum - now);
  vf sums = splat(0.0f);
  for (i = 0; i < whole; i += kWidth) {
    vf p = exp2(load<vf>(scores + i) * splat(scale) - splat(now));
    sums += p;
    store_weights(weights, i, p);
  }
  if (i < room) {
    float part[kWidth] = {};
    for (std::size_t j = 0; j < kWidth; ++j) part[j] = i + j < keys ? scores[i + j] * scale - now : 0.0f;
    vf p = exp2(load<vf>(part));
    std::memcpy(part, &p, sizeof(part));
    for (std::size_t j = 0; j < kWidth; ++j)
      if (i + j >= keys) part[j] = 0.0f;
    p = load<vf>(part);
    sums += p;
    store_weights(weights, i, p);
  }
  total = total * factor + sum(sums);
  maximum = now;
  return factor;
}

void attend(const Attend& t, void* memory) {
  AttendScratch s(t.width, memory);
  const float scale = t.scale * 1.4426950408889634f;  // exp(x) = 2^(x · log₂e)
  for (std::size_t first = 0; first < t.keys; first += kKeyBlock) {
    const std::size_t keys = t.keys - first < kKeyBlock ? t.keys - first : kKeyBlock;
    const std::size_t columns = round_up(keys, kWidth), weight_steps = columns / kPairs;
    // Rows lie far apart, so the processor's own prefetching does not follow them.
    for (std::size_t i = first; i < first + keys; ++i) prefetch(t.value + i * t.value_stride, t.width);
    pack_keys(t.key + first * t.key_stride, t.key_stride, keys, columns, t.width, s.key);
    pack_values(t.value + first * t.value_stride, t.value_stride, keys, columns, t.width, s.columns, s.value);
    for (std::size_t row = 0; row < t.queries; row += kAttendRows) {
      const int rows = t.queries - row < kAttendRows ? static_cast<int>(t.queries - row) : kAttendRows;
      for (std::size_t i = row + kAttendRows; i < row + 2 * kAttendRows && i < t.queries; ++i)
        prefetch(t.query + i * t.query_stride, t.width);
      const void* query = t.query + row * t.query_stride;
      std::size_t stride = t.query_stride * sizeof(std::uint16_t);
      if (kPairs == 1 || t.width % kPairs) {
        for (int i = 0; i < rows; ++i) pack_query(t.query + (row + i) * t.query_stride, t.width, s.query + i * s.steps);
        query = s.query, stride = s.steps * sizeof(Pair);
      }
      product<false>(rows, query, stride, s.key, columns, s.steps, s.scores, kKeyRoom, nullptr);
      float factors[kAttendRows];
      for (int i = 0; i < rows; ++i) {
        if (first == 0) s.maxima[row + i] = -INFINITY, s.totals[row + i] = 0;
        factors[i] = soften(s.scores + i * kKeyRoom, s.weights + i * (kKeyRoom / kPairs), keys, columns, scale,
                            s.maxima[row + i], s.totals[row + i]);
      }
      float* output = s.output + row * s.columns;
      if (first == 0)
        product<false>(rows, s.weights, kKeyRoom / kPairs * sizeof(Pair), s.value, s.columns, weight_steps, output,
                       s.columns, nullptr);
      else
        product<true>(rows, s.weights, kKeyRoom / kPairs * sizeof(Pair), s.value, s.columns, weight_steps, output,
                      s.columns, factors);
    }
  }
  for (std::size_t row = 0; row < t.queries; ++row) {
    const float inverse = (t.quantize ? t.inverse_scale : 1.0f) / s.totals[row];
    for (std::size_t i = 0; i < t.width; i += kWidth) {
      const int lanes = t.width - i < kWidth ? static_cast<int>(t.width - i) : kWidth;
      vf y = load<vf>(s.output + row * s.columns + i) * splat(inverse);
      if (t.quantize)
        store_part(static_cast<std::uint8_t*>(t.destination) + row * t.output_stride + i, quantize(y), lanes);
      else
        store_part(static_cast<float*>(t.destination) + row * t.output_stride + i, y, lanes);
    }
  }
}

constexpr Kernels kKernels = {kName, kRows, tile, finish, norm, attend_scratch, attend};
