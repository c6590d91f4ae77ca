// dit-deploy-run: pictures and videos from a bundle, without Python; the twin of `dit-deploy generate`, and of `dit-deploy verify`.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "dit_deploy/pipeline.hpp"
#include "dit_deploy_run/files.h"
#include "dit_deploy_run/labels.h"
#include "dit_deploy_run/options.h"
#include "dit_deploy_run/pictures.h"
#include "dit_deploy_run/progress.h"

namespace dit_deploy::run {

namespace {

constexpr int kDone = 0, kCheckFailed = 1, kBadInput = 2, kDefect = 3, kInterrupted = 130;

std::atomic<bool> interrupted{false};  // the one thing that a signal's handler may write
static_assert(std::atomic<bool>::is_always_lock_free);

// The first Ctrl-C is answered after the step that is being computed, a second one at once.
void watch_for_interrupt() {
  std::signal(SIGINT, [](int) {
    interrupted = true;
    std::signal(SIGINT, SIG_DFL);
  });
}

void stop_if_interrupted() {
  if (interrupted) throw Cancelled("interrupted");
}

// std::nullopt: the model's own; 0: all.
std::optional<std::int64_t> guidance_channels(const std::string& text) {
  if (text == "model") return std::nullopt;
  if (text == "all") return 0;
  const std::optional<std::int64_t> number = whole_number(text);
  if (!number) {
    throw InputError("--guidance-channels: " + in_quotes(text) + " came, expected a number, all, or model");
  }
  if (*number < 1) {
    throw InputError("guidance channels: " + text + " came, an integer of 1 or more, all, or model was expected");
  }
  return number;
}

bool has_engines(const std::filesystem::path& bundle) {
  std::error_code failed;
  const std::filesystem::directory_iterator engines(bundle / "engines", failed);
  return !failed && std::any_of(begin(engines), end(engines), [](const auto& entry) {
    return std::filesystem::exists(entry.path() / "engine.json");
  });
}

// "model", or pixels; empty: in one piece.
void set_pieces(Request& request, const std::string& text) {
  request.vae_tile_of_model = text == "model";
  if (text.empty() || request.vae_tile_of_model) return;
  request.vae_tile = whole_number(text);
  if (!request.vae_tile) {
    throw InputError("--vae-tile: " + in_quotes(text) + " came, expected a number of pixels, or model");
  }
}

// Of one prompt that is drawn once, a picture a seed.
std::int64_t images_per_prompt(const Arguments& arguments) {
  const bool repeated = arguments.prompt.size() == 1 && arguments.images_per_prompt == 1 && !arguments.seed.empty();
  return repeated ? static_cast<std::int64_t>(arguments.seed.size()) : arguments.images_per_prompt;
}

// The request, but for class labels, whose names the opened bundle knows.
Request request_of(const Arguments& arguments) {
  Request request;
  request.prompt = arguments.prompt;
  request.negative_prompt = arguments.negative_prompt;
  request.prompt_2 = arguments.prompt_2;
  request.prompt_3 = arguments.prompt_3;
  request.num_images_per_prompt = images_per_prompt(arguments);
  request.num_inference_steps = arguments.steps;
  request.scheduler = arguments.scheduler;
  request.eta = arguments.eta;
  request.guidance_scale = arguments.guidance_scale;
  request.guidance_scale_2 = arguments.guidance_scale_2;
  request.true_cfg_scale = arguments.true_cfg_scale;
  request.guidance_channels = guidance_channels(arguments.guidance_channels);
  request.guidance_interval = arguments.guidance_interval;
  request.guidance_rescale = arguments.guidance_rescale;
  request.guidance_batched = arguments.guidance_batched;
  request.skip_guidance_layers = arguments.skip_guidance_layer;
  request.skip_layer_guidance_scale = arguments.skip_layer_guidance_scale;
  request.skip_layer_guidance_start = arguments.skip_layer_guidance_interval.first;
  request.skip_layer_guidance_stop = arguments.skip_layer_guidance_interval.second;
  request.seed = arguments.seed;
  request.height = arguments.height;
  request.width = arguments.width;
  request.num_frames = arguments.frames;
  request.frame_rate = arguments.fps;
  request.strength = arguments.strength;
  request.window_frames = arguments.window_frames;
  request.window_overlap = arguments.window_overlap;
  set_pieces(request, arguments.vae_tile);
  request.decode_timestep = arguments.decode_timestep;
  request.decode_noise_scale = arguments.decode_noise_scale;
  for (const std::string& path : arguments.init_image) request.image.push_back(read_picture(path));
  for (const std::string& path : arguments.last_image) request.last_image.push_back(read_picture(path));
  if (!arguments.init_video.empty()) request.video = read_frames(arguments.init_video);
  return request;
}

std::string summary(const std::vector<std::filesystem::path>& files, const Result& result) {
  const std::filesystem::path folder = files.front().parent_path();
  std::string text = files.front().string();
  if (files.size() > 1) {
    text = folder.string() + ": " + files.front().filename().string() + " … " + files.back().filename().string();
  }
  const auto count_of = [](std::size_t count, const std::string& thing) {
    return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
  };
  text += ": " + (result.frames.empty() ? count_of(result.images.size(), "picture")
                                        : count_of(result.frames.size(), "video") + " of " +
                                              std::to_string(result.frames.front().size()) + " frames");
  text += ", seed";
  for (const std::uint64_t seed : result.seed) text += " " + std::to_string(seed);
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, ", %.2f s", result.seconds.at("total"));
  return text + seconds;
}

Options options_of(const Arguments& arguments) {
  Options options;
  options.engine = arguments.engine;
  options.threads = static_cast<int>(arguments.threads);
  options.low_memory = arguments.low_memory;
  options.vae_memory = arguments.vae_memory;
  options.provider_libraries = arguments.provider_library;
  return options;
}

// The bundle without a component loaded, to ask what it draws.
Pipeline opened(const Arguments& arguments) {
  Options options = options_of(arguments);
  options.low_memory = true;
  return Pipeline::open(arguments.bundle, options);
}

// How many pictures or videos there will be. Throws InputError where nothing says what to draw.
std::size_t count_samples(const Arguments& arguments, const Pipeline& pipeline) {
  if (!arguments.class_label.empty()) {
    const bool repeated = arguments.class_label.size() == 1 && arguments.seed.size() > 1;
    return repeated ? arguments.seed.size() : arguments.class_label.size();
  }
  if (!arguments.prompt.empty()) {
    return arguments.prompt.size() * static_cast<std::size_t>(images_per_prompt(arguments));
  }
  if (pipeline.takes_prompts()) throw InputError("--prompt: none came; say what to draw");
  throw InputError("--class-label: none came; give one for each picture, by number or name");
}

int generate(const Arguments& arguments) {
  if (arguments.columns && !arguments.grid) {
    throw InputError("--columns " + std::to_string(*arguments.columns) +
                     " is for --grid; add it, or leave --columns out");
  }
  Pipeline pipeline = opened(arguments);
  const std::size_t count = count_samples(arguments, pipeline);
  const auto frames =
      static_cast<std::size_t>(std::max<std::int64_t>(arguments.frames.value_or(pipeline.num_frames()), 1));
  const auto files = pipeline.makes_videos()
                         ? plan_frames(arguments.out, count, frames, arguments.grid, arguments.overwrite)
                         : plan_files(arguments.out, count, arguments.grid, arguments.overwrite);
  Request request = request_of(arguments);

  if (!arguments.low_memory) pipeline = Pipeline::open(arguments.bundle, options_of(arguments));
  stop_if_interrupted();
  if (arguments.engine == "auto" && has_engines(arguments.bundle)) {
    std::fprintf(stderr, "engine %s\n", pipeline.engine_reason().c_str());
  }
  request.class_labels = class_indices(arguments.class_label, pipeline.labels());
  if (request.class_labels.size() == 1) request.class_labels.assign(count, request.class_labels.front());
  Result result;
  {
    StepBar bar;
    request.progress = [&bar](const char* what, std::int64_t done, std::int64_t total) {
      stop_if_interrupted();
      bar.advance(what, done, total);
    };
    result = pipeline.generate(request);
  }
  for (const std::string& warning : result.warnings) std::fprintf(stderr, "%s\n", warning.c_str());
  for (const std::string& warning : pipeline.warnings()) std::fprintf(stderr, "%s\n", warning.c_str());
  stop_if_interrupted();
  std::vector<Picture> pictures = result.images;
  for (const auto& video : result.frames) pictures.insert(pictures.end(), video.begin(), video.end());
  if (arguments.grid) {  // a row for each video
    const auto columns = result.frames.empty() ? arguments.columns : static_cast<std::int64_t>(result.frames[0].size());
    pictures = {contact_sheet(pictures, columns)};
  }
  write_pictures(pictures, files, arguments.overwrite);
  std::printf("%s\n", summary(files, result).c_str());
  return kDone;
}

int verify_bundle(const Arguments& arguments) {
  const std::vector<std::string> problems = verify(arguments.bundle);
  for (const std::string& problem : problems) std::printf("%s\n", problem.c_str());
  if (!problems.empty()) return kCheckFailed;
  std::printf("%s: every file is as recorded\n", arguments.bundle.c_str());
  return kDone;
}

int run(const std::vector<std::string>& words) {
  const Arguments arguments = parse(words);
  if (arguments.help) {
    std::fputs(help().c_str(), stdout);
    return kDone;
  }
  if (arguments.version) {
    std::printf("dit-deploy-run %s\n", version());
    return kDone;
  }
  return arguments.verify ? verify_bundle(arguments) : generate(arguments);
}

int say(std::string message, int status) {
  std::replace_if(message.begin(), message.end(), [](char letter) { return letter >= '\0' && letter < ' '; }, ' ');
  std::fprintf(stderr, "dit-deploy-run: %s\n", message.c_str());
  return status;
}

}  // namespace

int guarded_run(const std::vector<std::string>& words) {
  watch_for_interrupt();
  try {
    return run(words);
  } catch (const Cancelled&) {
    return say("interrupted; nothing was written", kInterrupted);
  } catch (const Error& error) {
    return say(error.what(), kBadInput);
  } catch (const std::filesystem::filesystem_error& error) {
    return say(error.path1().string() + ": " + error.code().message(), kBadInput);
  } catch (const std::bad_alloc&) {
    return say("out of memory; fewer pictures at once, or smaller ones, need less", kBadInput);
  } catch (const std::exception& error) {
    return say(std::string(error.what()) + " (a defect of dit-deploy)", kDefect);
  }
}

}  // namespace dit_deploy::run

int main(int argc, char** argv) { return dit_deploy::run::guarded_run({argv + 1, argv + argc}); }
