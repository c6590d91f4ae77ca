// The denoiser with classifier-free guidance around it (Ho & Salimans 2022), on borrowed buffers; runtimes/guided.py.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "runtime/steps.h"

namespace dit_deploy::runtime {

// What a denoiser is given of the sample.
class Sampled {
 public:
  virtual ~Sampled() = default;
  // Writes what the denoiser is fed in `row`.
  virtual void model_input(std::size_t row, float* out) const = 0;
};

// Valid until the next call, or until the denoiser is closed.
struct Predicted {
  const float* prediction = nullptr;
  const float* variance = nullptr;  // nullptr where nothing is learned
};

// What the loop evaluates row by row.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  virtual Predicted predict(const Sampled& sampled, std::size_t row) = 0;
  // Gives back what is borrowed; the next call borrows again.
  virtual void close() = 0;
  // Spent in the network.
  virtual double seconds() const = 0;
};

// Batched guidance puts the conditional and the unconditional half into one call, conditional first, as diffusers'
// DiTPipeline; otherwise they are two calls, on the same buffers where their texts have the same length. Skip-layer
// guidance is a call of its own. After the first step of each kind, calls allocate nothing.
class GuidedDenoiser final : public Denoiser {
 public:
  GuidedDenoiser(std::shared_ptr<BindingPool> denoiser, const Run& run);

  Predicted predict(const Sampled& sampled, std::size_t row) override;
  void close() override;
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
  Predicted predict_in_two_calls(const Sampled& sampled, std::size_t row);
  // Guides a learned variance where the family does.
  void guide_variance(float* conditional, const float* unconditional) const;
  void run_denoiser(Bound& bound, const Sampled& sampled, std::size_t row, std::size_t copies);

  const std::shared_ptr<BindingPool> pool_;
  const Run run_;
  const std::size_t batch_, size_;
  std::array<Bound, 2> bound_;                            // by copies - 1
  Bound unguided_;                                        // where the unguided half has other sizes
  std::vector<float> first_prediction_, first_variance_;  // of the first of two calls
  std::vector<float> conditional_;                        // what skip-layer guidance compares with
  double seconds_ = 0;
};

}  // namespace dit_deploy::runtime
