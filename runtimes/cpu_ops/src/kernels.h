// What is compiled once for each instruction set, and the choice among them at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dit {

constexpr int kPanel = 48;    // columns of a packed weight that lie together: three vectors of 16
constexpr int kMostRows = 8;  // rows of a tile, at most: 8 × 48 accumulators fill 24 of 32 registers
constexpr std::size_t kQueryTile = 256, kKeyBlock = 256, kMostHead = 256;

enum class Output { kFloat, kBfloat16, kUint8 };
enum class Activation { kNone, kGelu, kGeluTanh };

// What becomes of integer accumulators: y = activation(acc · scale + bias), then quantised or gated and added.
struct Finish {
  const float* scale = nullptr;  // [panels · 48]: of the activation times that of each column's weights
  const float* bias = nullptr;   // [panels · 48]
  Activation activation = Activation::kNone;
  Output output = Output::kFloat;
  float inverse_scale = 1;          // of a quantised output, whose zero point is 128
  const float* gate = nullptr;      // [samples, columns]; y becomes residual + gate · y
  std::size_t gate_stride = 0;      // 0 where one row serves all samples
  std::size_t tokens = 1;           // rows of a sample
  const float* residual = nullptr;  // [rows, columns]
  void* destination = nullptr;      // [rows, columns]
  std::size_t columns = 0;
};

struct Norm {
  const float* gamma = nullptr;  // [width], may be absent, as may beta
  const float* beta = nullptr;
  const float* scale = nullptr;  // [samples, width], may be absent, as may shift
  const float* shift = nullptr;
  std::size_t scale_stride = 0, shift_stride = 0, tokens = 1, width = 0;
  float offset = 1;  // y = norm · (offset + scale) + shift
  float epsilon = 0, inverse_scale = 1;
  const float* source = nullptr;        // [rows, width]
  std::uint8_t* destination = nullptr;  // [rows, width]
};

// One tile of queries of one head. Strides in elements.
struct Attend {
  const std::uint16_t *query = nullptr, *key = nullptr, *value = nullptr;  // bfloat16
  std::size_t query_stride = 0, key_stride = 0, value_stride = 0, output_stride = 0;
  std::size_t queries = 0, keys = 0, width = 0;  // at most kQueryTile queries
  float scale = 1, inverse_scale = 1;
  bool quantize = true;
  void* destination = nullptr;  // uint8 or float
};

struct Kernels {
  const char* name;
  int rows;  // of a tile
  // c[rows, 48] = start[48] + a[rows, 4·k4] (uint8) · b[k4, 48, 4] (int8)
  void (*tile)(int rows, const std::uint8_t* a, std::size_t lda, const std::int8_t* b, std::size_t k4,
               const std::int32_t* start, std::int32_t* c);
  void (*finish)(const Finish&, const std::int32_t* c, std::size_t row, int rows, std::size_t column, int columns);
  void (*norm)(const Norm&, std::size_t row, std::size_t rows);
  std::size_t (*attend_scratch)(std::size_t width);  // bytes
  void (*attend)(const Attend&, void* scratch);      // scratch is aligned to 64
};

// Each is null where the compiler or the architecture has no such thing.
const Kernels* avx512_bf16_kernels();
const Kernels* avx512_kernels();
const Kernels* avx_vnni_kernels();
const Kernels* avx2_kernels();
const Kernels* portable_kernels();

// The best that this processor runs, or the one that DIT_DEPLOY_CPU_OPS_ISA names; Failure for one that it lacks.
const Kernels& kernels();
bool supported(const Kernels& candidate);

}  // namespace dit
