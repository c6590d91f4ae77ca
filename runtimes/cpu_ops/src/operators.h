// The operators of domain "dit_deploy" as ONNX Runtime sees them: attributes, inputs checked, outputs made.
#pragma once

#include <initializer_list>
#include <memory>

#include "kernels.h"
#include "linear.h"
#include "ort_api.h"

namespace dit {

// One row of [samples, width] for all tokens of a sample: a modulation's scale or shift, or a gate.
struct SampleRows {
  const float* data = nullptr;
  std::size_t stride = 0;  // 0 where one row serves all
};

// Failure unless `tensor` is float [samples or 1, width] or [samples or 1, 1, width].
SampleRows sample_rows(const Tensor& tensor, const char* name, std::int64_t samples, std::int64_t width);

// x @ weight, quantised; inputs: activation uint8 […, in], weight int8 [in, out], scale [out], bias [out]; with kGated
// also gate and residual.
class QuantizedLinear {
 public:
  QuantizedLinear(const Api& api, const void* info, Output output, bool gated);
  void compute(void* context) const;

 private:
  const Api api_;
  const Kernels& kernels_;
  PackedWeight weight_;
  Finish finish_;
  bool gated_;
};

class WeightOnlyLinear {
 public:
  WeightOnlyLinear(const Api& api, const void* info);
  void compute(void* context) const;

 private:
  const Api api_;
  const Kernels& kernels_;
  PackedWeight weight_;
};

// LayerNormalization, modulation and quantisation; inputs: x [samples, tokens, width], scale, shift, gamma, beta.
class LayerNormQuantize {
 public:
  LayerNormQuantize(const Api& api, const void* info);
  void compute(void* context) const;

 private:
  const Api api_;
  const Kernels& kernels_;
  Norm norm_;
};

// Softmax(q kᵀ · scale) v for each head, in memory that does not grow with tokens; inputs bfloat16 [samples, tokens, …].
class FlashAttention {
 public:
  FlashAttention(const Api& api, const void* info, bool quantize);
  void compute(void* context) const;

 private:
  const Api api_;
  const Kernels& kernels_;
  std::size_t heads_, width_;
  std::int64_t offsets_[3];
  float scale_, inverse_scale_;
  bool quantize_;
};

}  // namespace dit
