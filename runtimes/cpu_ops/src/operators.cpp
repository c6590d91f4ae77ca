#include "operators.h"

#include <algorithm>
#include <cmath>
#include <new>

namespace dit {

namespace {

void expect(bool condition, const char* name, const char* expected, const Tensor& got) {
  if (!condition) throw Failure(std::string(name) + ": expected " + expected + ", got " + got.text());
}

float inverse(float scale, const char* name) {
  if (!(scale > 0) || !std::isfinite(scale) || !std::isfinite(1 / scale))
    throw Failure(std::string(name) + ": must be positive and finite, got " + std::to_string(scale));
  return 1 / scale;
}

std::size_t extent(const Tensor& tensor, std::size_t axis) { return static_cast<std::size_t>(tensor.shape[axis]); }

// Memory of a thread, kept from task to task and aligned to 64.
void* scratch(std::size_t bytes) {
  struct Memory {
    void* data = nullptr;
    std::size_t size = 0;
    ~Memory() { ::operator delete(data, std::align_val_t{64}); }
  };
  thread_local Memory memory;
  if (memory.size < bytes) {
    ::operator delete(memory.data, std::align_val_t{64});
    memory.data = nullptr, memory.size = 0;
    memory.data = ::operator new(bytes, std::align_val_t{64});
    memory.size = bytes;
  }
  return memory.data;
}

}  // namespace

SampleRows sample_rows(const Tensor& tensor, const char* name, std::int64_t samples, std::int64_t width) {
  const auto& shape = tensor.shape;
  const bool fits = tensor.type == kFloat && (shape.size() == 2 || (shape.size() == 3 && shape[1] == 1)) &&
                    shape.back() == width && (shape[0] == samples || shape[0] == 1);
  if (!fits)
    throw Failure(std::string(name) + ": expected float[" + std::to_string(samples) + " or 1, " +
                  std::to_string(width) + "], got " + tensor.text());
  return {tensor.as<const float>(), shape[0] == 1 ? 0 : static_cast<std::size_t>(width)};
}

QuantizedLinear::QuantizedLinear(const Api& api, const void* info, Output output, bool gated)
    : api_(api),
      kernels_(kernels()),
      weight_(api.constant(info, 1), api.constant(info, 2), api.constant(info, 3)),
      gated_(gated) {
  const std::int64_t activation = api.attribute(info, "activation", std::int64_t{0});
  if (activation < 0 || activation > 2)
    throw Failure("activation: expected 0, 1 or 2, got " + std::to_string(activation));
  finish_.activation = static_cast<Activation>(activation);
  finish_.output = output;
  if (output == Output::kUint8)
    finish_.inverse_scale = inverse(api.attribute(info, "output_scale", 0.0f), "output_scale");
}

void QuantizedLinear::compute(void* context) const {
  const Tensor a = api_.input(context, 0);
  expect(a.type == kUint8 && !a.shape.empty() && extent(a, a.shape.size() - 1) == weight_.in(), "activation",
         ("uint8[…, " + std::to_string(weight_.in()) + "]").c_str(), a);
  std::vector<std::int64_t> shape = a.shape;
  shape.back() = static_cast<std::int64_t>(weight_.out());
  const std::size_t rows = static_cast<std::size_t>(a.size()) / weight_.in();
  Finish finish = finish_;
  if (gated_) {
    const Tensor gate = api_.input(context, 4), residual = api_.input(context, 5);
    expect(a.shape.size() == 3, "activation", "three axes", a);
    expect(residual.type == kFloat && residual.shape == shape, "residual", "the shape of the result", residual);
    const SampleRows row = sample_rows(gate, "gate", shape[0], shape[2]);
    finish.gate = row.data;
    finish.gate_stride = row.stride;
    finish.tokens = std::max<std::size_t>(1, extent(a, 1));
    finish.residual = residual.as<const float>();
  }
  finish.destination = api_.output(context, 0, shape);
  quantized_linear(kernels_, Parallel(api_, context), weight_, a.as<const std::uint8_t>(), rows, finish);
}

WeightOnlyLinear::WeightOnlyLinear(const Api& api, const void* info)
    : api_(api), kernels_(kernels()), weight_(api.constant(info, 1), api.constant(info, 2), api.constant(info, 3)) {}

void WeightOnlyLinear::compute(void* context) const {
  const Tensor x = api_.input(context, 0);
  expect(x.type == kFloat && !x.shape.empty() && extent(x, x.shape.size() - 1) == weight_.in(), "x",
         ("float[…, " + std::to_string(weight_.in()) + "]").c_str(), x);
  std::vector<std::int64_t> shape = x.shape;
  shape.back() = static_cast<std::int64_t>(weight_.out());
  float* y = static_cast<float*>(api_.output(context, 0, shape));
  weight_only_linear(kernels_, Parallel(api_, context), weight_, x.as<const float>(),
                     static_cast<std::size_t>(x.size()) / weight_.in(), y);
}

LayerNormQuantize::LayerNormQuantize(const Api& api, const void* info) : api_(api), kernels_(kernels()) {
  norm_.epsilon = api.attribute(info, "epsilon", 1e-5f);
  norm_.offset = api.attribute(info, "offset", 1.0f);
  norm_.inverse_scale = inverse(api.attribute(info, "output_scale", 0.0f), "output_scale");
}

void LayerNormQuantize::compute(void* context) const {
  const Tensor x = api_.input(context, 0);
  expect(x.type == kFloat && x.shape.size() == 3 && x.shape[2] > 0, "x", "float[samples, tokens, width]", x);
  Norm norm = norm_;
  if (const Tensor scale = api_.input(context, 1); scale.present()) {
    const SampleRows row = sample_rows(scale, "scale", x.shape[0], x.shape[2]);
    norm.scale = row.data, norm.scale_stride = row.stride;
  }
  if (const Tensor shift = api_.input(context, 2); shift.present()) {
    const SampleRows row = sample_rows(shift, "shift", x.shape[0], x.shape[2]);
    norm.shift = row.data, norm.shift_stride = row.stride;
  }
  if (norm.scale != nullptr && norm.shift == nullptr) throw Failure("scale: is given without shift");
  const Tensor gamma = api_.input(context, 3), beta = api_.input(context, 4);
  for (const Tensor* vector : {&gamma, &beta})
    if (vector->present())
      expect(vector->type == kFloat && vector->size() == x.shape[2], "gamma and beta", "float[width]", *vector);
  norm.gamma = gamma.as<const float>();
  norm.beta = beta.as<const float>();
  norm.tokens = std::max<std::size_t>(1, extent(x, 1));
  norm.width = extent(x, 2);
  norm.source = x.as<const float>();
  norm.destination = static_cast<std::uint8_t*>(api_.output(context, 0, x.shape));
  const std::size_t rows = extent(x, 0) * extent(x, 1), block = std::max<std::size_t>(1, 16384 / norm.width);
  Parallel(api_, context).run((rows + block - 1) / block, [&](std::size_t task) {
    kernels_.norm(norm, task * block, std::min(block, rows - task * block));
  });
}

FlashAttention::FlashAttention(const Api& api, const void* info, bool quantize)
    : api_(api), kernels_(kernels()), quantize_(quantize) {
  const std::int64_t heads = api.attribute(info, "num_heads", std::int64_t{0});
  const std::int64_t width = api.attribute(info, "head_size", std::int64_t{0});
  if (heads < 1 || heads > 65536) throw Failure("num_heads: must be positive, got " + std::to_string(heads));
  if (width < 1 || width > static_cast<std::int64_t>(kMostHead))
    throw Failure("head_size: expected 1 to " + std::to_string(kMostHead) + ", got " + std::to_string(width));
  heads_ = static_cast<std::size_t>(heads);
  width_ = static_cast<std::size_t>(width);
  const char* names[] = {"query_offset", "key_offset", "value_offset"};
  for (int i = 0; i < 3; ++i) {
    offsets_[i] = api.attribute(info, names[i], std::int64_t{0});
    if (offsets_[i] < 0) throw Failure(std::string(names[i]) + ": must not be negative");
  }
  scale_ = api.attribute(info, "scale", 1.0f / std::sqrt(static_cast<float>(width)));
  inverse(scale_, "scale");
  inverse_scale_ = quantize ? inverse(api.attribute(info, "output_scale", 0.0f), "output_scale") : 1.0f;
}

void FlashAttention::compute(void* context) const {
  const std::size_t hidden = heads_ * width_;
  Tensor inputs[3];
  for (std::size_t i = 0; i < 3; ++i) {
    const Tensor& x = inputs[i] = api_.input(context, i);
    expect(x.type == kBfloat16 && x.shape.size() == 3 && x.shape[2] >= offsets_[i] + static_cast<std::int64_t>(hidden),
           i == 0   ? "query"
           : i == 1 ? "key"
                    : "value",
           "bfloat16[samples, tokens, hidden]", x);
    expect(x.shape[0] == inputs[0].shape[0], "key and value", "as many samples as the query", x);
  }
  expect(inputs[1].shape[1] == inputs[2].shape[1] && inputs[1].shape[1] > 0, "value",
         "as many tokens as the key, not 0", inputs[2]);
  const std::size_t samples = extent(inputs[0], 0), queries = extent(inputs[0], 1), keys = extent(inputs[1], 1);
  const std::vector<std::int64_t> shape = {inputs[0].shape[0], inputs[0].shape[1], static_cast<std::int64_t>(hidden)};
  void* output = api_.output(context, 0, shape);
  const std::size_t tiles = (queries + kQueryTile - 1) / kQueryTile, bytes = kernels_.attend_scratch(width_);
  // Neighbouring tasks read the same keys.
  Parallel(api_, context).run(samples * heads_ * tiles, [&](std::size_t task) {
    const std::size_t tile = task % tiles, head = task / tiles % heads_, sample = task / tiles / heads_;
    const std::size_t first = tile * kQueryTile;
    const auto start = [&](std::size_t i, std::size_t token) {
      return inputs[i].as<const std::uint16_t>() + (sample * extent(inputs[i], 1) + token) * extent(inputs[i], 2) +
             static_cast<std::size_t>(offsets_[i]) + head * width_;
    };
    Attend one;
    one.query = start(0, first), one.key = start(1, 0), one.value = start(2, 0);
    one.query_stride = extent(inputs[0], 2), one.key_stride = extent(inputs[1], 2),
    one.value_stride = extent(inputs[2], 2);
    one.queries = std::min(kQueryTile, queries - first), one.keys = keys, one.width = width_;
    one.scale = scale_, one.inverse_scale = inverse_scale_, one.quantize = quantize_;
    one.output_stride = hidden;
    const std::size_t at = (sample * queries + first) * hidden + head * width_;
    one.destination = quantize_ ? static_cast<void*>(static_cast<std::uint8_t*>(output) + at)
                                : static_cast<void*>(static_cast<float*>(output) + at);
    kernels_.attend(one, scratch(bytes));
  });
}

}  // namespace dit
