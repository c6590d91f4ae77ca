#include "runtime/plan.h"

#include <nlohmann/json.hpp>

#include "sampling/numeric.h"
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

// The noise levels that a pipeline passes to its scheduler, as numpy's linspace gives them: 1 … 1/steps, or those of
// steps + 1 levels from 1 to 0 but the last; nothing where it passes none.
std::optional<std::vector<double>> own_sigmas(const std::string& kind, std::int64_t steps) {
  if (kind == "scheduler" || steps < 1) return std::nullopt;
  if (steps > kMostSteps) {
    throw InputError("num_inference_steps: " + std::to_string(steps) + " came, at most " + std::to_string(kMostSteps) +
                     " can be run");
  }
  const auto count = static_cast<std::size_t>(steps);
  if (kind == "linspace") return sampling::linspace(1.0, 1.0 / static_cast<double>(steps), count);
  std::vector<double> sigmas = sampling::linspace(1.0, 0.0, count + 1);
  sigmas.pop_back();
  return sigmas;
}

}  // namespace

Plan plan_steps(const bundle::Bundle& bundle, const Request& request, bool from_image, std::int64_t tokens) {
  const bundle::Manifest& manifest = bundle.manifest();
  const nlohmann::json config = sampling::resolve_scheduler(bundle.scheduler_config(), request.scheduler);
  sampling::SolverRequest asked;
  asked.num_inference_steps = request.num_inference_steps.value_or(manifest.scheduler.num_inference_steps);
  asked.eta = request.eta;
  if (from_image) {
    asked.begin = sampling::image_to_image_begin(asked.num_inference_steps, request.strength.value_or(kDefaultStrength),
                                                 manifest.scheduler.strength == "rounded_up");
  } else if (request.strength) {
    throw InputError("strength: " + number_text(*request.strength) +
                     " came without an image or a video to start from; give one too, or leave it out");
  }
  if (sampling::takes_mu(config) && is_set(config, "use_dynamic_shifting")) asked.mu = shift(config, tokens);
  if (sampling::takes_sigmas(config)) asked.sigmas = own_sigmas(manifest.scheduler.sigmas, asked.num_inference_steps);
  Plan plan{sampling::solver_table(config, asked), 1.0, sampling::num_train_timesteps(config)};
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
    plan.timestep_scale = 1.0 / plan.num_train_timesteps;
  }
  return plan;
}

}  // namespace dit_deploy::runtime
