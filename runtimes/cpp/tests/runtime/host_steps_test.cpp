// Guidance where the halves cannot be one call: texts of two lengths; and the third call that leaves blocks out.
#include "runtime/host_steps.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "pipeline_stubs.h"
#include "sampling/schedulers.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;

namespace {

// A denoiser whose prediction depends on the sum of each sample's states, whatever their number.
bundle::Component text_denoiser() {
  bundle::Component component = stub_denoiser();
  bundle::TensorSpec& states = component.inputs.at(2);
  states.name = "states";
  states.dtype = DType::float32;
  states.axes.emplace_back(bundle::Axis{"sequence_length", 1, 1, {}});
  component.outputs.pop_back();  // the variance
  return component;
}

class TextBinding : public StubBinding {
 public:
  using StubBinding::StubBinding;
  void run() override {
    const runtime::HostTensor &latents = *input("latents"), &states = *input("states");
    const auto batch = static_cast<std::size_t>(latents.shape[0]), each = latents.bytes / sizeof(float) / batch;
    const auto length = static_cast<std::size_t>(states.shape[1]);
    const auto* sample = static_cast<const float*>(latents.data);
    const auto* state = static_cast<const float*>(states.data);
    auto* prediction = static_cast<float*>(output("prediction")->data);
    for (std::size_t b = 0; b < batch; ++b) {
      float sum = 0;
      for (std::size_t i = 0; i < length; ++i) sum += state[b * length + i];
      for (std::size_t i = b * each; i < (b + 1) * each; ++i) prediction[i] = 0.5f * sample[i] + sum;
    }
  }
};

class TextRunner : public runtime::Runner {
 public:
  explicit TextRunner(std::vector<bundle::Sizes>& asked) : asked_(asked) {}
  const bundle::Component& component() const override { return component_; }
  std::unique_ptr<runtime::Binding> bind(const bundle::Sizes& sizes) override {
    asked_.push_back(sizes);
    return std::make_unique<TextBinding>(component_, sizes);
  }

 private:
  std::vector<bundle::Sizes>& asked_;
  const bundle::Component component_ = text_denoiser();
};

Tensor states(std::int64_t length, std::vector<float> values) {
  return Tensor::of({static_cast<std::int64_t>(values.size()) / length, length}, values);
}

// The latents after three steps, and the sizes that the denoiser was bound to.
struct Drawn {
  std::vector<float> latents;
  std::vector<bundle::Sizes> sizes;
};

Drawn draw(runtime::Condition condition, sampling::Guidance guidance) {
  Drawn drawn;
  const auto table =
      sampling::solver_table({{"_class_name", "DDIMScheduler"}, {"clip_sample", false}}, {3, 0, {}, {}, 0});
  const bundle::Manifest manifest;
  const std::int64_t length = condition.conditional.shape[1], other = condition.unconditional.shape[1];
  const std::vector<runtime::Condition> conditions{std::move(condition)};
  bundle::Sizes grid{{"patch_height", 1}, {"patch_width", 1}, {"sequence_length", length}}, unguided;
  if (other != length) unguided = {{"patch_height", 1}, {"patch_width", 1}, {"sequence_length", other}};
  const runtime::Run run{manifest, table, 1.0, conditions, guidance, {2, 4, 2, 2}, grid, unguided};
  runtime::BindingPool pool(std::make_unique<TextRunner>(drawn.sizes));
  const std::vector<float> start(32, 0.25f);
  runtime::HostSteps steps(pool, run, start.data());
  for (std::size_t row = 0; row < table.rows.size(); ++row) {
    steps.predict(row);
    steps.advance(row, start.data());
  }
  drawn.latents.assign(steps.latents(), steps.latents() + start.size());
  return drawn;
}

sampling::Guidance guided(double scale) {
  sampling::Guidance guidance;
  guidance.scale = scale;
  return guidance;
}

}  // namespace

TEST_CASE("host steps: halves of two lengths are two calls, with the same result") {
  const Tensor padded = states(4, {0.5f, 0.25f, 0, 0, 1, -0.5f, 0, 0}), other = states(4, {1, 2, 3, 4, 5, 6, 7, -8});
  const Drawn together = draw({"states", padded, other}, guided(3));
  const Drawn apart = draw({"states", states(2, {0.5f, 0.25f, 1, -0.5f}), other}, guided(3));
  CHECK(apart.latents == together.latents);
  REQUIRE(together.sizes.size() == 1);
  CHECK(together.sizes[0].at("batch") == 4);
  REQUIRE(apart.sizes.size() == 2);
  CHECK(apart.sizes[0] == bundle::Sizes{{"batch", 2}, {"patch_height", 1}, {"patch_width", 1}, {"sequence_length", 2}});
  CHECK(apart.sizes[1] == bundle::Sizes{{"batch", 2}, {"patch_height", 1}, {"patch_width", 1}, {"sequence_length", 4}});
}

TEST_CASE("host steps: what a call without blocks predicts is guided away from, in one call or two") {
  runtime::Condition condition{"states", states(1, {0.5f, 1}), states(1, {0.25f, 2}), states(1, {0.125f, 3})};
  sampling::Guidance guidance = guided(3);
  const Drawn plain = draw(condition, guidance);
  guidance.skip = sampling::SkipLayerGuidance{{0}, 2.0, 0.0, 0.5};  // the second of three steps
  const Drawn skipping = draw(condition, guidance);
  CHECK(skipping.latents != plain.latents);
  guidance.batched = false;
  CHECK(draw(condition, guidance).latents == skipping.latents);
  guidance.skip->stop = 0.25;
  CHECK(draw(condition, guidance).latents == plain.latents);
}
