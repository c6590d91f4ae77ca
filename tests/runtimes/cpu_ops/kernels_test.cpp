// Every kernel that runs here, on buffers of exactly their size: built with the address and undefined-behaviour
// sanitizers, which see what is read or written beyond them. Prints the instruction sets that were tested.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels.h"
#include "linear.h"

using namespace dit;

namespace {

std::mt19937 random_engine(1);

template <class T>
std::vector<T> integers(std::size_t count, int low, int high) {
  std::uniform_int_distribution<int> distribution(low, high);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(distribution(random_engine));
  return values;
}

std::vector<float> normal(std::size_t count, float spread = 1) {
  std::normal_distribution<float> distribution(0, spread);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(random_engine);
  return values;
}

void expect(bool condition, const char* isa, const char* what, double got, double expected) {
  if (condition) return;
  std::printf("%s: %s: got %g, expected %g\n", isa, what, got, expected);
  std::exit(1);
}

float from_bfloat16(std::uint16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// Runs tasks one after the other, where ONNX Runtime would use its threads.
void* serial(const void*, void (*each)(void*, std::size_t), std::size_t count, std::size_t, void* data) {
  for (std::size_t i = 0; i < count; ++i) each(data, i);
  return nullptr;
}

const void* table[300];

void test_linear(const Kernels& kernels, std::size_t samples, std::size_t tokens, std::size_t in, std::size_t out) {
  const std::size_t rows = samples * tokens;
  auto weight = integers<std::int8_t>(in * out, -127, 127);
  auto a = integers<std::uint8_t>(rows * in, 0, 255);
  auto scale = normal(out, 1e-4f), bias = normal(out), gate = normal(samples * out), residual = normal(rows * out);
  const auto shape = [](std::size_t x) { return static_cast<std::int64_t>(x); };
  const PackedWeight packed({kInt8, {shape(in), shape(out)}, weight.data()}, {kFloat, {shape(out)}, scale.data()},
                            {kFloat, {shape(out)}, bias.data()});
  const Api api(table);
  const Parallel parallel(api, nullptr);
  std::vector<float> floats(rows * out), gated(rows * out), weight_only(rows * out);
  std::vector<std::uint16_t> halves(rows * out);
  std::vector<std::uint8_t> bytes(rows * out);
  Finish finish;
  finish.destination = floats.data();
  quantized_linear(kernels, parallel, packed, a.data(), rows, finish);
  finish.output = Output::kBfloat16, finish.destination = halves.data();
  quantized_linear(kernels, parallel, packed, a.data(), rows, finish);
  finish.output = Output::kUint8, finish.destination = bytes.data(), finish.inverse_scale = 20;
  finish.activation = Activation::kGelu;
  quantized_linear(kernels, parallel, packed, a.data(), rows, finish);
  finish = Finish();
  finish.gate = gate.data(), finish.gate_stride = out, finish.tokens = tokens, finish.residual = residual.data();
  finish.destination = gated.data();
  quantized_linear(kernels, parallel, packed, a.data(), rows, finish);
  auto x = normal(rows * in);
  weight_only_linear(kernels, parallel, packed, x.data(), rows, weight_only.data());
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t column = 0; column < out; ++column) {
      std::int64_t sum = 0;
      double product = 0;
      for (std::size_t k = 0; k < in; ++k) {
        sum += (a[row * in + k] - 128) * weight[k * out + column];
        product += static_cast<double>(x[row * in + k]) * weight[k * out + column];
      }
      const std::size_t at = row * out + column;
      const double y = static_cast<double>(sum) * scale[column] + bias[column];
      expect(std::fabs(floats[at] - y) < 1e-5 + 1e-6 * std::fabs(y), kernels.name, "float", floats[at], y);
      expect(std::fabs(from_bfloat16(halves[at]) - y) < 1e-5 + std::fabs(y) / 255, kernels.name, "bfloat16",
             from_bfloat16(halves[at]), y);
      const double g = std::fmin(127, std::fmax(-128, 20 * 0.5 * y * (1 + std::erf(y / std::sqrt(2.0))))) + 128;
      expect(std::fabs(bytes[at] - g) < 0.51, kernels.name, "gelu", bytes[at], g);
      const double z = residual[at] + gate[row / tokens * out + column] * y;
      expect(std::fabs(gated[at] - z) < 1e-4, kernels.name, "gated", gated[at], z);
      const double w = product * scale[column] + bias[column];
      expect(std::fabs(weight_only[at] - w) < 1e-4, kernels.name, "weight only", weight_only[at], w);
    }
}

void test_norm(const Kernels& kernels, std::size_t tokens, std::size_t width) {
  const std::size_t rows = 2 * tokens;
  auto x = normal(rows * width, 3), scale = normal(2 * width), shift = normal(2 * width), gamma = normal(width);
  std::vector<std::uint8_t> bytes(rows * width);
  Norm norm;
  norm.scale = scale.data(), norm.shift = shift.data(), norm.scale_stride = norm.shift_stride = width;
  norm.gamma = gamma.data(), norm.tokens = tokens, norm.width = width, norm.epsilon = 1e-5f, norm.inverse_scale = 20;
  norm.source = x.data(), norm.destination = bytes.data();
  kernels.norm(norm, 0, rows);
  for (std::size_t row = 0; row < rows; ++row) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < width; ++i) mean += x[row * width + i] / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) variance += std::pow(x[row * width + i] - mean, 2) / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t at = row / tokens * width + i;
      double y = (x[row * width + i] - mean) / std::sqrt(variance + 1e-5) * gamma[i] * (1 + scale[at]) + shift[at];
      y = std::fmin(127, std::fmax(-128, 20 * y)) + 128;
      expect(std::fabs(bytes[row * width + i] - y) < 0.52, kernels.name, "norm", bytes[row * width + i], y);
    }
  }
}

