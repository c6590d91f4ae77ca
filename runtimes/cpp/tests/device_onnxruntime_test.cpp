// ONNX Runtime with buffers on a device, which is memory of the host here.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "host_device.h"
#include "pipeline_stubs.h"
#include "runtime/backends.h"
#include "runtime/onnxruntime_device.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using namespace dit_deploy::runtime;

namespace {

const Sizes kSizes{{"batch", 2}, {"patch_height", 2}, {"patch_width", 3}};

std::filesystem::path denoiser() {
  return std::filesystem::path(DIT_DEPLOY_TEST_DATA) / "golden" / "device" / "denoiser.onnx";
}

// Spoils the download whose number is `bad`, as a graph does that computes something else.
class SpoilingDevice final : public Device {
 public:
  std::string name() const override { return "host:0"; }
  std::shared_ptr<Buffer> allocate(std::size_t bytes) override { return std::make_shared<HostBuffer>(bytes); }
  void upload(Buffer& buffer, const void* data, std::size_t bytes) override {
    std::memcpy(buffer.address(), data, bytes);
  }
  void download(Buffer& buffer, void* out, std::size_t bytes) override {
    std::memcpy(out, buffer.address(), bytes);
    if (++downloads == bad) static_cast<float*>(out)[3] += 1.0f;
  }
  int downloads = 0, bad = 0;
};

std::unique_ptr<Runner> open(std::shared_ptr<Device> device, bool graphs, std::recursive_mutex* turns = nullptr,
                             std::function<void()> settle = nullptr) {
  SessionSettings settings;
  settings.threads = 1;
  settings.cuda_graphs = graphs;
  return open_onnxruntime_on({std::move(device), "Cpu", 0, std::move(settle), turns}, denoiser(), stub_denoiser(),
                             settings);
}

void fill(Binding& binding, float shift = 0) {
  auto* latents = static_cast<float*>(binding.input("latents")->data);
  for (std::size_t i = 0; i < binding.input("latents")->bytes / sizeof(float); ++i) {
    latents[i] = std::sin(static_cast<float>(i)) + shift;
  }
  static_cast<float*>(binding.input("timestep")->data)[0] = 500;
  static_cast<std::int64_t*>(binding.input("class_labels")->data)[0] = 7;
}

std::vector<float> outputs(Binding& binding) {
  std::vector<float> all;
  for (const char* name : {"prediction", "variance"}) {
    const HostTensor* tensor = binding.output(name);
    const auto* first = static_cast<const float*>(tensor->data);
    all.insert(all.end(), first, first + tensor->bytes / sizeof(float));
  }
  return all;
}

std::vector<float> expected(float shift = 0) {
  SessionSettings settings;
  settings.threads = 1;
  const auto runner = open_onnxruntime(denoiser(), stub_denoiser(), settings);
  const auto binding = runner->bind(kSizes);
  fill(*binding, shift);
  binding->run();
  return outputs(*binding);
}

std::string refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ONNX Runtime on a device: host arrays go up and come down") {
  for (const bool graphs : {false, true}) {
    std::recursive_mutex turns;
    int settled = 0;
    const auto device = std::make_shared<HostDevice>();
    const auto runner = open(device, graphs, &turns, [&] { ++settled; });
    CHECK(runner->device() == device.get());
    const auto binding = runner->bind(kSizes);
    CHECK(binding->input("prediction") == nullptr);
    CHECK(binding->output("latents") == nullptr);
    for (const float shift : {0.0f, 1.0f, 2.0f}) {
      fill(*binding, shift);
      binding->run();
      CHECK(outputs(*binding) == expected(shift));
    }
    CHECK(settled == (graphs ? 3 + 2 : 3));  // the first of them was compared with
    CHECK(runner->warnings().empty());
  }
}

TEST_CASE("ONNX Runtime on a device: each thread compares its graph") {
  const auto device = std::make_shared<SpoilingDevice>();
  const auto runner = open(device, true);
  const auto binding = runner->bind(kSizes);
  fill(*binding);
  binding->run();
  CHECK(device->downloads == 2 + 2 + 2);
  std::thread([&] { binding->run(); }).join();
  CHECK(device->downloads == 2 * 6);
  binding->run();
  CHECK(device->downloads == 2 * 6 + 2);
}

TEST_CASE("ONNX Runtime on a device: a bad graph is told and given up") {
  const auto device = std::make_shared<SpoilingDevice>();
  const auto runner = open(device, true);
  const auto binding = runner->bind(kSizes),
             other = runner->bind({{"batch", 1}, {"patch_height", 2}, {"patch_width", 3}});
  fill(*other);
  other->run();  // its graph is fine, and goes with the session
  device->bad = device->downloads + 3;
  fill(*binding);
  binding->run();
  CHECK(outputs(*binding) == expected());
  const auto warnings = runner->warnings();
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].find(
            "denoiser.onnx of device runs without a CUDA graph, somewhat slower: its first replay is not the "
            "ordinary run: prediction differs by ") == 0);
  const int before = device->downloads;
  binding->run();
  other->run();
  CHECK(device->downloads == before + 4);
  CHECK(outputs(*binding) == expected());
  CHECK(runner->warnings().size() == 1);
}

TEST_CASE("ONNX Runtime on a device: sizes beyond what a session holds run without a graph") {
  const auto device = std::make_shared<SpoilingDevice>();
  const auto runner = open(device, true);
  std::vector<std::unique_ptr<Binding>> bindings;
  for (std::int64_t batch = 1; batch <= 18; ++batch) {
    bindings.push_back(runner->bind({{"batch", batch}, {"patch_height", 1}, {"patch_width", 1}}));
    const int before = device->downloads;
    bindings.back()->run();
    CHECK(device->downloads - before == (batch <= 16 ? 6 : 2));
  }
  CHECK(runner->warnings().empty());
}

TEST_CASE("ONNX Runtime on a device: buffers are exchanged, and those that are too small refused") {
  const auto device = std::make_shared<HostDevice>();
  const auto runner = open(device, true);
  const auto bound = runner->bind(kSizes);
  auto& binding = dynamic_cast<DeviceBinding&>(*bound);
  fill(binding);
  binding.run();
  const std::vector<float> first = outputs(binding);
  const std::size_t bytes = binding.output("prediction")->bytes;
  std::vector<std::shared_ptr<Buffer>> others;
  for (int i = 0; i < 12; ++i) others.push_back(device->allocate(bytes + 64));
  for (int i = 0; i < 30; ++i) {
    binding.attach("prediction", others[static_cast<std::size_t>(i) % others.size()]);
    binding.launch();
    std::vector<float> found(bytes / sizeof(float));
    device->download(*others[static_cast<std::size_t>(i) % others.size()], found.data(), bytes);
    CHECK(std::equal(found.begin(), found.end(), first.begin()));
  }
  CHECK(refused([&] { binding.attach("prediction", device->allocate(bytes - 1)); }) ==
        ": prediction needs 768 bytes, the buffer for it has 767; latents and what is computed from them are float32: "
        "export "
        "the bundle again");
  CHECK(refused([&] { binding.attach("nothing", others[0]); }).find("has no tensor nothing; ") != std::string::npos);
  binding.launch();  // still with the buffer before
}

TEST_CASE("ONNX Runtime on CUDA: what is missing is said") {
  SessionSettings settings;
  settings.providers = {kCudaProvider, kCpuProvider};
  settings.provider_options = {{"device_id", "first"}};
  CHECK(refused([&] { open_onnxruntime_cuda(denoiser(), stub_denoiser(), settings); }) ==
        "provider option device_id: first came, expected the number of a GPU, 0 or more");
}
