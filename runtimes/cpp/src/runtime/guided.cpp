#include "runtime/guided.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "bundle/shapes.h"
#include "runtime/tensors.h"

namespace dit_deploy::runtime {

GuidedDenoiser::GuidedDenoiser(std::shared_ptr<BindingPool> denoiser, const Run& run)
    : pool_(std::move(denoiser)),
      run_(run),
      batch_(static_cast<std::size_t>(run.shape[0])),
      size_(static_cast<std::size_t>(bundle::elements(run.shape))) {
  if (run.guidance.on() && !run.in_one_call()) {
    first_prediction_.resize(size_);
    if (pool_->runner().component().output("variance") != nullptr) first_variance_.resize(size_);
  }
  if (run.guidance.on() && run.guidance.skip) conditional_.resize(size_);
}

Predicted GuidedDenoiser::predict(const Sampled& sampled, std::size_t row) {
  const std::int64_t step = run_.table.rows[row].step;
  if (!run_.guidance.active(step, run_.table.num_steps)) {
    Bound& one = bound(1);
    run_denoiser(one, sampled, row, 1);
    return {one.prediction, one.variance};
  }
  // Unguided parts, such as most families' variance, are the conditional ones, as in the original's forward_with_cfg.
  float *guided = nullptr, *variance = nullptr;
  Predicted other;
  if (run_.in_one_call()) {
    Bound& both = bound(2);
    run_denoiser(both, sampled, row, 2);
    guided = both.prediction;
    variance = both.variance;
    other = {both.prediction + size_, both.variance == nullptr ? nullptr : both.variance + size_};
  } else {
    other = predict_in_two_calls(sampled, row);
    guided = first_prediction_.data();
    variance = first_variance_.empty() ? nullptr : first_variance_.data();
  }
  if (variance != nullptr) guide_variance(variance, other.variance);
  const bool skips = run_.guidance.skip && run_.guidance.skip->active(step, run_.table.num_steps);
  if (skips) std::copy_n(guided, size_, conditional_.data());
  const auto channels = static_cast<std::size_t>(run_.shape[1]), width = static_cast<std::size_t>(run_.shape.back());
  run_.guidance.combine(guided, other.prediction, batch_, channels, size_ / (batch_ * channels), width);
  if (skips) {
    Bound& one = bound(1);
    write_conditions(one, 0, Half::skipping);
    run_denoiser(one, sampled, row, 1);
    write_conditions(one, 0, Half::conditional);
    run_.guidance.skip->add(guided, conditional_.data(), one.prediction, size_);
  }
  return {guided, variance};
}

void GuidedDenoiser::guide_variance(float* conditional, const float* unconditional) const {
  if (!run_.guidance.variance) return;
  sampling::Guidance plain;
  plain.scale = run_.guidance.scale;
  const auto channels = static_cast<std::size_t>(run_.shape[1]), width = static_cast<std::size_t>(run_.shape.back());
  plain.combine(conditional, unconditional, batch_, channels, size_ / (batch_ * channels), width);
}

void GuidedDenoiser::close() {
  for (Bound* bound : {&bound_[0], &bound_[1], &unguided_}) *bound = {};
}

Predicted GuidedDenoiser::predict_in_two_calls(const Sampled& sampled, std::size_t row) {
  Bound& one = bound(1);
  run_denoiser(one, sampled, row, 1);
  std::copy_n(one.prediction, size_, first_prediction_.data());
  if (one.variance != nullptr) std::copy_n(one.variance, size_, first_variance_.data());
  if (!run_.unguided_grid.empty()) {
    Bound& other = bound_to_unguided();
    run_denoiser(other, sampled, row, 1);
    return {other.prediction, other.variance};
  }
  write_conditions(one, 0, Half::unconditional);
  run_denoiser(one, sampled, row, 1);
  write_conditions(one, 0, Half::conditional);
  return {one.prediction, one.variance};
}

GuidedDenoiser::Bound& GuidedDenoiser::bound(std::size_t copies) {
  Bound& one = bound_[copies - 1];
  if (one.lease) return one;
  borrow(one, run_.grid, copies);
  for (std::size_t copy = 0; copy < copies; ++copy) {
    write_conditions(one, copy, copy == 0 ? Half::conditional : Half::unconditional);
  }
  return one;
}

GuidedDenoiser::Bound& GuidedDenoiser::bound_to_unguided() {
  if (unguided_.lease) return unguided_;
  borrow(unguided_, run_.unguided_grid, 1);
  write_conditions(unguided_, 0, Half::unconditional);
  return unguided_;
}

void GuidedDenoiser::borrow(Bound& bound, Sizes sizes, std::size_t copies) {
  sizes["batch"] = static_cast<std::int64_t>(batch_ * copies);
  bound.lease = pool_->borrow(sizes);
  bound.latents = floats(bound.lease->input("latents"), "latents");
  bound.timestep = floats(bound.lease->input("timestep"), "timestep");
  bound.prediction = floats(bound.lease->output("prediction"), "prediction");
  const HostTensor* variance = bound.lease->output("variance");
  bound.variance = variance == nullptr ? nullptr : floats(variance, "variance");
}

void GuidedDenoiser::write_conditions(Bound& bound, std::size_t copy, Half half) {
  for (const Condition& condition : run_.conditions) {
    const Tensor* tensor = half == Half::unconditional ? &condition.unconditional : &condition.conditional;
    if (half == Half::skipping && condition.skipping) tensor = &*condition.skipping;
    const HostTensor* input = bound.lease->input(condition.name);
    std::memcpy(static_cast<std::byte*>(input->data) + copy * tensor->data.size(), tensor->data.data(),
                tensor->data.size());
  }
}

void GuidedDenoiser::run_denoiser(Bound& bound, const Sampled& sampled, std::size_t row, std::size_t copies) {
  sampled.model_input(row, bound.latents);
  if (copies == 2) std::copy_n(bound.latents, size_, bound.latents + size_);
  const auto timestep = static_cast<float>(run_.table.rows[row].timestep * run_.timestep_scale);
  std::fill_n(bound.timestep, batch_ * copies, timestep);
  const auto started = std::chrono::steady_clock::now();
  bound.lease->run();
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace dit_deploy::runtime
