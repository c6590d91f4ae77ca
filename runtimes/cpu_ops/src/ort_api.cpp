#include "ort_api.h"

namespace dit {

std::int64_t Tensor::size() const {
  std::int64_t count = 1;
  for (std::int64_t extent : shape) count *= extent;
  return count;
}

std::string Tensor::text() const {
  std::string result = type == kFloat      ? "float["
                       : type == kUint8    ? "uint8["
                       : type == kInt8     ? "int8["
                       : type == kBfloat16 ? "bfloat16["
                                           : "?[";
  for (std::size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

void Api::check(void* status) const {
  if (status == nullptr) return;
  std::string message = call<const char*, const void*>(kGetErrorMessage, status);
  call<void, void*>(kReleaseStatus, status);
  throw Failure(message);
}

void* Api::status(const std::string& message) const {
  return call<void*, int, const char*>(kCreateStatus, kInvalidArgument, message.c_str());
}

float Api::attribute(const void* info, const char* name, float otherwise) const {
  float value = otherwise;
  void* status = call<void*, const void*, const char*, float*>(kKernelInfoGetAttributeFloat, info, name, &value);
  if (status == nullptr) return value;
  call<void, void*>(kReleaseStatus, status);  // it is left out
  return otherwise;
}

std::int64_t Api::attribute(const void* info, const char* name, std::int64_t otherwise) const {
  std::int64_t value = otherwise;
  void* status = call<void*, const void*, const char*, std::int64_t*>(kKernelInfoGetAttributeInt64, info, name, &value);
  if (status == nullptr) return value;
  call<void, void*>(kReleaseStatus, status);
  return otherwise;
}

Tensor Api::tensor(const void* value) const {
  Tensor result;
  if (value == nullptr) return result;
  void* info = nullptr;
  check(call<void*, const void*, void**>(kGetTensorTypeAndShape, value, &info));
  struct Release {
    const Api& api;
    void* info;
    ~Release() { api.call<void, void*>(kReleaseTensorTypeAndShapeInfo, info); }
  } release{*this, info};
  int type = 0;
  std::size_t rank = 0;
  check(call<void*, const void*, int*>(kGetTensorElementType, info, &type));
  check(call<void*, const void*, std::size_t*>(kGetDimensionsCount, info, &rank));
  result.type = static_cast<ElementType>(type);
  result.shape.resize(rank);
  check(call<void*, const void*, std::int64_t*, std::size_t>(kGetDimensions, info, result.shape.data(), rank));
  check(call<void*, const void*, void**>(kGetTensorMutableData, value, &result.data));
  return result;
}

Tensor Api::constant(const void* info, std::size_t index) const {
  int constant = 0;
  const void* value = nullptr;
  check(call<void*, const void*, std::size_t, int*, const void**>(kKernelInfoGetConstantInput, info, index, &constant,
                                                                  &value));
  if (!constant || value == nullptr) throw Failure("input " + std::to_string(index) + " must be an initializer");
  return tensor(value);
}

Tensor Api::input(void* context, std::size_t index) const {
  const void* value = nullptr;
  check(call<void*, const void*, std::size_t, const void**>(kKernelContextGetInput, context, index, &value));
  return tensor(value);
}

void* Api::output(void* context, std::size_t index, const std::vector<std::int64_t>& shape) const {
  void* value = nullptr;
  check(call<void*, void*, std::size_t, const std::int64_t*, std::size_t, void**>(
      kKernelContextGetOutput, context, index, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(call<void*, const void*, void**>(kGetTensorMutableData, value, &data));
  return data;
}

}  // namespace dit
