// A library that is opened at run time, so that this one starts without it: NVIDIA's driver, TensorRT.
#pragma once

#include <string>

namespace dit_deploy::runtime {

// Stays open for the rest of the process: drivers and TensorRT have threads of their own.
class DynamicLibrary {
 public:
  // `name` is looked for as the system looks for libraries. False where it is not found or does not load; `problem()`
  // says why.
  explicit DynamicLibrary(const std::string& name);

  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& problem() const { return problem_; }

  // nullptr where there is none of that name.
  template <typename Function>
  Function function(const char* name) const {
    return reinterpret_cast<Function>(address(name));
  }

 private:
  void* address(const char* name) const;

  void* handle_ = nullptr;
  std::string problem_;
};

}  // namespace dit_deploy::runtime
