#include "sampling/schedulers.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "bundle/json.h"
#include "dit_deploy/errors.hpp"
#include "sampling/checked.h"
#include "sampling/options.h"
#include "sampling/solvers/solvers.h"
#include "text.h"

namespace dit_deploy::sampling {

using nlohmann::json;

namespace {

constexpr unsigned kTakesSigmas = 1, kTakesMu = 2, kTakesEta = 4;

// One diffusers scheduler class.
struct Solver {
  const char* name;
  json (*options)();
  SolverTable (*build)(const Options&, const SolverRequest&);
  // Whether diffusers counts the class among those that share configs. Such a config carries options of the other
  // classes, which do nothing.
  bool compatible = true;
  unsigned takes = 0;    // which of a request's sigmas, mu and eta it has a use for
  bool leaking = false;  // it reads sigma_min and sigma_max, which are other classes' options, where a config has them
};

constexpr Solver kSolvers[] = {
    {"DDPMScheduler", ddpm_options, build_ddpm},
    {"DDIMScheduler", ddim_options, build_ddim, true, kTakesEta},
    {"DPMSolverMultistepScheduler", dpm_solver_options, build_dpm_solver, true, kTakesMu, true},
    {"UniPCMultistepScheduler", unipc_options, build_unipc, true, kTakesSigmas | kTakesMu},
    {"EulerDiscreteScheduler", euler_options, build_euler},
    {"EulerAncestralDiscreteScheduler", euler_ancestral_options, build_euler_ancestral},
    {"HeunDiscreteScheduler", heun_options, build_heun, true, 0, true},
    {"LMSDiscreteScheduler", lms_options, build_lms, true, 0, true},
    {"LCMScheduler", lcm_options, build_lcm, false},
    {"PNDMScheduler", pndm_options, build_pndm},
    {"FlowMatchEulerDiscreteScheduler", flow_euler_options, build_flow_euler, false, kTakesSigmas | kTakesMu, true},
    {"FlowMatchHeunDiscreteScheduler", flow_heun_options, build_flow_heun, false},
    {"CogVideoXDDIMScheduler", cogvideox_options, build_cogvideox_ddim},
    {"CogVideoXDPMScheduler", cogvideox_options, build_cogvideox_dpm},
};

struct ShortName {
  const char* name;
  const char* solver;
  const char* algorithm = nullptr;  // the algorithm_type that it sets
};

constexpr ShortName kShortNames[] = {
    {"ddpm", "DDPMScheduler"},
    {"ddim", "DDIMScheduler"},
    {"dpmsolver++", "DPMSolverMultistepScheduler", "dpmsolver++"},
    {"dpmsolver++sde", "DPMSolverMultistepScheduler", "sde-dpmsolver++"},
    {"unipc", "UniPCMultistepScheduler"},
    {"euler", "EulerDiscreteScheduler"},
    {"euler-ancestral", "EulerAncestralDiscreteScheduler"},
    {"heun", "HeunDiscreteScheduler"},
    {"lms", "LMSDiscreteScheduler"},
    {"lcm", "LCMScheduler"},
    {"pndm", "PNDMScheduler"},
    {"flow-euler", "FlowMatchEulerDiscreteScheduler"},
    {"flow-heun", "FlowMatchHeunDiscreteScheduler"},
};

constexpr const char* kEnds[] = {"sigma_min", "sigma_max"};

// Options of compatible diffusers classes that have no solver here: they too may be carried along.
constexpr const char* kForeignOptions[] = {"algorithm_type", "noise_sampler_seed", "rho",     "sigma_data", "sigma_max",
                                           "sigma_min",      "sigma_schedule",     "solver_p"};

// The options that diffusers drops in silence where a compatible class does not have them.
std::set<std::string> carried_options() {
  std::set<std::string> carried(std::begin(kForeignOptions), std::end(kForeignOptions));
  for (const Solver& solver : kSolvers) {
    if (!solver.compatible) continue;
    const json options = solver.options();
    for (const auto& item : options.items()) carried.insert(item.key());
  }
  return carried;
}

template <class Entry, std::size_t count>
std::vector<std::string> names_of(const Entry (&entries)[count]) {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.emplace_back(entry.name);
  return names;
}

const Solver* find_solver(const std::string& name) {
  const auto* found =
      std::find_if(std::begin(kSolvers), std::end(kSolvers), [&](const Solver& solver) { return name == solver.name; });
  return found == std::end(kSolvers) ? nullptr : found;
}

const Solver& solver_of(const json& config) {
  const auto name = config.find("_class_name");
  const Solver* solver =
      name != config.end() && name->is_string() ? find_solver(name->get_ref<const std::string&>()) : nullptr;
  if (solver == nullptr) {
    throw InputError("scheduler config: _class_name=" + value_repr(name == config.end() ? json() : *name) +
                     " is not supported; supported: " + join(names_of(kSolvers)));
  }
  return *solver;
}

json defaults_of(const Solver& solver) {
  json defaults = solver.options();
  for (const char* end : kEnds) {
    if (solver.leaking) defaults[end] = nullptr;
  }
  return defaults;
}

std::set<std::string> default_names(const json& config) {
  const auto names = config.find("_use_default_values");
  if (names == config.end()) return {};
  const auto is_text = [](const json& name) { return name.is_string(); };
  if (!names->is_array() || !std::all_of(names->begin(), names->end(), is_text)) {
    throw InputError("scheduler config: _use_default_values=" + value_repr(*names) +
                     " came, a list of options' names was expected");
  }
  return names->get<std::set<std::string>>();
}

void check_number(const std::string& name, double value, std::optional<std::pair<double, double>> range = {}) {
  if (std::isfinite(value) && (!range || (range->first <= value && value <= range->second))) return;
  const std::string expected =
      range ? "a number of " + number_text(range->first) + " to " + number_text(range->second) : "a finite number";
  throw InputError(name + ": " + number_repr(value) + " came, " + expected + " was expected");
}

void check_whole(const std::string& name, std::int64_t value, std::int64_t low) {
  if (value >= low) return;
  throw InputError(name + ": " + std::to_string(value) + " came, an integer of " + std::to_string(low) +
                   " or more was expected");
}

void refuse_useless(const Solver& solver, unsigned argument, const std::string& name) {
  if ((solver.takes & argument) != 0) return;
  std::vector<std::string> able;
  for (const Solver& other : kSolvers) {
    if ((other.takes & argument) != 0) able.emplace_back(other.name);
  }
  throw InputError(name + ": " + solver.name + " has no use for it; these have: " + join(able));
}

void check_sigmas(const std::vector<double>& sigmas, std::int64_t steps) {
  bool falling = static_cast<std::int64_t>(sigmas.size()) == steps;
  std::vector<std::string> texts;
  for (std::size_t index = 0; index < sigmas.size(); ++index) {
    falling = falling && sigmas[index] > 0 && sigmas[index] <= 1 && (index == 0 || sigmas[index - 1] > sigmas[index]);
    texts.push_back(number_repr(sigmas[index]));
  }
  if (falling) return;
  throw InputError("sigmas: expected num_inference_steps = " + std::to_string(steps) + " falling numbers in (0, 1], " +
                   std::to_string(sigmas.size()) + " came: (" + join(texts) + (texts.size() == 1 ? ",)" : ")"));
}

bool is_json(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && text[first] == '{';
}

json read_config(const std::string& text) {
  try {
    return bundle::read_object(text, "scheduler", true);
  } catch (const BundleError& error) {  // it came with the call, not from a bundle
    throw InputError(error.what());
  }
}

}  // namespace

SolverTable solver_table(const json& config, const SolverRequest& request) {
  const Solver& solver = solver_of(config);
  const std::int64_t steps = request.num_inference_steps;
  check_whole("num_inference_steps", steps, 1);
  check_whole("begin", request.begin, 0);
  if (request.begin >= steps) {
    throw InputError("begin: " + std::to_string(request.begin) +
                     " came, fewer than num_inference_steps = " + std::to_string(steps) + " was expected");
  }
  check_number("eta", request.eta, std::pair(0.0, 1.0));
  if (request.sigmas) refuse_useless(solver, kTakesSigmas, "sigmas");
  if (request.mu) refuse_useless(solver, kTakesMu, "mu");
  if (request.eta != 0) refuse_useless(solver, kTakesEta, "eta");
  if (request.sigmas) check_sigmas(*request.sigmas, steps);
  if (request.mu) check_number("mu", *request.mu);
  const Options options(solver.name, defaults_of(solver), config,
                        solver.compatible ? carried_options() : std::set<std::string>());
  try {
    return solver.build(options, request);
  } catch (const SameLevel&) {
    throw InputError(std::string(solver.name) + ": two of the " + std::to_string(steps) +
                     " steps fall on the same noise level; use fewer steps or another spacing");
  }
}

json resolve_scheduler(const json& own, const std::string& scheduler) {
  if (scheduler.empty() || is_json(scheduler)) {
    json config = scheduler.empty() ? own : read_config(scheduler);
    solver_of(config);
    return config;
  }
  const auto* short_name = std::find_if(std::begin(kShortNames), std::end(kShortNames),
                                        [&](const ShortName& entry) { return scheduler == entry.name; });
  const bool is_short = short_name != std::end(kShortNames);
  const Solver* target = find_solver(is_short ? short_name->solver : scheduler);
  if (target == nullptr) {
    throw InputError("scheduler: " + quoted(scheduler) + " is not known; expected one of " +
                     join(names_of(kShortNames)) + ", or of diffusers' classes " + join(names_of(kSolvers)));
  }
  const json base_options = solver_of(own).options(), kept = defaults_of(*target);
  const std::set<std::string> carried = carried_options(), defaults = default_names(own);
  json config{{"_class_name", target->name}};
  for (const auto& [name, value] : own.items()) {
    const bool foreign = (base_options.contains(name) || carried.count(name) > 0) && !kept.contains(name);
    const bool option = name.empty() || name[0] != '_';
    if (option && !foreign && defaults.count(name) == 0) config[name] = value;
  }
  if (is_short && short_name->algorithm != nullptr) config["algorithm_type"] = short_name->algorithm;
  return config;
}

std::int64_t image_to_image_begin(std::int64_t num_inference_steps, double strength, bool round_up) {
  check_whole("num_inference_steps", num_inference_steps, 1);
  check_number("strength", strength, std::pair(0.0, 1.0));
  const auto steps = static_cast<double>(num_inference_steps);
  const double fraction = steps * strength;
  const double run = round_up ? steps - std::trunc(steps - fraction) : std::min(std::trunc(fraction), steps);
  if (run < 1) {
    throw InputError("strength: " + number_repr(strength) + " of " + std::to_string(num_inference_steps) +
                     " steps leaves none to run; use " + number_text(1 / steps) + " or more, or more steps");
  }
  return num_inference_steps - static_cast<std::int64_t>(run);
}

bool takes_sigmas(const json& config) { return (solver_of(config).takes & kTakesSigmas) != 0; }
bool takes_mu(const json& config) { return (solver_of(config).takes & kTakesMu) != 0; }

std::string prediction_type(const json& config) {
  const json defaults = solver_of(config).options();
  const auto otherwise = defaults.find("prediction_type");
  if (otherwise == defaults.end()) return "flow_prediction";  // the FlowMatch classes know no other
  const auto given = config.find("prediction_type");
  const json& chosen = given == config.end() ? *otherwise : *given;
  const std::string name = chosen.is_string() ? chosen.get<std::string>() : value_repr(chosen);
  return name == "original_sample" ? "sample" : name;  // Euler has both names for it
}

double num_train_timesteps(const json& config) {
  const Solver& solver = solver_of(config);
  json only = json::object();
  const auto given = config.find("num_train_timesteps");
  if (given != config.end()) only["num_train_timesteps"] = *given;
  return static_cast<double>(Options(solver.name, solver.options(), only, {}).train_timesteps());
}

}  // namespace dit_deploy::sampling
