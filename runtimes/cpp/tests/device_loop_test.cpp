// The loop on the device must equal the host's; the device is memory of the host.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "device_models.h"
#include "host_device.h"
#include "runtime/backends.h"
#include "runtime/host_steps.h"
#include "runtime/onnxruntime_device.h"
#include "runtime/steps.h"
#include "sampling/noise.h"
#include "sampling/schedulers.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using namespace dit_deploy::runtime;

namespace {

const Shape kShape{2, 4, 4, 12};
constexpr std::size_t kSize = 2 * 4 * 4 * 12;
const bundle::Sizes kGrid{{"patch_height", 2}, {"patch_width", 6}};

struct Case {
  const char* name;
  const char* config;
  bool learned = false;
  sampling::Guidance guidance{};
  double eta = 0;
};

sampling::Guidance guided(double scale, std::optional<std::int64_t> channels = {},
                          std::pair<double, double> interval = {0, 1}) {
  sampling::Guidance guidance;
  guidance.scale = scale;
  guidance.channels = channels;
  guidance.interval = interval;
  return guidance;
}

std::vector<Case> cases() {
  return {
      {"DDIM", R"({"_class_name": "DDIMScheduler"})", false, guided(4)},
      {"DDIM without guidance", R"({"_class_name": "DDIMScheduler"})"},
      {"DDIM, three channels guided", R"({"_class_name": "DDIMScheduler"})", false, guided(4, 3)},
      {"DDIM, guided in an interval", R"({"_class_name": "DDIMScheduler"})", false, guided(3, {}, {0.2, 0.8})},
      {"DDIM with eta", R"({"_class_name": "DDIMScheduler"})", false, guided(2), 0.7},
      {"DDPM", R"({"_class_name": "DDPMScheduler"})", false, guided(2)},
      {"learned variance",
       R"({"_class_name": "DDPMScheduler", "variance_type": "learned_range", "clip_sample": false})", true,
       guided(4, 3)},
      {"DPM-Solver++ 2M", R"({"_class_name": "DPMSolverMultistepScheduler"})", false, guided(4)},
      {"UniPC", R"({"_class_name": "UniPCMultistepScheduler"})", false, guided(4)},
      {"Euler ancestral", R"({"_class_name": "EulerAncestralDiscreteScheduler"})", false, guided(4)},
      {"Heun, guided late", R"({"_class_name": "HeunDiscreteScheduler"})", false, guided(4, {}, {0.5, 1.0})},
      {"LMS", R"({"_class_name": "LMSDiscreteScheduler"})", false, guided(4)},
      {"PNDM", R"({"_class_name": "PNDMScheduler"})", false, guided(4)},
  };
}

// A run with what it refers to.
struct Setup {
  explicit Setup(const Case& of) : manifest(device_manifest(of.learned)), guidance(of.guidance) {
    sampling::SolverRequest request;
    request.num_inference_steps = 6;
    request.eta = of.eta;
    table = sampling::solver_table(nlohmann::json::parse(of.config), request);
    conditions.push_back({"class_labels", Tensor::of({2}, std::vector<std::int64_t>{3, 7}),
                          Tensor::of({2}, std::vector<std::int64_t>{11, 11})});
    start.resize(kSize);
    sampling::Generator(1).draw(start.data(), kSize);
    for (float& value : start) value *= static_cast<float>(table.initial_noise_scale);
  }

  Run run() const { return {manifest, table, 1.0, conditions, guidance, kShape, kGrid}; }

  bundle::Manifest manifest;
  sampling::SolverTable table;
  sampling::Guidance guidance;
  std::vector<Condition> conditions;
  std::vector<float> start;
};

std::vector<float> draw(Steps& steps, const sampling::SolverTable& table) {
  sampling::Generator generator(2);
  std::vector<float> noise(kSize);
  for (std::size_t row = 0; row < table.rows.size(); ++row) {
    steps.predict(row);
    generator.draw(noise.data(), kSize);
    steps.advance(row, table.rows[row].uses_noise() ? noise.data() : nullptr);
    steps.check(table.rows[row].step);
  }
  return {steps.latents(), steps.latents() + kSize};
}

// The largest difference, as a part of the largest value.
double difference(const std::vector<float>& one, const std::vector<float>& other) {
  REQUIRE(one.size() == other.size());
  double largest = 0, apart = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(other[i])));
    apart = std::max(apart, std::abs(static_cast<double>(one[i]) - static_cast<double>(other[i])));
  }
  return apart / largest;
}

// Where predicted samples are clipped, what is subtracted is some hundreds, and the latents are 1.
double limit(const Case& of) { return std::string(of.name) == "DDPM" ? 1e-5 : 2e-6; }

struct Pools {
  Pools(std::unique_ptr<Runner> first, std::unique_ptr<Runner> second)
      : denoiser(std::move(first)), solver(std::move(second)) {}
  BindingPool denoiser, solver;
};

std::size_t nothing_counted = 0;

Pools stubs(const bundle::Manifest& manifest, const std::shared_ptr<Device>& device,
            std::size_t& runs = nothing_counted) {
  return {std::make_unique<StubDeviceRunner>(stub_denoiser(), device, runs),
          std::make_unique<StubDeviceRunner>(bundle::solver_component(manifest), device, runs)};
}

SessionSettings one_thread(bool graphs = false) {
  SessionSettings settings;
  settings.threads = 1;
  settings.cuda_graphs = graphs;
  return settings;
}

