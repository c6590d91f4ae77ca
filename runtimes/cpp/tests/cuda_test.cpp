// Memory, the stream and CUDA graphs on a fake driver; cuda_gpu_test.cpp has a real one.
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "cuda_fake.h"
#include "dit_deploy/errors.hpp"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using runtime::CudaDevice;

namespace {

std::string refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const BackendError& error) {
    return error.what();
  }
  return "";
}

using Numbers = std::array<float, 4>;

Numbers read(CudaDevice& device, runtime::Buffer& buffer) {
  Numbers found;
  device.download(buffer, found.data(), sizeof found);
  return found;
}

}  // namespace

TEST_CASE("cuda: a device and its memory") {
  FakeCuda fake;
  FakeCuda::current = {&fake};  // the application's own context
  {
    const auto device = fake.device();
    CHECK(device->name() == "cuda:0");
    CHECK(device->gpu() == "Fake RTX 4090");
    CHECK(device->compute_capability() == "8.9");
    const auto buffer = device->allocate(sizeof(Numbers));
    CHECK(buffer->bytes() == sizeof(Numbers));
    CHECK(read(*device, *buffer) == Numbers{});
    const Numbers given{1, 2, 3, 4};
    device->upload(*buffer, given.data(), sizeof given);
    CHECK(read(*device, *buffer) == given);
    CHECK(device->allocate(0)->bytes() == 0);
    CHECK(fake.held.size() == 1);
    Numbers more;
    CHECK(refused([&] { device->download(*device->allocate(3), more.data(), sizeof more); }) ==
          "a copy from cuda:0 is larger than the buffer");
    CHECK(refused([&] { device->upload(*device->allocate(3), more.data(), sizeof more); }) ==
          "a copy to cuda:0 is larger than the buffer");
  }
  CHECK(fake.held.empty());
  CHECK(fake.streams == 0);
  CHECK(fake.contexts == 0);
  CHECK(FakeCuda::current == std::vector<void*>{&fake});
  FakeCuda::current.clear();
}

TEST_CASE("cuda: memory outlives whoever held the device") {
  FakeCuda fake;
  auto device = fake.device();
  auto buffer = device->allocate(8);
  device.reset();
  CHECK(fake.contexts == 1);
  buffer.reset();
  CHECK(fake.contexts == 0);
}

TEST_CASE("cuda: what is wrong is said") {
  FakeCuda fake;
  CHECK(refused([] { CudaDevice::create(FakeCuda::driver(), 3); }) ==
        "CUDA device 3 was asked for, this machine has 1");
  CHECK(refused([] { CudaDevice::create(FakeCuda::driver(), -1); }) ==
        "CUDA device -1 was asked for, this machine has 1");
  const auto device = fake.device();
  fake.memory = 60'000;
  const auto some = device->allocate(10'000);
  CHECK(refused([&] { device->allocate(3'000'000'000); }) ==
        "Fake RTX 4090 has no 3.0 GB left: draw fewer or smaller pictures at once, or close what else uses the GPU "
        "(`nvidia-smi` lists it)");
}

TEST_CASE("cuda: a capture computes nothing, and its graph all of it") {
  FakeCuda fake;
  {
    const auto device = fake.device();
    const auto buffer = device->allocate(sizeof(Numbers));
    const Numbers given{1, 2, 3, 4};
    const auto graph = device->capture([&] { device->upload(*buffer, given.data(), sizeof given); });
    CHECK(read(*device, *buffer) == Numbers{});
    graph->launch();
    CHECK(read(*device, *buffer) == given);
    CHECK(fake.launches == 1);
    CHECK(fake.graphs.size() == 1);
  }
  CHECK(fake.graphs.empty());
}

TEST_CASE("cuda: a capture that fails leaves the stream as it was") {
  FakeCuda fake;
  const auto device = fake.device();
  CHECK(refused([&] { device->capture([] { throw BackendError("no"); }); }) == "no");
  CHECK_FALSE(fake.recording);
  fake.capture_fails = true;
  CHECK(refused([&] { device->capture([] {}); }) == "CUDA: cuStreamEndCapture failed: a fake error (900)");
  CHECK(refused([&] { device->capture([] { throw BackendError("no"); }); }) == "no");
  fake.capture_fails = false;
  CHECK(refused([&] { device->capture([&] { device->synchronize(); }); }) ==
        "CUDA: cuStreamSynchronize failed: a fake error (900)");
  CHECK_FALSE(fake.recording);
  CHECK(fake.graphs.empty());
}

TEST_CASE("cuda: another thread's work does not fall into a capture") {
  FakeCuda fake;
  const auto device = fake.device();
  const auto buffer = device->allocate(sizeof(Numbers));
  const Numbers given{1, 2, 3, 4};
  std::thread other;
  const auto graph = device->capture([&] {
    other = std::thread([&] {
      device->upload(*buffer, given.data(), sizeof given);
      device->synchronize();
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  });
  other.join();
  CHECK(fake.graphs.begin()->second.empty());
  CHECK(read(*device, *buffer) == given);
}
