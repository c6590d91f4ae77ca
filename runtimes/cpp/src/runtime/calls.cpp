#include "runtime/calls.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"
#include "runtime/finite.h"

namespace dit_deploy::runtime {
namespace {

void check_output(const HostTensor& tensor, const std::string& what) {
  const auto count = static_cast<std::size_t>(bundle::elements(tensor.shape));
  if (tensor.dtype == DType::float32) return check_finite(static_cast<const float*>(tensor.data), count, what.c_str());
  if (tensor.dtype != DType::float16 && tensor.dtype != DType::bfloat16) return;
  // Infinite and NaN are those whose exponent is all ones.
  const auto* bits = static_cast<const std::uint16_t*>(tensor.data);
  const unsigned exponent = tensor.dtype == DType::float16 ? 0x7C00 : 0x7F80;
  const bool finite = std::none_of(bits, bits + count, [&](unsigned one) { return (one & exponent) == exponent; });
  const float value = finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
  check_finite(&value, 1, what.c_str());
}

}  // namespace

Tensors call(BindingPool& pool, const std::string& name, const Sizes& sizes, const Tensors& feeds, double* seconds) {
  const auto lease = pool.borrow(sizes);
  for (const auto& [key, tensor] : feeds) {
    const HostTensor* input = lease->input(key);
    if (input == nullptr || input->dtype != tensor.dtype || input->shape != tensor.shape ||
        input->bytes != tensor.data.size()) {
      throw BackendError("the " + name + " takes " + key + " of " +
                         bundle::shape_text(input == nullptr ? Shape{} : input->shape) + ", " +
                         bundle::shape_text(tensor.shape) + " came; export the bundle again");
    }
    std::memcpy(input->data, tensor.data.data(), tensor.data.size());
  }
  const auto started = std::chrono::steady_clock::now();
  lease->run();
  if (seconds != nullptr) {
    *seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  }
  Tensors made;
  for (const bundle::TensorSpec& spec : pool.runner().component().outputs) {
    const HostTensor& output = *lease->output(spec.name);
    check_output(output, "the " + name + "'s " + spec.name + " holds");
    const auto* data = static_cast<const std::byte*>(output.data);
    made[spec.name] = {output.dtype, output.shape, {data, data + output.bytes}};
  }
  return made;
}

Tensor zeros(DType dtype, Shape shape) {
  const auto bytes = static_cast<std::size_t>(bundle::elements(shape)) * bundle::dtype_size(dtype);
  return {dtype, std::move(shape), std::vector<std::byte>(bytes)};
}

}  // namespace dit_deploy::runtime
