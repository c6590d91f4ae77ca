// The steady state allocates nothing: no step after the first of its kind, and no binding for a second picture.
#include <doctest/doctest.h>

#include <cstdlib>
#include <new>
#include <nlohmann/json.hpp>

#include "golden_files.h"
#include "pipeline_stubs.h"
#include "runtime/drawing.h"
#include "runtime/host_steps.h"
#include "sampling/noise.h"
#include "sampling/schedulers.h"

namespace {

thread_local std::size_t allocations = 0;

}  // namespace

// For the whole test program: counts, and otherwise does what the library's own do. Not inlined, where a compiler would
// see a pointer of malloc's in a delete expression and warn.
#if defined(__GNUC__)
#define DIT_DEPLOY_NOINLINE __attribute__((noinline))
#else
#define DIT_DEPLOY_NOINLINE
#endif

DIT_DEPLOY_NOINLINE void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
DIT_DEPLOY_NOINLINE void* operator new[](std::size_t size) { return operator new(size); }
DIT_DEPLOY_NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
DIT_DEPLOY_NOINLINE void operator delete[](void* memory) noexcept { std::free(memory); }
DIT_DEPLOY_NOINLINE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
DIT_DEPLOY_NOINLINE void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

using namespace dit_deploy;
using namespace dit_deploy::tests;

namespace {

constexpr std::int64_t kSteps = 12;

struct Scheduler {
  const char* name;
  const char* config;
};

const Scheduler kSchedulers[] = {
    {"DDIM", R"({"_class_name": "DDIMScheduler"})"},
    {"DPM-Solver++ 2M", R"({"_class_name": "DPMSolverMultistepScheduler"})"},
    {"UniPC", R"({"_class_name": "UniPCMultistepScheduler"})"},
    {"Euler ancestral", R"({"_class_name": "EulerAncestralDiscreteScheduler"})"},
    {"Heun", R"({"_class_name": "HeunDiscreteScheduler"})"},
    {"LMS", R"({"_class_name": "LMSDiscreteScheduler"})"},
    {"PNDM", R"({"_class_name": "PNDMScheduler"})"},
    {"learned variance", R"({"_class_name": "DDPMScheduler", "variance_type": "learned_range"})"},
};

struct Guided {
  const char* name;
  sampling::Guidance guidance;
};

std::vector<Guided> guidances() {
  sampling::Guidance plain, batched, apart, interval, rescaled;
  batched.scale = apart.scale = interval.scale = rescaled.scale = 4;
  apart.batched = false;
  apart.channels = 3;
  interval.interval = {0.3, 0.7};
  rescaled.rescale = 0.7;
  return {
      {"none", plain}, {"batched", batched}, {"apart", apart}, {"in an interval", interval}, {"rescaled", rescaled}};
}

Tensor labels(std::vector<std::int64_t> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  return Tensor::of({count}, values);
}

}  // namespace

TEST_CASE("allocations: they are counted") {
  const std::size_t before = allocations;
  std::vector<float> memory(100);
  CHECK(memory.size() == 100);
  CHECK(allocations == before + 1);
}

TEST_CASE("allocations: host steps allocate nothing after the first guided and the first unguided one") {
  const bundle::Manifest manifest;
  const bundle::Shape shape{2, 4, 8, 6};
  const std::size_t batch = 2, each = 4 * 8 * 6;
  const std::vector<runtime::Condition> conditions{{"class_labels", labels({1, 2}), labels({10, 10})}};
  for (const Scheduler& scheduler : kSchedulers) {
    sampling::SolverRequest asked;
    asked.num_inference_steps = kSteps;
    const sampling::SolverTable table = sampling::solver_table(nlohmann::json::parse(scheduler.config), asked);
    for (const Guided& guided : guidances()) {
      const std::string what = std::string(scheduler.name) + ", guidance " + guided.name;
      CAPTURE(what);
      std::size_t binds = 0;
      runtime::BindingPool pool(std::make_unique<StubRunner>(binds));
      const runtime::Run run{
          manifest, table, 1.0, conditions, guided.guidance, shape, {{"patch_height", 4}, {"patch_width", 3}}};
      sampling::NoiseSource source({std::uint64_t{0}});
      std::vector<float> noise(batch * each);
      source.draw(noise.data(), batch, each);
      for (int picture = 0; picture < 2; ++picture) {
        runtime::HostSteps steps(pool, run, noise.data());
        bool seen[2] = {false, false};
        for (std::size_t row = 0; row < table.rows.size(); ++row) {
          const bool active = guided.guidance.active(table.rows[row].step, table.num_steps);
          const std::size_t before = allocations;
          steps.predict(row);
          for (std::int64_t draw = 0; draw < table.rows[row].noise_draws; ++draw)
            source.draw(noise.data(), batch, each);
          steps.advance(row, noise.data());
          steps.check(table.rows[row].step);
          const std::size_t made = allocations - before;
          CAPTURE(row);
          if (seen[active]) CHECK(made == 0);
          seen[active] = true;
        }
        const std::size_t kinds = static_cast<std::size_t>(seen[0]) + static_cast<std::size_t>(seen[1]);
        CHECK(binds == kinds);  // none for the second picture
      }
    }
  }
}

TEST_CASE("allocations: a whole run allocates nothing between its steps, and a second binds nothing") {
  const auto folder = golden_folder();
  if (!folder) return;
  std::size_t binds = 0;
  runtime::Runners runners;
  runners["denoiser"] = std::make_unique<StubRunner>(binds);
  Options options;
  options.engine = "onnx";
  runtime::Drawing drawing(bundle::Bundle::open(*folder / "bundles" / "fashion"), options, std::move(runners));
  for (const char* scheduler : {"ddim", "dpmsolver++", "unipc", "euler-ancestral"}) {
    for (const bool batched : {true, false}) {
      CAPTURE(scheduler);
      CAPTURE(batched);
      Request request;
      request.class_labels = {1, 2};
      request.seed = {0};
      request.scheduler = scheduler;
      request.num_inference_steps = kSteps;
      request.guidance_batched = batched;
      request.output_type = OutputType::latent;
      std::vector<std::size_t> counted(kSteps);
      request.callback = [&](const Step& step) {
        counted[static_cast<std::size_t>(step.index)] = allocations;
        return true;
      };
      drawing.generate(request);
      for (std::size_t step = 1; step < counted.size(); ++step) {
        CHECK_MESSAGE(counted[step] == counted[0], "in step ", step + 1);
      }
    }
  }
  CHECK(binds == 2);  // of the two halves at once, and of one
}
