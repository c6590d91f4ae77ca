// The steps of one run, wherever they are computed: on the host for every backend, on the device where it can be.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/runner.h"
#include "sampling/guidance.h"
#include "sampling/table.h"

namespace dit_deploy::runtime {

// A condition of the denoiser for both halves of guidance, [batch, …] each.
struct Condition {
  std::string name;
  Tensor conditional;
  Tensor unconditional;                 // equal to `conditional` where the condition is not guided
  std::optional<Tensor> skipping = {};  // where blocks are left out, for skip-layer guidance; else `conditional`
};

// What a run computes with; everything outlives the steps.
struct Run {
  const bundle::Manifest& manifest;
  const sampling::SolverTable& table;
  double timestep_scale;  // what the table's timesteps are multiplied by, to be in the unit that the denoiser takes
  const std::vector<Condition>& conditions;
  const sampling::Guidance& guidance;
  Shape shape;  // of the latents
  Sizes grid;   // {"patch_height", …}: every free size of the denoiser but batch
  // The same in the unguided half, where its texts have another length, so that the halves are two calls; else empty.
  Sizes unguided_grid = {};

  bool in_one_call() const { return guidance.batched && unguided_grid.empty(); }
};

class Steps {
 public:
  virtual ~Steps() = default;
  // Evaluates the denoiser on the current sample.
  virtual void predict(std::size_t row) = 0;
  // Applies the row; `noise` is the last draw of the row, nullptr where it has none.
  virtual void advance(std::size_t row, const float* noise) = 0;
  // Throws NotFiniteError where the sample is not finite after the inference step `step`, which counts from 0.
  virtual void check(std::int64_t step) = 0;
  // The current sample, valid until the next call.
  virtual const float* latents() = 0;
  // Spent in the denoiser; where the update runs on the device too, in both.
  virtual double seconds() const = 0;
};

// Steps that begin with `start`: on the device where `solver` is there and can, else on the host.
std::unique_ptr<Steps> open_steps(BindingPool& denoiser, BindingPool* solver, const Run& run, const float* start);

// Why a run cannot stay on the device; empty where it can. (device_loop.cpp)
std::string why_not_on_device(BindingPool& denoiser, BindingPool* solver, const Run& run);
// (device_loop.cpp)
std::unique_ptr<Steps> open_device_steps(BindingPool& denoiser, BindingPool& solver, const Run& run,
                                         const float* start);

}  // namespace dit_deploy::runtime
