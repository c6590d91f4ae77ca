// A plugin execution provider for ONNX Runtime that takes no node: what registers it and gives it options is under test.
// It finds every CPU, and its option "fail" fails the session with that text.
#include <onnxruntime_cxx_api.h>

#include <string>

namespace {

constexpr char kName[] = "DitDeployTestExecutionProvider";
constexpr char kVendor[] = "dit-deploy's tests";
constexpr char kVersion[] = "0.1.0";

const OrtApi* api() { return OrtGetApiBase()->GetApi(ORT_API_VERSION); }

struct Provider : OrtEp {
  Provider() : OrtEp{} {
    ort_version_supported = ORT_API_VERSION;
    GetName = [](const OrtEp*) noexcept { return kName; };
    GetCapability = [](OrtEp*, const OrtGraph*, OrtEpGraphSupportInfo*) noexcept -> OrtStatus* { return nullptr; };
    Compile = [](OrtEp*, const OrtGraph**, const OrtNode**, std::size_t, OrtNodeComputeInfo**, OrtNode**) noexcept {
      return api()->CreateStatus(ORT_NOT_IMPLEMENTED, "nothing to compile");
    };
    ReleaseNodeComputeInfos = [](OrtEp*, OrtNodeComputeInfo**, std::size_t) noexcept {};
  }
};

OrtStatus* find_cpus(OrtEpFactory* factory, const OrtHardwareDevice* const* devices, std::size_t count,
                     OrtEpDevice** found, std::size_t most, std::size_t* found_count) noexcept {
  *found_count = 0;
  for (std::size_t i = 0; i < count && *found_count < most; ++i) {
    if (api()->HardwareDevice_Type(devices[i]) != OrtHardwareDeviceType_CPU) continue;
    OrtStatus* status = api()->GetEpApi()->CreateEpDevice(factory, devices[i], nullptr, nullptr, &found[*found_count]);
    if (status != nullptr) return status;
    ++*found_count;
  }
  return nullptr;
}

OrtStatus* create(OrtEpFactory*, const OrtHardwareDevice* const*, const OrtKeyValuePairs* const*, std::size_t,
                  const OrtSessionOptions* options, const OrtLogger*, OrtEp** provider) noexcept {
  char text[100] = "";
  std::size_t size = sizeof(text);
  int given = 0;
  const char* key = "ep.ditdeploytestexecutionprovider.fail";
  if (OrtStatus* status = api()->HasSessionConfigEntry(options, key, &given)) return status;
  if (given != 0) {
    if (OrtStatus* status = api()->GetSessionConfigEntry(options, key, text, &size)) return status;
    return api()->CreateStatus(ORT_FAIL, text);
  }
  *provider = new Provider;
  return nullptr;
}

struct Factory : OrtEpFactory {
  Factory() : OrtEpFactory{} {
    ort_version_supported = ORT_API_VERSION;
    GetName = [](const OrtEpFactory*) noexcept { return kName; };
    GetVendor = [](const OrtEpFactory*) noexcept { return kVendor; };
    GetVersion = [](const OrtEpFactory*) noexcept { return kVersion; };
    GetVendorId = [](const OrtEpFactory*) noexcept -> std::uint32_t { return 0; };
    GetSupportedDevices = find_cpus;
    CreateEp = create;
    ReleaseEp = [](OrtEpFactory*, OrtEp* provider) noexcept { delete static_cast<Provider*>(provider); };
    CreateAllocator = [](OrtEpFactory*, const OrtMemoryInfo*, const OrtKeyValuePairs*,
                         OrtAllocator** allocator) noexcept -> OrtStatus* {
      *allocator = nullptr;
      return nullptr;
    };
    ReleaseAllocator = [](OrtEpFactory*, OrtAllocator*) noexcept {};
    CreateDataTransfer = [](OrtEpFactory*, OrtDataTransferImpl** transfer) noexcept -> OrtStatus* {
      *transfer = nullptr;
      return nullptr;
    };
    IsStreamAware = [](const OrtEpFactory*) noexcept { return false; };
  }
};

}  // namespace

#define PLUGIN_API extern "C" __attribute__((visibility("default")))

PLUGIN_API OrtStatus* CreateEpFactories(const char*, const OrtApiBase*, const OrtLogger*, OrtEpFactory** factories,
                                        std::size_t, std::size_t* count) {
  factories[0] = new Factory;
  *count = 1;
  return nullptr;
}

PLUGIN_API OrtStatus* ReleaseEpFactory(OrtEpFactory* factory) {
  delete static_cast<Factory*>(factory);
  return nullptr;
}
