// dit-deploy-run: pictures from a bundle, without Python; the twin of `dit-deploy generate`, and of `dit-deploy verify`.
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

// The request, but for class labels, whose names the opened bundle knows.
Request request_of(const Arguments& arguments) {
  Request request;
  request.prompt = arguments.prompt;
  request.negative_prompt = arguments.negative_prompt;
  request.num_images_per_prompt = arguments.images_per_prompt;
  request.num_inference_steps = arguments.steps;
  request.scheduler = arguments.scheduler;
  request.eta = arguments.eta;
  request.guidance_scale = arguments.guidance_scale;
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
  request.strength = arguments.strength;
  request.vae_tile = arguments.vae_tile;
  for (const std::string& path : arguments.init_image) request.image.push_back(read_picture(path));
  return request;
}

std::string summary(const std::vector<std::filesystem::path>& files, const Result& result) {
  const std::filesystem::path folder = files.front().parent_path();
  std::string text = files.front().string();
  if (files.size() > 1) {
    text = folder.string() + ": " + files.front().filename().string() + " … " + files.back().filename().string();
  }
  text +=
      result.images.size() == 1 ? ": 1 picture, seed" : ": " + std::to_string(result.images.size()) + " pictures, seed";
  for (const std::uint64_t seed : result.seed) text += " " + std::to_string(seed);
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, ", %.2f s", result.seconds.at("total"));
  return text + seconds;
}

Options options_of(const Arguments& arguments) {
  Options options;
  options.engine = arguments.engine;
  options.threads = static_cast<int>(arguments.threads);
  options.provider_libraries = arguments.provider_library;
  return options;
}

// How many pictures there will be. Throws InputError where nothing says what to draw.
std::size_t count_pictures(const Arguments& arguments) {
  if (!arguments.class_label.empty()) {
    const bool repeated = arguments.class_label.size() == 1 && arguments.seed.size() > 1;
    return repeated ? arguments.seed.size() : arguments.class_label.size();
  }
  if (!arguments.prompt.empty()) {
    return arguments.prompt.size() * static_cast<std::size_t>(arguments.images_per_prompt);
  }
  if (Pipeline::open(arguments.bundle, options_of(arguments)).takes_prompts()) {
    throw InputError("--prompt: none came; say what to draw");
  }
  throw InputError("--class-label: none came; give one for each picture, by number or name");
}

int generate(const Arguments& arguments) {
  if (arguments.columns && !arguments.grid) {
    throw InputError("--columns " + std::to_string(*arguments.columns) +
                     " is for --grid; add it, or leave --columns out");
  }
  const std::size_t count = count_pictures(arguments);
  const auto files = plan_files(arguments.out, count, arguments.grid, arguments.overwrite);
  Request request = request_of(arguments);

  const Pipeline pipeline = Pipeline::open(arguments.bundle, options_of(arguments));
  stop_if_interrupted();
  if (arguments.engine == "auto" && has_engines(arguments.bundle)) {
    std::fprintf(stderr, "engine %s\n", pipeline.engine_reason().c_str());
  }
  request.class_labels = class_indices(arguments.class_label, pipeline.labels());
  if (request.class_labels.size() == 1) request.class_labels.assign(count, request.class_labels.front());
  Result result;
  {
    StepBar bar("denoising");
    request.callback = [&bar](const Step& step) {
      bar.advance(step.index + 1, step.count);
      return !interrupted;
    };
    result = pipeline.generate(request);
  }
  for (const std::string& warning : result.warnings) std::fprintf(stderr, "%s\n", warning.c_str());
  for (const std::string& warning : pipeline.warnings()) std::fprintf(stderr, "%s\n", warning.c_str());
  stop_if_interrupted();
  const auto sheet = [&] { return std::vector<Picture>{contact_sheet(result.images, arguments.columns)}; };
  write_pictures(arguments.grid ? sheet() : result.images, files, arguments.overwrite);
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
