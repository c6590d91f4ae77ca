#include "runtime/replay.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "bundle/shapes.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// The same kernels on the same values: only sums whose order is not fixed may differ.
constexpr double kTolerance = 1e-3;

using Bytes = std::vector<std::byte>;

template <typename T>
T element(const std::byte* data, std::size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

double from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 0x1F) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25));
}

double from_bfloat16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return static_cast<double>(value);
}

double number(const ReplayOutput& output, const Bytes& data, std::size_t index) {
  switch (output.dtype) {
    case DType::float32:
      return static_cast<double>(element<float>(data.data(), index));
    case DType::float16:
      return from_half(element<std::uint16_t>(data.data(), index));
    case DType::bfloat16:
      return from_bfloat16(element<std::uint16_t>(data.data(), index));
    case DType::int64:
      return static_cast<double>(element<std::int64_t>(data.data(), index));
    case DType::int32:
      return element<std::int32_t>(data.data(), index);
    case DType::boolean:
      return element<std::uint8_t>(data.data(), index);
  }
  return 0;
}

Bytes read(Device& device, const ReplayOutput& output) {
  Bytes data(output.bytes);
  device.download(*output.buffer, data.data(), data.size());
  return data;
}

// "1.2e-05": to two figures, whatever the locale.
std::string short_number(double value) {
  if (value == 0 || !std::isfinite(value)) return number_text(value);
  const double scale = std::pow(10.0, 1.0 - std::floor(std::log10(std::abs(value))));
  return number_text(std::isfinite(scale) && scale > 0 ? std::round(value * scale) / scale : value);
}

std::string disagreement(const ReplayOutput& output, const Bytes& expected, const Bytes& found) {
  const std::size_t count = output.bytes / bundle::dtype_size(output.dtype);
  double largest = 0, difference = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double one = number(output, expected, i), other = number(output, found, i);
    if (std::isfinite(one) != std::isfinite(other)) return output.name + " is not finite in other places";
    if (!std::isfinite(one)) continue;
    largest = std::max(largest, std::abs(one));
    difference = std::max(difference, std::abs(one - other));
  }
  if (difference <= kTolerance * largest) return "";
  return output.name + " differs by " + short_number(difference) + ", its largest value is " + short_number(largest);
}

}  // namespace

std::string replay_differs(Device& device, const std::vector<ReplayOutput>& outputs, const std::function<void()>& eager,
                           const std::function<void()>& capture, const std::function<void()>& replay) {
  eager();
  std::vector<Bytes> expected;
  for (const ReplayOutput& output : outputs) expected.push_back(read(device, output));
  capture();
  for (const ReplayOutput& output : outputs) {
    // Bits of all ones are NaN in each floating-point type; -1 as an integer.
    const Bytes spoiled(output.bytes, output.dtype == DType::boolean ? std::byte{0} : std::byte{0xFF});
    device.upload(*output.buffer, spoiled.data(), spoiled.size());
  }
  replay();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const std::string differs = disagreement(outputs[i], expected[i], read(device, outputs[i]));
    if (!differs.empty()) return differs;
  }
  return "";
}

void Warnings::eager(const std::string& what, const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  lines_.push_back(what + " runs without a CUDA graph, somewhat slower: " + reason);
}

std::vector<std::string> Warnings::list() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return lines_;
}

}  // namespace dit_deploy::runtime