void test_attend(const Kernels& kernels, std::size_t queries, std::size_t keys, std::size_t width) {
  const auto random_bfloat16 = [](std::size_t count) {
    std::vector<std::uint16_t> values;
    for (float value : normal(count)) {
      std::uint32_t bits;
      std::memcpy(&bits, &value, 4);
      values.push_back(static_cast<std::uint16_t>(bits >> 16));
    }
    return values;
  };
  auto q = random_bfloat16(queries * width), k = random_bfloat16(keys * width), v = random_bfloat16(keys * width);
  std::vector<float> output(queries * width);
  void* scratch = std::aligned_alloc(64, kernels.attend_scratch(width));
  Attend one;
  one.query = q.data(), one.key = k.data(), one.value = v.data(), one.destination = output.data();
  one.query_stride = one.key_stride = one.value_stride = one.output_stride = width;
  one.queries = queries, one.keys = keys, one.width = width, one.scale = 0.2f, one.quantize = false;
  kernels.attend(one, scratch);
  std::free(scratch);
  for (std::size_t row = 0; row < queries; ++row) {
    std::vector<double> weights(keys);
    double total = 0;
    for (std::size_t key = 0; key < keys; ++key) {
      double score = 0;
      for (std::size_t i = 0; i < width; ++i) score += from_bfloat16(q[row * width + i]) * from_bfloat16(k[key * width + i]);
      total += weights[key] = std::exp(0.2 * score);
    }
    for (std::size_t i = 0; i < width; ++i) {
      double y = 0;
      for (std::size_t key = 0; key < keys; ++key) y += weights[key] / total * from_bfloat16(v[key * width + i]);
      expect(std::fabs(output[row * width + i] - y) < 0.02, kernels.name, "attention", output[row * width + i], y);
    }
  }
}

}  // namespace

int main() {
  table[kKernelContextParallelFor] = reinterpret_cast<const void*>(&serial);
  for (const Kernels* kernels :
       {avx512_bf16_kernels(), avx512_kernels(), avx_vnni_kernels(), avx2_kernels(), portable_kernels()}) {
    bool runs = kernels != nullptr && supported(*kernels);
#ifdef DIT_AVX_VNNI_ENCODED_AS_AVX512
    runs = runs || (kernels != nullptr && kernels == avx_vnni_kernels() && supported(*avx512_kernels()));
#endif
    if (!runs) continue;
    for (std::size_t tokens : {1, 7, 77})
      for (std::size_t width : {4, 72, 192}) {
        test_linear(*kernels, 2, tokens, width, 49);
        test_linear(*kernels, 1, tokens, 72, width);
        test_norm(*kernels, tokens, width + tokens % 3);
        test_attend(*kernels, tokens, tokens + 256 * (tokens % 3), width);
        test_attend(*kernels, tokens, 2 * tokens, width + 1);
      }
    std::printf("%s\n", kernels->name);
  }
  return 0;
}
