#include "runtime/machine.h"

#include <tuple>

#include "runtime/backends.h"
#include "runtime/cpu_ops.h"
#include "runtime/dynamic_library.h"
#include "runtime/providers.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dit_deploy::runtime {
namespace {

// Of CUdevice_attribute and CUresult in cuda.h.
constexpr int kMajor = 75, kMinor = 76, kNoDevice = 100;

using Found = std::pair<std::vector<std::string>, std::string>;

}  // namespace

Found gpu_compute_capabilities() {
#ifdef _WIN32
  const DynamicLibrary driver("nvcuda.dll");
#else
  const DynamicLibrary driver("libcuda.so.1");
#endif
  if (!driver) return {{}, "no NVIDIA driver is installed"};
  const auto init = driver.function<int (*)(unsigned)>("cuInit");
  const auto get_count = driver.function<int (*)(int*)>("cuDeviceGetCount");
  const auto get_device = driver.function<int (*)(int*, int)>("cuDeviceGet");
  const auto get_attribute = driver.function<int (*)(int*, int, int)>("cuDeviceGetAttribute");
  if (init == nullptr || get_count == nullptr || get_device == nullptr || get_attribute == nullptr) {
    return {{}, "its libcuda is no NVIDIA driver"};
  }
  int count = 0;
  int status = init(0);
  if (status == 0) status = get_count(&count);
  if (status != 0 && status != kNoDevice) {
    return {{}, "the NVIDIA driver does not start: CUDA error " + std::to_string(status)};
  }
  Found found;
  for (int index = 0; index < count; ++index) {
    int device = 0, major = 0, minor = 0;
    if (get_device(&device, index) != 0 || get_attribute(&major, kMajor, device) != 0 ||
        get_attribute(&minor, kMinor, device) != 0) {
      return {{}, "the NVIDIA driver does not tell about GPU " + std::to_string(index)};
    }
    found.first.push_back(std::to_string(major) + "." + std::to_string(minor));
  }
  if (found.first.empty()) found.second = "the NVIDIA driver finds no GPU";
  return found;
}

bool cpu_has_vnni() {
#if defined(__x86_64__)
  // Both encodings: with the vectors of AVX-512, and with those of AVX2.
  if (__builtin_cpu_supports("avx512vnni")) return true;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kAvxVnni = 1U << 4;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
         (eax & kAvxVnni) != 0;
#else
  return false;
#endif
}

Machine this_machine(bool gpus, const std::map<std::string, std::string>& provider_libraries) {
  Machine machine;
  if (gpus) std::tie(machine.compute_capabilities, machine.gpu_note) = gpu_compute_capabilities();
  machine.versions["onnxruntime"] = onnxruntime_version();
  for (const char* flavour : {"tensorrt", "tensorrt-rtx"}) {
    if (std::string version = tensorrt_version(flavour); !version.empty())
      machine.versions[flavour] = std::move(version);
  }
  machine.providers = available_providers(provider_libraries);
  machine.cpu_ops_note = why_no_cpu_ops();
  return machine;
}

}  // namespace dit_deploy::runtime
