// The update on the host, for every backend; runtimes/steps.py.
#pragma once

#include <memory>

#include "runtime/guided.h"
#include "sampling/state.h"

namespace dit_deploy::runtime {

// After the first step of each kind, steps allocate nothing where the denoiser does not.
class HostSteps final : public Steps {
 public:
  // `table` outlives the steps.
  HostSteps(std::unique_ptr<Denoiser> denoiser, const sampling::SolverTable& table, std::size_t size,
            const float* start);
  // With one denoiser, which outlives the steps.
  HostSteps(BindingPool& denoiser, const Run& run, const float* start);

  void predict(std::size_t row) override;
  void advance(std::size_t row, const float* noise) override;
  void check(std::int64_t step) override;
  const float* latents() override { return state_.sample(); }
  double seconds() const override { return denoiser_->seconds(); }

 private:
  const std::unique_ptr<Denoiser> denoiser_;
  const sampling::SolverTable& table_;
  sampling::SolverState state_;
  Predicted predicted_;
};

}  // namespace dit_deploy::runtime
