// The update on the host, for every backend; the denoiser with classifier-free guidance around it (Ho & Salimans 2022)
// on borrowed buffers. runtimes/steps.py and guided.py.
#pragma once

#include <array>
#include <vector>

#include "runtime/steps.h"
#include "sampling/state.h"

namespace dit_deploy::runtime {

// Batched guidance puts the conditional and the unconditional half into one call, conditional first, as diffusers'
// DiTPipeline; otherwise they are two calls on the same buffers. After the first guided and the first unguided step,
// steps allocate nothing.
class HostSteps final : public Steps {
 public:
  HostSteps(BindingPool& denoiser, const Run& run, const float* start);

  void predict(std::size_t row) override;
  void advance(std::size_t row, const float* noise) override;
  void check(std::int64_t step) override;
  const float* latents() override { return state_.sample(); }
  double seconds() const override { return seconds_; }

 private:
  // A borrowed binding for so many copies of the sample, and what is read and written in each step.
  struct Bound {
    BindingPool::Lease lease;
    float* latents = nullptr;
    float* timestep = nullptr;
    float* prediction = nullptr;
    float* variance = nullptr;  // nullptr where nothing is learned
  };

  Bound& bound(std::size_t copies);
  // Writes conditions: the conditional ones to the first copy; with `guided`, the unconditional ones to the second.
  void write_conditions(Bound& bound, std::size_t copy, bool conditional);
  void run_denoiser(Bound& bound, std::size_t row, std::size_t copies);

  BindingPool& pool_;
  const Run run_;
  sampling::SolverState state_;
  std::size_t batch_, size_;
  std::array<Bound, 2> bound_;
  std::vector<float> first_prediction_, first_variance_;  // of the first of two calls
  const float* prediction_ = nullptr;
  const float* variance_ = nullptr;
  double seconds_ = 0;
};

}  // namespace dit_deploy::runtime
