// A quantised linear layer: its packed weight, and the loop over tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels.h"
#include "ort_api.h"

namespace dit {

// int8 [in, out] as panels of 48 columns, [out / 48][in / 4][48][4]; columns past the last are zero.
class PackedWeight {
 public:
  // Failure: shapes that do not fit each other, or in_features that is no multiple of 4.
  PackedWeight(const Tensor& weight, const Tensor& scale, const Tensor& bias);

  std::size_t in() const { return in_; }
  std::size_t out() const { return out_; }
  std::size_t panels() const { return panels_; }
  std::size_t k4() const { return in_ / 4; }
  const std::int8_t* panel(std::size_t index) const { return data_.get() + index * kPanel * in_; }
  int columns(std::size_t index) const;  // of a panel that are no padding
  // −128 · the sum of each column: what the zero point of the activation adds, taken away in integers, so exactly.
  const std::int32_t* start() const { return start_.data(); }
  const float* scale() const { return scale_.data(); }
  const float* bias() const { return bias_.data(); }

 private:
  struct Free {
    void operator()(std::int8_t* data) const { std::free(data); }
  };
  std::size_t in_ = 0, out_ = 0, panels_ = 0;
  using Data = std::unique_ptr<std::int8_t[], Free>;
  Data data_;
  std::vector<std::int32_t> start_;
  std::vector<float> scale_, bias_;
};

// What finish says of a · weight, for a: uint8 [rows, in], zero point 128.
void quantized_linear(const Kernels& kernels, const Parallel& parallel, const PackedWeight& weight,
                      const std::uint8_t* a, std::size_t rows, Finish finish);

// y = x · (weight · scale) + bias in float, for few rows.
void weight_only_linear(const Kernels& kernels, const Parallel& parallel, const PackedWeight& weight, const float* x,
                        std::size_t rows, float* y);

}  // namespace dit
