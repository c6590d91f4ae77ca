// From a diffusers scheduler config to a solver table; dit_deploy/sampling/schedulers.py.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "sampling/table.h"

namespace dit_deploy::sampling {

// What one generation asks of a solver, apart from the config.
struct SolverRequest {
  std::int64_t num_inference_steps = 0;
  std::int64_t begin = 0;
  std::optional<std::vector<double>> sigmas;
  std::optional<double> mu;
  double eta = 0;
};

// Throws InputError with the Python package's messages.
SolverTable solver_table(const nlohmann::json& config, const SolverRequest& request);

// The config that `scheduler` means beside the bundle's own: empty → the own one; a class or short name; or JSON text
// of a config. Throws InputError.
nlohmann::json resolve_scheduler(const nlohmann::json& own, const std::string& scheduler);

// The first step of image-to-image; `round_up` runs the step that is begun, as pipelines of flow models do. Throws
// InputError.
std::int64_t image_to_image_begin(std::int64_t num_inference_steps, double strength, bool round_up = false);

// Which of a request's arguments a resolved config's class has a use for.
bool takes_sigmas(const nlohmann::json& config);
bool takes_mu(const nlohmann::json& config);

// What a resolved config takes the model's output for, in the manifest's words; and its num_train_timesteps, with the
// class's defaults.
std::string prediction_type(const nlohmann::json& config);
double num_train_timesteps(const nlohmann::json& config);

}  // namespace dit_deploy::sampling
