// What the TensorRT runner asks of the library, full or RTX; runtimes/tensorrt_library.py.
//
// Both have classes of the same names and different layouts, so the code that includes their headers is compiled once for
// each (tensorrt/adapter.cpp), behind this. The library is opened when it is first needed: one program runs on machines
// with and without it. An object may be used by one thread at a time, contexts of an engine each by one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/runner.h"

namespace dit_deploy::runtime {

class TensorRTContext {
 public:
  virtual ~TensorRTContext() = default;
  virtual bool set_profile(int profile, void* stream) = 0;
  virtual bool set_input_shape(const std::string& name, const Shape& shape) = 0;
  // Activation memory for the shapes that were set, and where it is; not for a library that captures by itself.
  virtual std::size_t memory_size() = 0;
  virtual void set_memory(void* address, std::size_t bytes) = 0;
  // Names of inputs whose shapes are missing.
  virtual std::vector<std::string> unknown_shapes() = 0;
  virtual Shape shape(const std::string& name) const = 0;
  virtual bool set_address(const std::string& name, void* address) = 0;
  virtual bool enqueue(void* stream) = 0;
};

class TensorRTEngine {
 public:
  virtual ~TensorRTEngine() = default;
  virtual std::vector<std::string> tensors() const = 0;
  // Empty for a type that no bundle declares.
  virtual std::optional<DType> dtype(const std::string& tensor) const = 0;
  virtual bool on_device(const std::string& tensor) const = 0;
  virtual int profiles() const = 0;
  // The smallest and largest shape of an input.
  virtual std::pair<Shape, Shape> range(const std::string& tensor, int profile) const = 0;
  // Fills an engine whose weights were left out of it from the ONNX file that it was built from.
  virtual bool refit(const std::filesystem::path& graph) = 0;
  // nullptr where the library makes none. With `graphs` it captures CUDA graphs by itself, where it does that.
  virtual std::unique_ptr<TensorRTContext> context(bool graphs) = 0;
  // What a library that captures by itself has compiled on this GPU; a context takes from it and adds to it.
  virtual bool load_cache(const std::vector<std::byte>& data) = 0;
  virtual std::vector<std::byte> save_cache() = 0;
};

class TensorRTLibrary {
 public:
  virtual ~TensorRTLibrary() = default;
  // "1.7.1.116"
  virtual std::string version() const = 0;
  // RTX: it captures by itself, allocates by itself, and has a cache.
  virtual bool captures_itself() const = 0;
  // nullptr where the library does not take it; then `diagnosis` is the names of what it finds wrong, if it has any.
  virtual std::unique_ptr<TensorRTEngine> deserialize(const void* data, std::size_t size, std::string& diagnosis) = 0;
  // The errors that the library told its logger since the last call, on one line.
  virtual std::string said() = 0;
};

// The libraries that this one was built with (tensorrt/adapter.cpp). They throw BackendError where the library is not
// found or does not load.
std::unique_ptr<TensorRTLibrary> load_tensorrt();
std::unique_ptr<TensorRTLibrary> load_tensorrt_rtx();

}  // namespace dit_deploy::runtime
