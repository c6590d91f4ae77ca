#include "linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace dit {

namespace {

constexpr std::size_t kBlockBytes = 384 * 1024;   // of activations: they stay in a second-level cache of 512 KB
constexpr std::size_t kTaskProducts = 4'000'000;  // some ten microseconds, beside which handing out a task is nothing

std::size_t divide_up(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

// Memory in large pages where the system gives them: weights are read once a pass, and finding their pages takes time.
std::int8_t* zeros(std::size_t bytes) {
  const std::size_t page = bytes < (std::size_t{1} << 20) ? 64 : std::size_t{1} << 21,
                    size = divide_up(bytes, page) * page;
  void* data = std::aligned_alloc(page, size);
  if (data == nullptr) throw std::bad_alloc();
#ifdef __linux__
  if (page > 64) madvise(data, size, MADV_HUGEPAGE);  // a hint
#endif
  std::memset(data, 0, bytes);
  return static_cast<std::int8_t*>(data);
}

}  // namespace

PackedWeight::PackedWeight(const Tensor& weight, const Tensor& scale, const Tensor& bias) {
  if (weight.type != kInt8 || weight.shape.size() != 2)
    throw Failure("weight: expected int8[in, out], got " + weight.text());
  if (weight.shape[0] < 4 || weight.shape[0] % 4 || weight.shape[1] < 1)
    throw Failure("weight: in_features must be a multiple of 4, got " + weight.text());
  if (weight.shape[0] > 65536)
    throw Failure("weight: sums over more than 65536 products may overflow, got " + weight.text());
  for (const Tensor* vector : {&scale, &bias})
    if (vector->type != kFloat || vector->size() != weight.shape[1])
      throw Failure("scale and bias: expected float[" + std::to_string(weight.shape[1]) + "], got " + vector->text());
  in_ = static_cast<std::size_t>(weight.shape[0]);
  out_ = static_cast<std::size_t>(weight.shape[1]);
  panels_ = divide_up(out_, kPanel);
  data_ = Data(zeros(panels_ * kPanel * in_));
  start_.assign(panels_ * kPanel, 0);
  scale_.assign(panels_ * kPanel, 0.0f);
  bias_.assign(panels_ * kPanel, 0.0f);
  std::copy_n(scale.as<const float>(), out_, scale_.begin());
  std::copy_n(bias.as<const float>(), out_, bias_.begin());
  const std::int8_t* source = weight.as<const std::int8_t>();
  for (std::size_t k = 0; k < in_; ++k) {
    const std::int8_t* row = source + k * out_;
    for (std::size_t column = 0; column < out_; ++column) {
      data_[column / kPanel * kPanel * in_ + (k / 4 * kPanel + column % kPanel) * 4 + k % 4] = row[column];
      start_[column] -= 128 * row[column];
    }
  }
}

int PackedWeight::columns(std::size_t index) const {
  return static_cast<int>(std::min<std::size_t>(kPanel, out_ - index * kPanel));
}

void quantized_linear(const Kernels& kernels, const Parallel& parallel, const PackedWeight& weight,
                      const std::uint8_t* a, std::size_t rows, Finish finish) {
  if (rows == 0) return;
  finish.scale = weight.scale();
  finish.bias = weight.bias();
  finish.columns = weight.out();
  const std::size_t k = weight.in(), tile = static_cast<std::size_t>(kernels.rows);
  const std::size_t most = std::clamp<std::size_t>(kBlockBytes / k, 4 * tile, 256);
  const std::size_t block = divide_up(divide_up(rows, divide_up(rows, most)), tile) * tile;
  const std::size_t blocks = divide_up(rows, block);
  const std::size_t group = std::clamp<std::size_t>(kTaskProducts / (block * k * kPanel), 1, weight.panels());
  const std::size_t groups = divide_up(weight.panels(), group);
  // Neighbouring tasks share rows: a thread keeps a block of activations and streams the weights past it.
  parallel.run(blocks * groups, [&](std::size_t task) {
    alignas(64) std::int32_t sums[kMostRows * kPanel];
    const std::size_t first = task / groups * block, last = std::min(rows, first + block);
    const std::size_t end = std::min(weight.panels(), (task % groups + 1) * group);
    for (std::size_t panel = task % groups * group; panel < end; ++panel) {
      for (std::size_t row = first; row < last; row += tile) {
        const int count = static_cast<int>(std::min(tile, last - row));
        if (finish.residual != nullptr)
          for (int i = 0; i < count; ++i)
            for (std::size_t j = 0; j < kPanel; j += 16)
              __builtin_prefetch(finish.residual + std::min((row + i) * finish.columns + panel * kPanel + j,
                                                            rows * finish.columns - 1),
                                 0, 2);
        kernels.tile(count, a + row * k, k, weight.panel(panel), weight.k4(), weight.start() + panel * kPanel, sums);
        kernels.finish(finish, sums, row, count, panel * kPanel, weight.columns(panel));
      }
    }
  });
}

void weight_only_linear(const Kernels& kernels, const Parallel& parallel, const PackedWeight& weight, const float* x,
                        std::size_t rows, float* y) {
  // A row of x becomes integers of 16 bits, and those two rows of bytes: x = step · (256 · high + low − 32768). So the
  // kernel for bytes computes it to a part in 65536 of the row's largest value, and memory is what limits it.
  const std::size_t k = weight.in(), tile = static_cast<std::size_t>(kernels.rows) / 2;
  std::vector<std::uint8_t> bytes(2 * rows * k);
  std::vector<double> steps(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    float largest = 0;
    bool finite = true;
    for (std::size_t i = 0; i < k; ++i) {
      largest = std::max(largest, std::fabs(x[row * k + i]));
      finite = finite && std::isfinite(x[row * k + i]);
    }
    if (!finite) largest = std::numeric_limits<float>::quiet_NaN();  // and so is the row of the result
    steps[row] = static_cast<double>(largest) / 32767;
    const float inverse = largest > 0 ? 32767 / largest : 0;
    for (std::size_t i = 0; i < k; ++i) {
      const float scaled = std::clamp(x[row * k + i] * inverse, -32767.0f, 32767.0f);  // a step may be subnormal
      const int value = finite ? static_cast<int>(std::lrintf(scaled)) + 32768 : 0;
      bytes[2 * row * k + i] = static_cast<std::uint8_t>(value >> 8);
      bytes[(2 * row + 1) * k + i] = static_cast<std::uint8_t>(value & 255);
    }
  }
  const std::size_t group = std::clamp<std::size_t>(kTaskProducts / 8 / (k * kPanel), 1, weight.panels());
  parallel.run(divide_up(weight.panels(), group), [&](std::size_t task) {
    alignas(64) std::int32_t sums[kMostRows * kPanel];
    const std::size_t end = std::min(weight.panels(), (task + 1) * group);
    for (std::size_t panel = task * group; panel < end; ++panel)
      for (std::size_t first = 0; first < rows; first += tile) {
        const std::size_t count = std::min(tile, rows - first), column = panel * kPanel;
        kernels.tile(static_cast<int>(2 * count), bytes.data() + 2 * first * k, k, weight.panel(panel), weight.k4(),
                     weight.start() + column, sums);  // less 128 · the column's sum, in both rows
        for (std::size_t row = 0; row < count; ++row)
          for (int i = 0; i < weight.columns(panel); ++i) {
            const double high = sums[2 * row * kPanel + i], low = sums[(2 * row + 1) * kPanel + i];
            // 256 · (high − 128) + (low − 128) is 128 less than what is wanted.
            const double sum = 256 * high + low - weight.start()[column + i];
            y[(first + row) * weight.out() + column + i] =
                static_cast<float>(sum * steps[first + row] * weight.scale()[column + i] + weight.bias()[column + i]);
          }
      }
  });
}

}  // namespace dit
