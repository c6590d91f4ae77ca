// The command line: one table of options, which is parsed by and from which the help is made; dit_deploy/cli/generate.py.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::run {

// The words do not make a command: what is wrong, and where the options stand.
class UsageError : public InputError {
 public:
  explicit UsageError(const std::string& message) : InputError(message + " See `dit-deploy-run --help`.") {}
};

// What was asked for; an empty optional or vector means the default.
struct Arguments {
  std::string bundle, out;
  std::vector<std::string> class_label;
  std::vector<std::string> prompt, negative_prompt, prompt_2, prompt_3;
  std::int64_t images_per_prompt = 1;
  std::optional<std::int64_t> steps;
  std::string scheduler;
  double eta = 0.0;
  std::optional<double> guidance_scale, guidance_scale_2;
  double true_cfg_scale = 1.0;
  std::string guidance_channels = "model";
  std::pair<double, double> guidance_interval{0.0, 1.0};
  double guidance_rescale = 0.0;
  bool guidance_batched = true;
  std::vector<std::int64_t> skip_guidance_layer;
  double skip_layer_guidance_scale = 2.8;
  std::pair<double, double> skip_layer_guidance_interval{0.01, 0.2};
  std::vector<std::uint64_t> seed;
  std::optional<std::int64_t> height, width, frames;
  std::optional<double> fps;
  std::vector<std::string> init_image, last_image;
  std::string init_video;
  std::optional<double> strength;
  std::optional<std::int64_t> window_frames, window_overlap;
  std::string vae_tile;
  std::optional<std::string> vae_memory;
  std::optional<double> decode_timestep, decode_noise_scale;
  bool low_memory = false;
  bool grid = false;
  std::optional<std::int64_t> columns;
  std::string engine = "auto";
  std::int64_t threads = 0;
  std::map<std::string, std::string> provider_library;
  bool overwrite = false;
  bool verify = false, version = false, help = false;
};

// Reads the words after the program's name. Throws UsageError.
Arguments parse(const std::vector<std::string>& words);

// What --help prints.
std::string help();

// A whole number and nothing else, with or without a sign; std::nullopt where it is none or does not fit.
std::optional<std::int64_t> whole_number(std::string_view text);

// 'text', on one line.
std::string in_quotes(std::string_view text);

}  // namespace dit_deploy::run
