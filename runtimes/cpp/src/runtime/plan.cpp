#include "runtime/plan.h"

#include <nlohmann/json.hpp>

#include "sampling/schedulers.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

constexpr double kDefaultStrength = 0.8;

}  // namespace

Plan plan_steps(const bundle::Bundle& bundle, const Request& request) {
  const bundle::Manifest& manifest = bundle.manifest();
  const nlohmann::json config = sampling::resolve_scheduler(bundle.scheduler_config(), request.scheduler);
  sampling::SolverRequest asked;
  asked.num_inference_steps = request.num_inference_steps.value_or(manifest.scheduler.num_inference_steps);
  asked.eta = request.eta;
  if (!request.image.empty()) {
    asked.begin =
        sampling::image_to_image_begin(asked.num_inference_steps, request.strength.value_or(kDefaultStrength));
  } else if (request.strength) {
    throw InputError("strength: " + number_text(*request.strength) +
                     " came without an image; give image too, or leave strength out");
  }
  Plan plan{sampling::solver_table(config, asked), 1.0};
  const std::string& trained = manifest.prediction.type;
  if (const std::string taken = sampling::prediction_type(config); taken != trained) {
    throw InputError("scheduler: " + config.at("_class_name").get<std::string>() + " takes the model's output for " +
                     taken + ", but this bundle's denoiser predicts " + trained +
                     "; use a scheduler of that prediction_type");
  }
  if (plan.table.needs_variance() && !manifest.prediction.learned_range_variance) {
    throw InputError("scheduler: variance_type learned_range needs a model that learns one; use fixed_small");
  }
  // A table counts as diffusers does, flow matching too: sigma · num_train_timesteps.
  if (manifest.prediction.timestep_unit != "training_index") {
    plan.timestep_scale = 1.0 / sampling::num_train_timesteps(config);
  }
  return plan;
}

}  // namespace dit_deploy::runtime
