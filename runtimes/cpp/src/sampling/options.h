// Reading a diffusers scheduler config: every option known, typed, and refused by name where unsupported;
// dit_deploy/sampling/options.py.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace dit_deploy::sampling {

// A value as Python's repr shows it, on one line: what came, for a message.
std::string value_repr(const nlohmann::json& value);
// diffusers' defaults of the options that describe a discrete noise schedule.
nlohmann::json beta_options();
// Dynamic thresholding (Saharia et al. 2022) needs a quantile of each sample: no linear solver step.
nlohmann::json dynamic_thresholding_options();
// All members of these objects, the later ones over the earlier ones.
nlohmann::json merged(std::initializer_list<nlohmann::json> objects);

// The options of one scheduler: the config's values over diffusers' defaults.
class Options {
 public:
  // `carried`: options of other classes that diffusers carries along in a config and does not use here. Throws
  // InputError for an option that is neither of the class nor carried.
  Options(std::string scheduler, const nlohmann::json& defaults, const nlohmann::json& config,
          const std::set<std::string>& carried);
  ~Options();
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  const std::string& scheduler() const { return scheduler_; }
  // Throws the InputError that names an option, its value and what is supported.
  [[noreturn]] void refuse(const std::string& name, const std::string& supported) const;

  // An option as it stands in the config.
  const nlohmann::json& get(const std::string& name) const;
  bool has(const std::string& name) const;
  // Whether the option is this text.
  bool is(const std::string& name, const char* text) const;
  // None counts as false, as in diffusers.
  bool flag(const std::string& name) const;
  double number(const std::string& name, double low = -std::numeric_limits<double>::infinity(),
                double high = std::numeric_limits<double>::infinity()) const;
  std::optional<double> optional_number(const std::string& name,
                                        double low = -std::numeric_limits<double>::infinity()) const;
  std::int64_t integer(const std::string& name, std::int64_t low, std::optional<std::int64_t> high = {}) const;
  std::string choice(const std::string& name, const std::vector<std::string>& choices) const;
  // The one flag of `names` that is set; two at once are an error, as in diffusers.
  std::optional<std::string> exclusive(const std::vector<std::string>& names) const;
  // num_train_timesteps, which the memory that a schedule takes follows.
  std::size_t train_timesteps() const;

 private:
  std::string scheduler_;
  std::unique_ptr<nlohmann::json> values_;
};

}  // namespace dit_deploy::sampling
