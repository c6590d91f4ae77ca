// Which TensorRT this library was built with, and runners of it; runtimes/tensorrt.py.
#include "dit_deploy/errors.hpp"
#include "runtime/backends.h"
#include "runtime/tensorrt_library.h"
#include "runtime/tensorrt_runner.h"

namespace dit_deploy::runtime {
namespace {

// nullptr where this library was built without it.
std::unique_ptr<TensorRTLibrary> load(const std::string& flavour) {
#ifdef DIT_DEPLOY_WITH_TENSORRT
  if (flavour == "tensorrt") return load_tensorrt();
#endif
#ifdef DIT_DEPLOY_WITH_TENSORRT_RTX
  if (flavour == "tensorrt-rtx") return load_tensorrt_rtx();
#endif
  static_cast<void>(flavour);
  return nullptr;
}

}  // namespace

std::string tensorrt_title(const std::string& flavour) {
  return flavour == "tensorrt-rtx" ? "TensorRT-RTX" : "TensorRT";
}

std::unique_ptr<Runner> open_tensorrt(const std::filesystem::path& path, Component component,
                                      const std::string& flavour, std::vector<bundle::Profile> profiles,
                                      const std::filesystem::path& weights, const std::filesystem::path& cache,
                                      bool cuda_graphs) {
  auto library = load(flavour);
  if (!library) {
    const std::string root = flavour == "tensorrt-rtx" ? "TENSORRT_RTX_ROOT" : "TENSORRT_ROOT";
    throw BackendError("this build of dit_deploy has no " + tensorrt_title(flavour) + " in it: configure it with -D" +
                       root +
                       "=… (an unpacked archive of it), or run the bundle with an "
                       "engine of ONNX Runtime");
  }
  return open_tensorrt_on(std::move(library), CudaDevice::open(),
                          {path, std::move(component), flavour, std::move(profiles), weights, cache, cuda_graphs});
}

std::string tensorrt_version(const std::string& flavour) {
  try {
    const auto library = load(flavour);
    return library ? library->version() : "";
  } catch (const BackendError&) {  // it is not on this machine
    return "";
  }
}

}  // namespace dit_deploy::runtime
