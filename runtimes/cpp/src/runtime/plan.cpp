#include "runtime/plan.h"

#include <nlohmann/json.hpp>

#include "sampling/schedulers.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

constexpr double kDefaultStrength = 0.8;
constexpr std::int64_t kMostSteps = 1'000'000;

// What Python takes for true.
bool is_set(const nlohmann::json& config, const char* name) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return false;
  if (found->is_boolean()) return found->get<bool>();
  return found->is_number() ? found->get<double>() != 0 : !found->empty();
}

double option(const nlohmann::json& config, const char* name, double otherwise) {
  const auto found = config.find(name);
  if (found == config.end()) return otherwise;
  if (!found->is_number()) {
    throw InputError(std::string("scheduler config: ") + name + " is no number, which dynamic shifting needs");
  }
  return found->get<double>();
}

// mu, linear in the number of tokens between two sizes of picture (calculate_shift of diffusers, whose pipelines have
// these defaults).
double shift(const nlohmann::json& config, std::int64_t tokens) {
  const double few = option(config, "base_image_seq_len", 256), many = option(config, "max_image_seq_len", 4096);
  const double base = option(config, "base_shift", 0.5), largest = option(config, "max_shift", 1.15);
  if (few == many) throw InputError("scheduler config: base_image_seq_len and max_image_seq_len must differ");
  const double slope = (largest - base) / (many - few);
  return static_cast<double>(tokens) * slope + (base - slope * few);
}

// 1 … 1/steps, as numpy's linspace gives them.
std::vector<double> falling(std::int64_t steps) {
  if (steps > kMostSteps) {
    throw InputError("num_inference_steps: " + std::to_string(steps) + " came, at most " + std::to_string(kMostSteps) +
                     " can be run");
  }
  std::vector<double> sigmas;
  const double last = 1.0 / static_cast<double>(steps), stride = (last - 1.0) / static_cast<double>(steps - 1);
  for (std::int64_t step = 0; step < steps; ++step) sigmas.push_back(static_cast<double>(step) * stride + 1.0);
  if (steps > 1) sigmas.back() = last;
  if (steps == 1) sigmas.front() = 1.0;
  return sigmas;
}

}  // namespace

Plan plan_steps(const bundle::Bundle& bundle, const Request& request, std::int64_t tokens) {
  const bundle::Manifest& manifest = bundle.manifest();
  const nlohmann::json config = sampling::resolve_scheduler(bundle.scheduler_config(), request.scheduler);
  sampling::SolverRequest asked;
  asked.num_inference_steps = request.num_inference_steps.value_or(manifest.scheduler.num_inference_steps);
  asked.eta = request.eta;
  if (!request.image.empty()) {
    asked.begin = sampling::image_to_image_begin(asked.num_inference_steps, request.strength.value_or(kDefaultStrength),
                                                 manifest.scheduler.strength == "rounded_up");
  } else if (request.strength) {
    throw InputError("strength: " + number_text(*request.strength) +
                     " came without an image; give image too, or leave strength out");
  }
  if (sampling::takes_mu(config) && is_set(config, "use_dynamic_shifting")) asked.mu = shift(config, tokens);
  if (sampling::takes_sigmas(config) && manifest.scheduler.sigmas == "linspace" && asked.num_inference_steps > 0) {
    asked.sigmas = falling(asked.num_inference_steps);
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
