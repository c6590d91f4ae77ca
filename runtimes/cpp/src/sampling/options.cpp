#include "sampling/options.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "bundle/json.h"
#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::sampling {

using nlohmann::json;

namespace {

constexpr std::int64_t kMostTrainTimesteps = 1'000'000;

bool truthy(const json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

}  // namespace

std::string value_repr(const json& value) { return bundle::value_text(nlohmann::ordered_json(value), 120); }

json beta_options() {
  return {{"num_train_timesteps", 1000},
          {"beta_start", 0.0001},
          {"beta_end", 0.02},
          {"beta_schedule", "linear"},
          {"trained_betas", nullptr}};
}

json dynamic_thresholding_options() {
  return {{"thresholding", false}, {"dynamic_thresholding_ratio", 0.995}, {"sample_max_value", 1.0}};
}

json merged(std::initializer_list<json> objects) {
  json all = json::object();
  for (const json& object : objects) all.update(object);
  return all;
}

Options::Options(std::string scheduler, const json& defaults, const json& config, const std::set<std::string>& carried)
    : scheduler_(std::move(scheduler)), values_(std::make_unique<json>(defaults)) {
  for (const auto& [name, value] : config.items()) {
    if (!name.empty() && name[0] == '_') continue;
    if (defaults.contains(name)) {
      (*values_)[name] = value;
    } else if (carried.count(name) == 0) {
      std::vector<std::string> known;
      for (const auto& item : defaults.items()) known.push_back(item.key());
      throw InputError(scheduler_ + ": unknown option " + one_line(name) + "=" + value_repr(value) + "; it has " +
                       join(known));
    }
  }
  if (has("thresholding") && truthy(get("thresholding"))) {
    refuse("thresholding", "dynamic thresholding is not linear; set it to False, or use clip_sample");
  }
}

Options::~Options() = default;

void Options::refuse(const std::string& name, const std::string& supported) const {
  throw InputError(scheduler_ + ": " + name + "=" + value_repr(get(name)) + " is not supported: " + supported);
}

const json& Options::get(const std::string& name) const { return values_->at(name); }

bool Options::has(const std::string& name) const { return values_->contains(name); }

bool Options::is(const std::string& name, const char* text) const {
  const json& value = get(name);
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

bool Options::flag(const std::string& name) const {
  const json& value = get(name);
  if (!value.is_null() && !value.is_boolean()) refuse(name, "true or false");
  return value.is_boolean() && value.get<bool>();
}

double Options::number(const std::string& name, double low, double high) const {
  const json& value = get(name);
  const double number = value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!(low <= number && number <= high)) refuse(name, "a number of " + number_text(low) + " to " + number_text(high));
  return number;
}

std::optional<double> Options::optional_number(const std::string& name, double low) const {
  if (get(name).is_null()) return std::nullopt;
  return number(name, low);
}

std::int64_t Options::integer(const std::string& name, std::int64_t low, std::optional<std::int64_t> high) const {
  const json& value = get(name);
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > kMost) ||
      value.get<std::int64_t>() < low || (high && value.get<std::int64_t>() > *high)) {
    const std::string from = "an integer of " + std::to_string(low);
    refuse(name, high ? from + " to " + std::to_string(*high) : from + " or more");
  }
  return value.get<std::int64_t>();
}

std::string Options::choice(const std::string& name, const std::vector<std::string>& choices) const {
  for (const std::string& choice : choices) {
    if (is(name, choice.c_str())) return choice;
  }
  refuse(name, "one of " + join(choices));
}

std::optional<std::string> Options::exclusive(const std::vector<std::string>& names) const {
  std::vector<std::string> chosen;
  for (const std::string& name : names) {
    if (has(name) && flag(name)) chosen.push_back(name);
  }
  if (chosen.size() > 1) refuse(chosen[1], "only one of " + join(chosen) + " can be set");
  return chosen.empty() ? std::nullopt : std::optional(chosen.front());
}

std::size_t Options::train_timesteps() const {
  const std::int64_t count = integer("num_train_timesteps", 1);
  if (count > kMostTrainTimesteps) {
    refuse("num_train_timesteps", "at most " + std::to_string(kMostTrainTimesteps));
  }
  return static_cast<std::size_t>(count);
}

}  // namespace dit_deploy::sampling
