// The update on the host, for every backend; the denoiser with classifier-free guidance around it (Ho & Salimans 2022)
// on borrowed buffers. runtimes/steps.py and guided.py.
#pragma once

#include <array>
#include <vector>

#include "runtime/steps.h"
#include "sampling/state.h"

namespace dit_deploy::runtime {

// Batched guidance puts the conditional and the unconditional half into one call, conditional first, as diffusers'
// DiTPipeline; otherwise they are two calls, on the same buffers where their texts have the same length. Skip-layer
// guidance is a call of its own. After the first step of each kind, steps allocate nothing.
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

  // What a copy of the sample is evaluated with.
  enum class Half { conditional, unconditional, skipping };

  Bound& bound(std::size_t copies);
  Bound& bound_to_unguided();
  void borrow(Bound& bound, Sizes sizes, std::size_t copies);
  void write_conditions(Bound& bound, std::size_t copy, Half half);
  // Leaves the conditional half in first_prediction_ and first_variance_, and returns the other.
  const float* predict_in_two_calls(std::size_t row);
  void run_denoiser(Bound& bound, std::size_t row, std::size_t copies);

  BindingPool& pool_;
  const Run run_;
  sampling::SolverState state_;
  std::size_t batch_, size_;
  std::array<Bound, 2> bound_;                            // by copies - 1
  Bound unguided_;                                        // where the unguided half has other sizes
  std::vector<float> first_prediction_, first_variance_;  // of the first of two calls
  std::vector<float> conditional_;                        // what skip-layer guidance compares with
  const float* prediction_ = nullptr;
  const float* variance_ = nullptr;
  double seconds_ = 0;
};

}  // namespace dit_deploy::runtime
