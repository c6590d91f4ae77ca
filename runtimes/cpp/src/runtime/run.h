// Who computes the steps of a run: one denoiser or two, whole videos or windows of them, on the device where it can be;
// runtimes/run.py.
#pragma once

#include <memory>
#include <vector>

#include "runtime/components.h"
#include "runtime/steps.h"
#include "runtime/tiling.h"

namespace dit_deploy::runtime {

// What a bundle's run has beside that of one denoiser.
struct Course {
  // Of the second of two denoisers.
  sampling::Guidance second_guidance;
  double num_train_timesteps = 1000;
  // Latent frames of each window of a long video; none: it is not cut.
  std::vector<Part> windows;
  // Of two denoisers, only the one in use is kept in memory.
  bool alone = false;
};

// Steps that begin with `start`. All arguments outlive them.
std::unique_ptr<Steps> open_steps(Components& components, const Run& run, const Course& course, const float* start);

}  // namespace dit_deploy::runtime
