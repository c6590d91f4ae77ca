// Which steps a run takes: the scheduler's config held against what the manifest says of the denoiser; runtimes/plan.py.
#pragma once

#include "bundle/bundle.h"
#include "dit_deploy/pipeline.hpp"
#include "sampling/table.h"

namespace dit_deploy::runtime {

struct Plan {
  sampling::SolverTable table;
  double timestep_scale = 1;  // what the table's timesteps are multiplied by, to be in the unit that the denoiser takes
  double num_train_timesteps = 1000;
};

// Throws InputError where an argument is out of range, or the scheduler is none for this model.
// `from_image`: the run starts from a picture or video. `tokens` is how many patches a sample has, by which a scheduler with dynamic shifting is shifted.
Plan plan_steps(const bundle::Bundle& bundle, const Request& request, bool from_image, std::int64_t tokens);

}  // namespace dit_deploy::runtime
