#include "bundle/shapes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// "batch", "2·patch_height" or "4·latent_frames-3", with `times` for the point
std::string axis_text(const Axis& axis, const char* times = "·") {
  std::string text = axis.multiple == 1 ? axis.name : std::to_string(axis.multiple) + times + axis.name;
  if (axis.offset != 0) text += (axis.offset > 0 ? "+" : "") + std::to_string(axis.offset);
  return text;
}

std::string axis_text(const AxisSpec& spec) {
  const auto* size = std::get_if<std::int64_t>(&spec);
  return size != nullptr ? std::to_string(*size) : axis_text(std::get<Axis>(spec));
}

// What `number` is more than a multiple of `of`, 0 … of - 1.
std::int64_t modulo(std::int64_t number, std::int64_t of) {
  const std::int64_t rest = number % of;
  return rest < 0 ? rest + of : rest;
}

// The free size of an axis that is `size` long. `came` begins the message.
std::int64_t free_size(const Axis& axis, std::int64_t size, const std::string& came) {
  if (const auto free = axis.free(size)) return *free;
  const std::string text = " (" + axis_text(axis, " × ") + ")", expected = came + ", expected ";
  const std::int64_t more = modulo(axis.offset, axis.multiple);
  if (modulo(size, axis.multiple) != more)
    throw InputError(expected + (axis.offset == 0 ? "" : std::to_string(more) + " more than ") + "a multiple of " +
                     std::to_string(axis.multiple) + text);
  const std::string low = std::to_string(axis.size(axis.minimum));
  throw InputError(expected +
                   (axis.maximum ? low + " … " + std::to_string(axis.size(*axis.maximum)) : "at least " + low) + text);
}

float from_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float value = 0;
  if (exponent == 31) {
    value = fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else {
    value = std::ldexp(static_cast<float>(exponent == 0 ? fraction : fraction + 1024), std::max(exponent, 1) - 25);
  }
  return (bits & 0x8000U) != 0 ? -value : value;
}

float from_bfloat(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// The smallest and the largest element, and where they are.
struct Ends {
  double low = 0, high = 0;
  std::size_t low_at = 0, high_at = 0;
  bool finite = true;
};

template <typename Element>
Element element(const Tensor& tensor, std::size_t index) {
  Element value;
  std::memcpy(&value, tensor.data.data() + index * sizeof value, sizeof value);
  return value;
}

template <typename Element, typename Convert>
Ends ends(const Tensor& tensor, Convert convert) {
  const std::size_t count = tensor.data.size() / sizeof(Element);
  Ends found;
  for (std::size_t index = 0; index < count; ++index) {
    const double value = convert(element<Element>(tensor, index));
    found.finite = found.finite && std::isfinite(value);
    if (index == 0 || value < found.low) {
      found.low = value;
      found.low_at = index;
    }
    if (index == 0 || value > found.high) {
      found.high = value;
      found.high_at = index;
    }
  }
  return found;
}

Ends ends(const Tensor& tensor) {
  const auto same = [](auto value) { return static_cast<double>(value); };
  switch (tensor.dtype) {
    case DType::float16:
      return ends<std::uint16_t>(tensor, [](std::uint16_t bits) { return static_cast<double>(from_half(bits)); });
    case DType::bfloat16:
      return ends<std::uint16_t>(tensor, [](std::uint16_t bits) { return static_cast<double>(from_bfloat(bits)); });
    case DType::int64:
      return ends<std::int64_t>(tensor, same);
    case DType::int32:
      return ends<std::int32_t>(tensor, same);
    case DType::float32:
    case DType::boolean:
      break;
  }
  return ends<float>(tensor, same);
}

}  // namespace

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::int64:
      return "int64";
    case DType::int32:
      return "int32";
    case DType::boolean:
      return "bool";
    case DType::float32:
      break;
  }
  return "float32";
}

std::size_t dtype_size(DType dtype) {
  if (dtype == DType::int64) return 8;
  if (dtype == DType::boolean) return 1;
  return dtype == DType::float16 || dtype == DType::bfloat16 ? 2 : 4;
}

std::string shape_text(const TensorSpec& spec) {
  std::vector<std::string> parts;
  for (const AxisSpec& axis : spec.axes) parts.push_back(axis_text(axis));
  return "[" + join(parts) + "]";
}