std::filesystem::path graph(const std::string& name) {
  return std::filesystem::path(DIT_DEPLOY_TEST_DATA) / "golden" / "device" / (name + ".onnx");
}

DeviceMemory host_memory(const std::shared_ptr<Device>& device) { return {device, "Cpu", 0, nullptr, nullptr}; }

Pools onnxruntime(const bundle::Manifest& manifest, const std::shared_ptr<Device>& device, bool graphs) {
  const char* solver = manifest.prediction.learned_range_variance ? "solver_learned" : "solver";
  return {open_onnxruntime_on(host_memory(device), graph("denoiser"), stub_denoiser(), one_thread(graphs)),
          open_onnxruntime_on(host_memory(device), graph(solver), bundle::solver_component(manifest), one_thread())};
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

TEST_CASE("device loop: the latents are the host's") {
  for (const Case& one : cases()) {
    CAPTURE(one.name);
    const Setup request(one);
    std::size_t runs = 0;
    Pools pools = stubs(request.manifest, std::make_shared<HostDevice>(), runs);
    REQUIRE(why_not_on_device(pools.denoiser, &pools.solver, request.run()) == "");
    const auto theirs =
        draw(*std::make_unique<HostSteps>(pools.denoiser, request.run(), request.start.data()), request.table);
    runs = 0;
    const auto steps = open_steps(pools.denoiser, &pools.solver, request.run(), request.start.data());
    const auto ours = draw(*steps, request.table);
    CHECK(difference(ours, theirs) <= limit(one));
    CHECK(runs == 2 * request.table.rows.size());  // denoiser and solver: the loop was the device's
    CHECK(steps->seconds() > 0);
  }
}

TEST_CASE("device loop: with the exporters' solver graph, by ONNX Runtime") {
  for (const Case& one : cases()) {
    for (const bool graphs : {false, true}) {
      CAPTURE(one.name);
      const Setup request(one);
      Pools pools = onnxruntime(request.manifest, std::make_shared<HostDevice>(), graphs);
      BindingPool host(open_onnxruntime(graph("denoiser"), stub_denoiser(), one_thread()));
      REQUIRE(why_not_on_device(pools.denoiser, &pools.solver, request.run()) == "");
      const auto theirs = draw(*open_steps(host, nullptr, request.run(), request.start.data()), request.table);
      for (int repeated = 0; repeated < 2; ++repeated) {
        const auto steps = open_device_steps(pools.denoiser, pools.solver, request.run(), request.start.data());
        CHECK(difference(draw(*steps, request.table), theirs) <= limit(one));
      }
      CHECK(pools.denoiser.runner().warnings().empty());
    }
  }
}

TEST_CASE("device loop: latents go up once and come down once") {
  const Setup request(cases()[0]);
  const auto device = std::make_shared<HostDevice>();
  Pools pools = stubs(request.manifest, device);
  const auto once = [&] {
    draw(*open_device_steps(pools.denoiser, pools.solver, request.run(), request.start.data()), request.table);
  };
  once();
  device->up = device->down = device->allocated = 0;
  once();
  const std::size_t latents = kSize * sizeof(float), rows = request.table.rows.size();
  CHECK(device->up <= latents * 3 + rows * 200 + 1000);  // the sample, its two copies
  CHECK(device->down <= latents * 2 + rows * sizeof(float));
  CHECK(device->allocated <= latents * 7 + 1000);  // what a run has of its own; bindings are reused
}

TEST_CASE("device loop: a value that is not finite stops the run where it was made") {
  Setup request(cases()[0]);
  request.start[5] = std::numeric_limits<float>::infinity();
  Pools pools = stubs(request.manifest, std::make_shared<HostDevice>());
  const auto steps = open_device_steps(pools.denoiser, pools.solver, request.run(), request.start.data());
  const std::string said = refused([&] { draw(*steps, request.table); });
  CHECK(said.find("the latents hold NaN or infinite values after step 1 of 6; ") == 0);
}

TEST_CASE("device loop: what it leaves to the host") {
  Setup request(cases()[0]);
  const auto device = std::make_shared<HostDevice>();
  Pools pools = stubs(request.manifest, device),
        elsewhere = stubs(request.manifest, std::make_shared<HostDevice>("host:1"));
  std::size_t binds = 0;
  BindingPool host(std::make_unique<StubRunner>(binds));
  CHECK(why_not_on_device(host, &pools.solver, request.run()) == "the denoiser runs on the host");
  CHECK(why_not_on_device(pools.denoiser, nullptr, request.run()) == "the engine has no solver graph; build it again");
  CHECK(why_not_on_device(pools.denoiser, &elsewhere.solver, request.run()) ==
        "the solver graph does not run on the denoiser's device");
  CHECK(why_not_on_device(pools.denoiser, &host, request.run()) ==
        "the solver graph does not run on the denoiser's device");
  request.guidance.batched = false;
  CHECK(why_not_on_device(pools.denoiser, &pools.solver, request.run()) == "guidance in two calls is the host's");
  request.guidance.batched = true;
  request.guidance.rescale = 0.5;
  CHECK(why_not_on_device(pools.denoiser, &pools.solver, request.run()).find("guidance rescale: ") == 0);
}

TEST_CASE("device loop: noise that is missing is said") {
  const Setup request(cases()[5]);
  Pools pools = stubs(request.manifest, std::make_shared<HostDevice>());
  const auto steps = open_device_steps(pools.denoiser, pools.solver, request.run(), request.start.data());
  steps->predict(0);
  CHECK(refused([&] { steps->advance(0, nullptr); }) == "noise: row 0 of the solver table needs it");
}
