// The machine's own driver and GPU.
#include <doctest/doctest.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dit_deploy/errors.hpp"
#include "runtime/cuda.h"
#include "skip.h"

using namespace dit_deploy;
using runtime::CudaDevice;

TEST_CASE("cuda on a GPU: memory, graphs and threads") {
  std::shared_ptr<CudaDevice> device;
  try {
    device = CudaDevice::open();
  } catch (const BackendError& error) {
    const std::string said = error.what();
    CHECK(said.find('\n') == std::string::npos);
    tests::skip(said + "; run it on a machine with an NVIDIA GPU");
    return;
  }
  CHECK(CudaDevice::open() == device);
  CHECK(device->name() == "cuda:0");
  CHECK_FALSE(device->gpu().empty());
  std::vector<float> given(3000), found(3000, 1.0f);
  for (std::size_t i = 0; i < given.size(); ++i) given[i] = static_cast<float>(i);
  const std::size_t bytes = given.size() * sizeof(float);
  const auto one = device->allocate(bytes), other = device->allocate(bytes);
  device->download(*one, found.data(), bytes);
  CHECK(found == std::vector<float>(3000, 0.0f));
  // Setting four bytes, as a graph: capturing computes nothing, launching does.
  const runtime::CudaDriver& driver = runtime::cuda_driver();
  const auto address = [](const runtime::Buffer& buffer) {
    return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(buffer.address()));
  };
  const auto graph = device->capture([&] { driver.cuMemsetD8Async(address(*one), 1, 4, device->stream()); });
  device->upload(*one, given.data(), bytes);
  device->download(*one, found.data(), bytes);
  CHECK(found == given);
  graph->launch();
  device->download(*one, found.data(), bytes);
  CHECK(found[0] != given[0]);
  found[0] = given[0];
  CHECK(found == given);
  std::vector<std::thread> threads;
  std::vector<int> right(4, 0);
  for (std::size_t t = 0; t < right.size(); ++t) {
    threads.emplace_back([&, t] {
      std::vector<float> own(given.size(), static_cast<float>(t)), back(given.size());
      for (int i = 0; i < 50; ++i) {
        const auto buffer = device->allocate(bytes);
        device->upload(*buffer, own.data(), bytes);
        device->download(*buffer, back.data(), bytes);
        right[t] += back == own;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(right == std::vector<int>(4, 50));
  CHECK_THROWS_AS(device->allocate(std::size_t{1} << 46), BackendError);
  // A capture that waits is refused, and the stream works on.
  CHECK_THROWS_AS(device->capture([&] { device->synchronize(); }), BackendError);
  device->download(*other, found.data(), bytes);
  CHECK(found == std::vector<float>(3000, 0.0f));
}
