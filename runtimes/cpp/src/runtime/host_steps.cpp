#include "runtime/host_steps.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "bundle/shapes.h"
#include "runtime/finite.h"
#include "runtime/tensors.h"

namespace dit_deploy::runtime {

HostSteps::HostSteps(BindingPool& denoiser, const Run& run, const float* start)
    : pool_(denoiser),
      run_(run),
      state_(run.table, static_cast<std::size_t>(bundle::elements(run.shape))),
      batch_(static_cast<std::size_t>(run.shape[0])),
      size_(static_cast<std::size_t>(bundle::elements(run.shape))) {
  state_.reset(start);
  if (run.guidance.scale > 1 && !run.guidance.batched) {
    first_prediction_.resize(size_);
    if (denoiser.runner().component().output("variance") != nullptr) first_variance_.resize(size_);
  }
}

void HostSteps::predict(std::size_t row) {
  const std::size_t channels = static_cast<std::size_t>(run_.shape[1]);
  if (!run_.guidance.active(run_.table.rows[row].step, run_.table.num_steps)) {
    Bound& one = bound(1);
    run_denoiser(one, row, 1);
    prediction_ = one.prediction;
    variance_ = one.variance;
    return;
  }
  // The unguided parts, variance included, are the conditional ones, as in the original's forward_with_cfg.
  if (run_.guidance.batched) {
    Bound& both = bound(2);
    run_denoiser(both, row, 2);
    run_.guidance.combine(both.prediction, both.prediction + size_, batch_, channels, size_ / (batch_ * channels));
    prediction_ = both.prediction;
    variance_ = both.variance;
    return;
  }
  Bound& one = bound(1);
  run_denoiser(one, row, 1);
  std::copy_n(one.prediction, size_, first_prediction_.data());
  if (one.variance != nullptr) std::copy_n(one.variance, size_, first_variance_.data());
  write_conditions(one, 0, false);
  run_denoiser(one, row, 1);
  write_conditions(one, 0, true);
  run_.guidance.combine(first_prediction_.data(), one.prediction, batch_, channels, size_ / (batch_ * channels));
  prediction_ = first_prediction_.data();
  variance_ = one.variance == nullptr ? nullptr : first_variance_.data();
}

void HostSteps::advance(std::size_t row, const float* noise) {
  state_.advance(row, prediction_, run_.table.rows[row].learned() ? variance_ : nullptr, noise);
}

void HostSteps::check(std::int64_t step) { check_latents(state_.sample(), size_, step, run_.table.num_steps); }

HostSteps::Bound& HostSteps::bound(std::size_t copies) {
  Bound& one = bound_[copies - 1];
  if (one.lease) return one;
  Sizes sizes = run_.grid;
  sizes["batch"] = static_cast<std::int64_t>(batch_ * copies);
  one.lease = pool_.borrow(sizes);
  one.latents = floats(one.lease->input("latents"), "latents");
  one.timestep = floats(one.lease->input("timestep"), "timestep");
  one.prediction = floats(one.lease->output("prediction"), "prediction");
  const HostTensor* variance = one.lease->output("variance");
  one.variance = variance == nullptr ? nullptr : floats(variance, "variance");
  for (std::size_t copy = 0; copy < copies; ++copy) write_conditions(one, copy, copy == 0);
  return one;
}

void HostSteps::write_conditions(Bound& bound, std::size_t copy, bool conditional) {
  for (const Condition& condition : run_.conditions) {
    const Tensor& tensor = conditional ? condition.conditional : condition.unconditional;
    const HostTensor* input = bound.lease->input(condition.name);
    std::memcpy(static_cast<std::byte*>(input->data) + copy * tensor.data.size(), tensor.data.data(),
                tensor.data.size());
  }
}

void HostSteps::run_denoiser(Bound& bound, std::size_t row, std::size_t copies) {
  state_.model_input(row, bound.latents);
  if (copies == 2) std::copy_n(bound.latents, size_, bound.latents + size_);
  const auto timestep = static_cast<float>(run_.table.rows[row].timestep * run_.timestep_scale);
  std::fill_n(bound.timestep, batch_ * copies, timestep);
  const auto started = std::chrono::steady_clock::now();
  bound.lease->run();
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace dit_deploy::runtime
