// Eight threads share a pipeline: every picture is the one that the request gives alone. Each thread draws half of the requests,
// in an order of its own; more, as long as DIT_DEPLOY_THREADS_SECONDS says, which the engines share.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "dit_deploy/pipeline.hpp"
#include "golden_files.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;

namespace {

constexpr std::size_t kThreads = 8, kTurns = 6;

std::optional<double> seconds_to_run() {
  const char* text = std::getenv("DIT_DEPLOY_THREADS_SECONDS");
  return text == nullptr ? std::nullopt : std::optional<double>(std::strtod(text, nullptr));
}

Picture gradient(std::int64_t height, std::int64_t width) {
  Picture picture{height, width, 3, {}};
  for (std::int64_t i = 0; i < height * width * 3; ++i)
    picture.pixels.push_back(static_cast<std::uint8_t>(i * 7 % 251));
  return picture;
}

// Sizes, batches, schedulers, guidance and pictures, mixed: bindings of several sizes are borrowed at once.
std::vector<Request> mixed_requests() {
  std::vector<Request> requests;
  const char* schedulers[] = {"", "dpmsolver++", "unipc", "euler-ancestral", "heun", "ddpm"};
  for (std::size_t i = 0; i < 12; ++i) {
    Request request;
    for (std::size_t label = 0; label <= i % 3; ++label)
      request.class_labels.push_back(static_cast<std::int64_t>(i + label) % 10);
    request.num_inference_steps = 2 + static_cast<std::int64_t>(i % 3);
    request.scheduler = schedulers[i % 6];
    request.seed = {i};
    request.height = 32 + 16 * static_cast<std::int64_t>(i % 2);
    request.width = 32 + 8 * static_cast<std::int64_t>(i % 4);
    request.guidance_batched = i % 4 != 1;
    if (i % 5 == 0) request.guidance_scale = 1.0;
    if (i % 3 == 2) {
      request.image = {gradient(40, 30)};
      request.strength = 1.0;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Drawn {
  std::vector<float> latents;
  std::vector<std::vector<std::uint8_t>> pictures;
  bool operator==(const Drawn& other) const { return latents == other.latents && pictures == other.pictures; }
};

Drawn draw(const Pipeline& pipeline, const Request& request) {
  Result result = pipeline.generate(request);
  Drawn drawn{std::move(result.latents.values), {}};
  for (Picture& picture : result.images) drawn.pictures.push_back(std::move(picture.pixels));
  return drawn;
}

}  // namespace

TEST_CASE("threads: mixed requests on one pipeline give the pictures that they give alone") {
  const auto folder = golden_folder();
  if (!folder) return;
  const std::vector<Request> requests = mixed_requests();
  const std::vector<std::string> engines{"onnx", "int8", "int8-onnxruntime"};
  for (const std::string& engine : engines) {
    CAPTURE(engine);
    Options options;
    options.engine = engine;
    options.threads = 1;
    // One draws alone, the other is new: its VAE is loaded by whichever thread comes first.
    std::vector<Drawn> expected;
    {
      const Pipeline alone = Pipeline::open(*folder / "bundles" / "fashion", options);
      for (const Request& request : requests) expected.push_back(draw(alone, request));
    }
    const Pipeline shared = Pipeline::open(*folder / "bundles" / "fashion", options);
    const auto seconds = seconds_to_run();
    const auto end = std::chrono::steady_clock::now() +
                     std::chrono::duration<double>(seconds.value_or(0) / static_cast<double>(engines.size()));
    std::atomic<std::size_t> pictures{0}, wrong{0}, refused{0}, failed{0};
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937 generator(static_cast<std::uint32_t>(thread));
        std::vector<std::size_t> order(requests.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::shuffle(order.begin(), order.end(), generator);
        for (std::size_t turn = 0; turn < kTurns || (seconds && std::chrono::steady_clock::now() < end); ++turn) {
          const std::size_t which = order[turn % order.size()];
          try {
            if (!(draw(shared, requests[which]) == expected[which])) ++wrong;
            ++pictures;
            Request bad = requests[which];  // errors on the way out must leave nothing behind
            if (which % 2 == 0) {
              bad.class_labels = {99};
            } else {
              bad.callback = [](const Step&) { return false; };
            }
            shared.generate(bad);
          } catch (const InputError&) {
            ++refused;
          } catch (const Cancelled&) {
            ++refused;
          } catch (const std::exception&) {
            ++failed;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(failed == 0);
    CHECK(refused == pictures);
    CHECK(pictures >= kThreads * kTurns);
    MESSAGE(engine, ": ", pictures.load(), " runs in ", kThreads, " threads, ", wrong.load(), " unlike those alone");
  }
}
