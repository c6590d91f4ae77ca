// What tests/runtimes/cpp/golden.py wrote, read: where it is, and its requests as this library takes them.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "dit_deploy/pipeline.hpp"
#include "skip.h"

namespace dit_deploy::tests {

inline constexpr char kGoldenCommand[] = "python tests/runtimes/cpp/golden.py --all build/golden";
inline constexpr int kGoldenVersion = 1;

// The folder of golden files; nothing, with a visible skip, where there is none.
inline std::optional<std::filesystem::path> golden_folder() {
  const char* folder = std::getenv("DIT_DEPLOY_GOLDEN");
  if (folder != nullptr && *folder != '\0') return std::filesystem::path(folder);
  skip(std::string("no golden files: run `") + kGoldenCommand + "`, and set DIT_DEPLOY_GOLDEN to that folder");
  return std::nullopt;
}

// A JSON document of golden.py's; throws where it is absent, or of another format or version.
inline nlohmann::json read_document(const std::filesystem::path& path, const std::string& format) {
  const std::string again = "; write it by `" + std::string(kGoldenCommand) + "`";
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path.string() + " is not there" + again);
  const nlohmann::json document = nlohmann::json::parse(stream);
  if (document.at("format") != format || document.at("version") != kGoldenVersion) {
    throw std::runtime_error(path.string() + " is " + document.at("format").get<std::string>() + " version " +
                             document.at("version").dump() + ", expected " + format + " version " +
                             std::to_string(kGoldenVersion) + again);
  }
  return document;
}

// A number, or "nan" or "inf", which JSON has no numbers for.
inline double read_number(const nlohmann::json& value) {
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  return value.get<double>();
}

// One text, or several.
inline std::vector<std::string> read_texts(const nlohmann::json& value) {
  return value.is_string() ? std::vector<std::string>{value.get<std::string>()} : value.get<std::vector<std::string>>();
}

// What of such a request says how a bundle is opened. One thread: models this small are drawn sooner so, and on every machine
// alike.
inline Options read_options(const nlohmann::json& words) {
  Options options;
  options.threads = 1;
  options.engine = words.value("engine", "onnx");
  if (words.contains("vae_memory")) options.vae_memory = words.at("vae_memory").get<std::string>();
  return options;
}

// The request that golden.py wrote as JSON, but for options and pictures. Throws for an argument that is not known here.
inline Request read_request(const nlohmann::json& words) {
  Request request;
  for (const auto& [name, value] : words.items()) {
    if (name == "class_labels") {
      request.class_labels = value.get<std::vector<std::int64_t>>();
    } else if (name == "seed") {
      request.seed = value.is_array() ? value.get<std::vector<std::uint64_t>>()
                                      : std::vector<std::uint64_t>{value.get<std::uint64_t>()};
    } else if (name == "num_inference_steps") {
      request.num_inference_steps = value.get<std::int64_t>();
    } else if (name == "scheduler") {
      request.scheduler = value.is_string() ? value.get<std::string>() : value.dump();
    } else if (name == "eta") {
      request.eta = read_number(value);
    } else if (name == "guidance_scale") {
      request.guidance_scale = read_number(value);
    } else if (name == "guidance_channels") {
      request.guidance_channels = value.is_null() ? 0 : value.get<std::int64_t>();
    } else if (name == "guidance_interval") {
      request.guidance_interval = {read_number(value.at(0)), read_number(value.at(1))};
    } else if (name == "guidance_rescale") {
      request.guidance_rescale = read_number(value);
    } else if (name == "guidance_batched") {
      request.guidance_batched = value.get<bool>();
    } else if (name == "height") {
      request.height = value.get<std::int64_t>();
    } else if (name == "width") {
      request.width = value.get<std::int64_t>();
    } else if (name == "prompt") {
      request.prompt = read_texts(value);
    } else if (name == "negative_prompt") {
      request.negative_prompt = read_texts(value);
    } else if (name == "prompt_2") {
      request.prompt_2 = read_texts(value);
    } else if (name == "negative_prompt_2") {
      request.negative_prompt_2 = read_texts(value);
    } else if (name == "prompt_3") {
      request.prompt_3 = read_texts(value);
    } else if (name == "negative_prompt_3") {
      request.negative_prompt_3 = read_texts(value);
    } else if (name == "num_images_per_prompt") {
      request.num_images_per_prompt = value.get<std::int64_t>();
    } else if (name == "true_cfg_scale") {
      request.true_cfg_scale = read_number(value);
    } else if (name == "skip_guidance_layers") {
      request.skip_guidance_layers = value.get<std::vector<std::int64_t>>();
    } else if (name == "skip_layer_guidance_start") {
      request.skip_layer_guidance_start = read_number(value);
    } else if (name == "skip_layer_guidance_stop") {
      request.skip_layer_guidance_stop = read_number(value);
    } else if (name == "skip_layer_guidance_scale") {
      request.skip_layer_guidance_scale = read_number(value);
    } else if (name == "vae_tile" && value == "model") {
      request.vae_tile_of_model = true;
    } else if (name == "vae_tile") {
      request.vae_tile = value.get<std::int64_t>();
    } else if (name == "guidance_scale_2") {
      request.guidance_scale_2 = read_number(value);
    } else if (name == "num_frames") {
      request.num_frames = value.get<std::int64_t>();
    } else if (name == "frame_rate") {
      request.frame_rate = read_number(value);
    } else if (name == "window_frames") {
      request.window_frames = value.get<std::int64_t>();
    } else if (name == "window_overlap") {
      request.window_overlap = value.get<std::int64_t>();
    } else if (name == "decode_timestep") {
      request.decode_timestep = read_number(value);
    } else if (name == "decode_noise_scale") {
      request.decode_noise_scale = read_number(value);
    } else if (name == "strength") {
      request.strength = read_number(value);
    } else if (name == "output_type" && value == "latent") {
      request.output_type = OutputType::latent;
    } else if (name != "engine" && name != "vae_memory" && name != "noise" && name != "image" && name != "last_image" &&
               name != "video") {
      throw std::runtime_error("golden.py wrote the argument " + name + ", which golden_files.h does not know yet");
    }
  }
  return request;
}

}  // namespace dit_deploy::tests