std::string range_text(const TensorSpec& spec) {
  if (!spec.minimum && !spec.maximum) return "";
  const std::string low = spec.minimum ? number_text(*spec.minimum, 15) : "−∞";
  return low + " … " + (spec.maximum ? number_text(*spec.maximum, 15) : "∞");
}

std::string shape_text(const Shape& shape) {
  std::vector<std::string> parts;
  for (const std::int64_t size : shape) parts.push_back(std::to_string(size));
  return "(" + join(parts) + (parts.size() == 1 ? ",)" : ")");
}

Shape shape_of(const TensorSpec& spec, const Sizes& sizes) {
  Shape shape;
  for (std::size_t index = 0; index < spec.axes.size(); ++index) {
    if (const auto* fixed = std::get_if<std::int64_t>(&spec.axes[index])) {
      shape.push_back(*fixed);
      continue;
    }
    const Axis& axis = std::get<Axis>(spec.axes[index]);
    const std::string at = spec.name + ": axis " + std::to_string(index);
    const auto found = sizes.find(axis.name);
    if (found == sizes.end()) {
      std::vector<std::string> given;
      for (const auto& [name, value] : sizes) given.push_back("'" + name + "'");
      throw InputError(at + " needs the size " + axis.name + "; given are [" + join(given) + "]");
    }
    const std::int64_t size = axis.size(found->second), most = kLargest / axis.multiple;
    if (found->second > most || found->second < -most || size == kLargest)
      throw InputError(at + " would be " + std::to_string(axis.multiple) + " × " + std::to_string(found->second) +
                       ", more than any tensor holds");
    free_size(axis, size, at + " would be " + std::to_string(size));
    shape.push_back(size);
  }
  return shape;
}

void bind_axes(const TensorSpec& spec, DType dtype, const Shape& shape, Sizes& sizes,
               std::map<std::string, std::string>& owner) {
  if (dtype != spec.dtype)
    throw InputError(spec.name + ": dtype is " + dtype_name(dtype) + ", expected " + dtype_name(spec.dtype));
  if (shape.size() != spec.axes.size()) {
    std::vector<std::string> parts;
    for (const std::int64_t size : shape) parts.push_back(std::to_string(size));
    throw InputError(spec.name + ": shape is [" + join(parts) + "] with " + std::to_string(shape.size()) +
                     " axes, expected " + std::to_string(spec.axes.size()) + ": " + shape_text(spec));
  }
  for (std::size_t index = 0; index < shape.size(); ++index) {
    const std::int64_t size = shape[index];
    const std::string came = spec.name + ": axis " + std::to_string(index) + " is " + std::to_string(size);
    if (const auto* fixed = std::get_if<std::int64_t>(&spec.axes[index])) {
      if (size != *fixed) throw InputError(came + ", expected " + std::to_string(*fixed));
      continue;
    }
    const Axis& axis = std::get<Axis>(spec.axes[index]);
    const std::int64_t free = free_size(axis, size, came);
    const auto [held, is_new] = sizes.emplace(axis.name, free);
    if (held->second != free)
      throw InputError(came + ", so " + axis.name + " is " + std::to_string(free) + ", but " + owner[axis.name] +
                       " says " + axis.name + " is " + std::to_string(held->second));
    owner.emplace(axis.name, spec.name);
  }
}

void check_values(const TensorSpec& spec, const Tensor& tensor) {
  if (tensor.data.empty() || tensor.dtype == DType::boolean) return;
  const Ends found = ends(tensor);
  if (!found.finite) throw InputError(spec.name + ": holds NaN or infinite values, expected finite ones");
  const auto refuse = [&](double value, std::size_t at) {
    std::string text = number_text(value);
    if (tensor.dtype == DType::int64) text = std::to_string(element<std::int64_t>(tensor, at));
    if (tensor.dtype == DType::int32) text = std::to_string(element<std::int32_t>(tensor, at));
    throw InputError(spec.name + ": " + text + " is outside " + range_text(spec));
  };
  if (spec.minimum && found.low < *spec.minimum) refuse(found.low, found.low_at);
  if (spec.maximum && found.high > *spec.maximum) refuse(found.high, found.high_at);
}

std::int64_t elements(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || (size > 0 && count > kLargest / size))
      throw InputError("a tensor of shape " + shape_text(shape) + " is larger than any memory");
    count *= size;
  }
  return count;
}

}  // namespace dit_deploy::bundle
