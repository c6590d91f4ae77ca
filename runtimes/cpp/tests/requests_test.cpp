// Requests that must be refused: with Python's own error and words where Python can be asked the same
// (tests/runtimes/cpp/refusals.py wrote them), and what only C++ can be asked. After each, the pipeline still draws.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <map>

#include "dit_deploy/pipeline.hpp"
#include "golden_files.h"

namespace fs = std::filesystem;
using namespace dit_deploy;
using namespace dit_deploy::tests;

namespace {

std::string error_name(const Error& error) {
  if (dynamic_cast<const InputError*>(&error) != nullptr) return "InputError";
  if (dynamic_cast<const IntegrityError*>(&error) != nullptr) return "IntegrityError";
  if (dynamic_cast<const BundleError*>(&error) != nullptr) return "BundleError";
  if (dynamic_cast<const NotFiniteError*>(&error) != nullptr) return "NotFiniteError";
  if (dynamic_cast<const BackendError*>(&error) != nullptr) return "BackendError";
  if (dynamic_cast<const Cancelled*>(&error) != nullptr) return "Cancelled";
  return "Error";
}

struct Refusal {
  std::string error, message;
};

// What `call` throws; anything but an Error is passed on, and fails the test.
Refusal refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error_name(error), error.what()};
  }
  return {"none", ""};
}

bool one_line(const std::string& message) {
  return !message.empty() && message.find('\n') == std::string::npos && message.find('\r') == std::string::npos;
}

// A message without what a language spells differently: 1.0 is 1, and Python's words for its own interface.
std::string comparable(std::string message) {
  const std::pair<const char*, const char*> words[] = {
      {"output_type=\"latent\"", "output_type latent"},
      {"give image=", "give image"},
      {"give last_image=", "give last_image"},
      {"give video=", "give video"},
      {"give prompt=", "give prompt"},
      {", or None, was expected", ", or 0 for all, was expected"},
  };
  for (const auto& [python, ours] : words) {
    if (const auto at = message.find(python); at != std::string::npos)
      message.replace(at, std::string(python).size(), ours);
  }
  for (auto at = message.find(".0"); at != std::string::npos; at = message.find(".0", at + 1)) {
    const bool after_digit = at > 0 && message[at - 1] >= '0' && message[at - 1] <= '9';
    const bool whole = at + 2 == message.size() || message[at + 2] < '0' || message[at + 2] > '9';
    if (after_digit && whole) message.erase(at, 2);
  }
  return message;
}

Picture black(std::int64_t height, std::int64_t width, std::int64_t channels = 3) {
  return {height, width, channels, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width * channels))};
}

Request read_refused(const nlohmann::json& words) {
  Request request = read_request(words);
  if (words.contains("noise")) {
    Array noise{words["noise"].at("shape").get<std::vector<std::int64_t>>(), {}};
    std::size_t count = 1;
    for (const std::int64_t size : noise.shape) count *= static_cast<std::size_t>(size);
    noise.values.assign(count, static_cast<float>(read_number(words["noise"].at("value"))));
    request.noise = std::move(noise);
  }
  const std::pair<const char*, std::vector<Picture>*> pictures[] = {
      {"image", &request.image}, {"last_image", &request.last_image}, {"video", &request.video}};
  for (const auto& [name, given] : pictures) {
    if (!words.contains(name)) continue;
    for (const auto& sizes : words[name]) given->push_back(black(sizes.at(0), sizes.at(1), sizes.at(2)));
  }
  return request;
}

Request small_request() {
  Request request;
  request.class_labels = {1};
  request.num_inference_steps = 2;
  request.seed = {0};
  return request;
}

// The demo's pipeline, opened once, and what it drew before any bad request.
struct Demo {
  Pipeline pipeline;
  std::vector<float> before;

  static Demo* get() {
    const auto folder = golden_folder();
    if (!folder) return nullptr;
    static Demo demo = [&] {
      Options options;
      options.engine = "onnx";
      options.threads = 1;
      Pipeline opened = Pipeline::open(*folder / "bundles" / "fashion", options);
      std::vector<float> drawn = opened.generate(small_request()).latents.values;
      return Demo{std::move(opened), std::move(drawn)};
    }();
    return &demo;
  }

  void check_still_draws() const { CHECK(pipeline.generate(small_request()).latents.values == before); }

  // Holds what a change of a small request gives against an error and the beginning of its message.
  void check_refused(const char* error, const std::string& message, const std::function<void(Request&)>& change) const {
    Request request = small_request();
    change(request);
    const Refusal found = refusal_of([&] { pipeline.generate(request); });
    INFO("expected ", error, ": ", message);
    CHECK(found.error == error);
    CHECK_MESSAGE(found.message.find(message) != std::string::npos, "found: ", found.message);
    CHECK(one_line(found.message));
  }
};

}  // namespace

TEST_CASE("requests: what Python refuses is refused with the same error and in the same words") {
  const auto folder = golden_folder();
  if (!folder) return;
  const auto document = read_document(*folder / "refusals.json", "dit-deploy-refusals");
  std::map<std::string, Pipeline> pipelines;
  for (const auto& refused : document.at("refused")) {
    const auto& words = refused.at("request");
    const Options options = read_options(words);
    const std::string bundle = refused.at("bundle"), asked = words.dump();
    const std::string key = bundle + " " + options.engine + " " + options.vae_memory.value_or("no limit");
    CAPTURE(asked);
    const Refusal found = refusal_of([&] {
      auto pipeline = pipelines.find(key);
      if (pipeline == pipelines.end()) {
        pipeline = pipelines.emplace(key, Pipeline::open(*folder / bundle, options)).first;
      }
      pipeline->second.generate(read_refused(words));
    });
    CHECK(found.error == refused.at("error").get<std::string>());
    CHECK(comparable(found.message) == comparable(refused.at("message").get<std::string>()));
    CHECK(one_line(found.message));
  }
  CHECK(document.at("refused").size() > 50);
}

TEST_CASE("requests: conditions of a wrong name, type, shape or range") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  const auto with = [](const char* name, Tensor tensor) {
    return [=](Request& request) {
      request.class_labels.clear();
      request.conditions[name] = tensor;
    };
  };
  using Longs = std::vector<std::int64_t>;
  demo->check_refused("InputError", "'encoder_hidden_states' came, this bundle's denoiser takes class_labels",
                      with("encoder_hidden_states", Tensor::of({1, 2}, std::vector<float>{0, 0})));
  demo->check_refused("InputError", "'latents' came", with("latents", Tensor::of({1}, Longs{1})));
  demo->check_refused("InputError", "class_labels: dtype is float32, expected int64",
                      with("class_labels", Tensor::of({1}, std::vector<float>{1})));
  demo->check_refused("InputError", "class_labels: dtype is int32, expected int64",
                      with("class_labels", Tensor::of({1}, std::vector<std::int32_t>{1})));
  demo->check_refused("InputError", "class_labels: shape is [1, 1] with 2 axes, expected 1: [batch]",
                      with("class_labels", Tensor::of({1, 1}, Longs{1})));
  demo->check_refused("InputError", "class_labels: shape is [] with 0 axes",
                      with("class_labels", Tensor::of({}, Longs{1})));
  demo->check_refused("InputError", "class_labels: axis 0 is 0", with("class_labels", Tensor::of({0}, Longs{})));
  demo->check_refused("InputError", "class_labels: axis 0 is -1", with("class_labels", Tensor::of({-1}, Longs{})));
  demo->check_refused("InputError", "class_labels: ", with("class_labels", Tensor::of({2}, Longs{1})));
  demo->check_refused("InputError",
                      "class_labels: ", with("class_labels", Tensor::of({std::int64_t{1} << 62}, Longs{1, 2, 3, 4})));
  demo->check_refused("InputError", "class_labels: 99 is outside 0 … 10",
                      with("class_labels", Tensor::of({1}, Longs{99})));
  demo->check_refused("InputError", "class_labels: came twice",
                      [](Request& request) { request.conditions["class_labels"] = Tensor::of({1}, Longs{1}); });
  demo->check_refused("InputError", "class_labels: 99 is outside 0 … 10",
                      [](Request& request) { request.unconditional["class_labels"] = Tensor::of({1}, Longs{99}); });
  demo->check_refused("InputError", "unconditional: 'nothing' came",
                      [](Request& request) { request.unconditional["nothing"] = Tensor::of({1}, Longs{1}); });
  demo->check_refused("InputError", "class_labels: ", [](Request& request) {  // another batch than the labels'
    request.unconditional["class_labels"] = Tensor::of({2}, Longs{1, 1});
  });
  demo->check_still_draws();
}

TEST_CASE("requests: labels as a tensor draw the same picture, and another null class another") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  Request request = small_request();
  request.class_labels.clear();
  request.conditions["class_labels"] = Tensor::of({1}, std::vector<std::int64_t>{1});
  CHECK(demo->pipeline.generate(request).latents.values == demo->before);
  request.unconditional["class_labels"] = Tensor::of({1}, std::vector<std::int64_t>{10});
  CHECK(demo->pipeline.generate(request).latents.values == demo->before);
  request.unconditional["class_labels"] = Tensor::of({1}, std::vector<std::int64_t>{3});
  CHECK(demo->pipeline.generate(request).latents.values != demo->before);
}

TEST_CASE("requests: what this bundle has no use for, and sizes that no machine has") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  demo->check_refused("InputError", "prompt: this bundle has no text encoder",
                      [](Request& request) { request.prompt = {"a boot"}; });
  demo->check_refused("InputError", "negative_prompt: came without a prompt; give prompt too, or leave it out",
                      [](Request& request) { request.negative_prompt = {"a boot"}; });
  demo->check_refused("InputError", "num_images_per_prompt: 0 came, an integer of 1 or more was expected",
                      [](Request& request) { request.num_images_per_prompt = 0; });
  demo->check_refused("InputError", "num_images_per_prompt: 2 came without a prompt",
                      [](Request& request) { request.num_images_per_prompt = 2; });
  demo->check_refused("InputError", "true_cfg_scale: this bundle's guidance is classifier-free",
                      [](Request& request) { request.true_cfg_scale = 2; });
  demo->check_refused("InputError", "skip_guidance_layers: no blocks of this bundle's denoiser can be left out",
                      [](Request& request) { request.skip_guidance_layers = {1}; });
  for (const std::int64_t tile : {std::int64_t{0}, std::int64_t{-16}, std::int64_t{8}, std::int64_t{20}, INT64_MAX}) {
    demo->check_refused("InputError", "vae_tile: " + std::to_string(tile) + " came, expected a multiple of 16 pixels",
                        [=](Request& request) { request.vae_tile = tile; });
  }
  demo->check_refused("InputError", "num_frames: 9 came", [](Request& request) { request.num_frames = 9; });
  demo->check_refused("InputError", "num_frames: -1 came", [](Request& request) { request.num_frames = -1; });
  for (const std::int64_t size : {std::int64_t{1} << 40, std::int64_t{1} << 62, INT64_MAX, INT64_MAX - 7, INT64_MIN}) {
    CAPTURE(size);
    demo->check_refused("InputError", "height: ", [=](Request& request) { request.height = size; });
    demo->check_refused("InputError", "width: ", [=](Request& request) { request.width = size; });
  }
  demo->check_refused("InputError",
                      "num_inference_steps: ", [](Request& request) { request.num_inference_steps = INT64_MAX; });
  demo->check_refused("InputError",
                      "num_inference_steps: ", [](Request& request) { request.num_inference_steps = INT64_MIN; });
  demo->check_refused("InputError",
                      "guidance channels: ", [](Request& request) { request.guidance_channels = INT64_MAX; });
  demo->check_refused("InputError", "class_labels: ", [](Request& request) { request.class_labels = {INT64_MIN}; });
  demo->check_still_draws();
}

TEST_CASE("requests: noise and pictures that are not what they say") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  const auto noise = [](std::vector<std::int64_t> shape, std::size_t count) {
    return [=](Request& request) { request.noise = Array{shape, std::vector<float>(count)}; };
  };
  demo->check_refused("InputError", "noise: ", noise({1, 4, 8, 8}, 255));
  demo->check_refused("InputError", "noise: ", noise({1, 4, 8, 8}, 0));
  demo->check_refused("InputError", "noise: ", noise({}, 0));
  demo->check_refused("InputError", "noise: ", noise({-1, -4, 8, 8}, 256));
  demo->check_refused("InputError", "noise: ", noise({std::int64_t{1} << 62, 4, 8, 8}, 256));

  const auto image = [](Picture picture) { return [=](Request& request) { request.image = {picture}; }; };
  Picture picture = black(32, 32);
  picture.pixels.pop_back();
  demo->check_refused("InputError", "image: 3071 bytes of pixels came, expected 3072", image(picture));
  picture = black(32, 32);
  picture.channels = 5;
  demo->check_refused("InputError", "image: 5 channels came", image(picture));
  picture.channels = 0;
  demo->check_refused("InputError", "image: 0 channels came", image(picture));
  picture.channels = -1;
  demo->check_refused("InputError", "image: -1 channels came", image(picture));
  demo->check_refused("InputError", "image: ", image(black(0, 32)));
  demo->check_refused("InputError", "image: ", image(Picture{-32, -32, 3, std::vector<std::uint8_t>(3072)}));
  const std::int64_t huge = std::int64_t{1} << 40;
  demo->check_refused("InputError", "image: ", image(Picture{huge, huge, 3, {}}));
  demo->check_refused("InputError", "image: ", image(Picture{INT64_MAX, INT64_MAX, 4, {}}));
  demo->check_refused("InputError", "image: 4×32 pixels came, at least 8×8 expected", image(black(32, 4)));
  demo->check_still_draws();
}

TEST_CASE("requests: schedulers as text") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  const auto scheduler = [](std::string text) { return [=](Request& request) { request.scheduler = text; }; };
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  for (const std::string& text :
       {std::string("{"), std::string("{}"), std::string("[]"), std::string("{\"_class_name\": 5}"),
        std::string("{\"_class_name\": \"DDIMScheduler\", \"beta_start\": 1e999}"), std::string("\xff\xfe"),
        std::string("a\nb"), std::string(100000, 'x'), deep, "{\"a\":" + deep, std::string("null"),
        std::string(1, '\0')}) {
    INFO(text.substr(0, 60));
    demo->check_refused("InputError", "", scheduler(text));
  }
  Request request = small_request();
  request.scheduler = R"({"_class_name": "DDIMScheduler"})";
  CHECK_NOTHROW(demo->pipeline.generate(request));  // what it predicts is epsilon by default
  demo->check_still_draws();
}

TEST_CASE("requests: a callback sees every step, can cancel, and may throw") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  Request request = small_request();
  request.num_inference_steps = 4;
  request.scheduler = "heun";  // two rows a step
  std::vector<std::int64_t> seen;
  std::vector<float> last;
  request.callback = [&](const Step& step) {
    seen.push_back(step.index);
    CHECK(step.count == 4);
    last.assign(step.latents, step.latents + 4 * 8 * 8);
    return true;
  };
  CHECK(demo->pipeline.generate(request).latents.values == last);
  CHECK(seen == std::vector<std::int64_t>{0, 1, 2, 3});

  request.callback = [](const Step& step) { return step.index < 1; };
  const Refusal cancelled = refusal_of([&] { demo->pipeline.generate(request); });
  CHECK(cancelled.error == "Cancelled");
  CHECK(cancelled.message == "the callback cancelled after step 2 of 4");

  struct Own {};  // the caller's own exception comes back as it is
  request.callback = [](const Step&) -> bool { throw Own{}; };
  CHECK_THROWS_AS(demo->pipeline.generate(request), Own);
  demo->check_still_draws();
}

TEST_CASE("requests: a random seed is said, and repeats the picture") {
  const Demo* demo = Demo::get();
  if (demo == nullptr) return;
  Request request = small_request();
  request.seed.clear();
  const Result first = demo->pipeline.generate(request);
  REQUIRE(first.seed.size() == 1);
  const Result other = demo->pipeline.generate(request);
  CHECK(other.seed != first.seed);
  CHECK(other.latents.values != first.latents.values);
  request.seed = first.seed;
  CHECK(demo->pipeline.generate(request).latents.values == first.latents.values);
}

TEST_CASE("requests: a bundle that is not there, and options that are none") {
  const auto folder = golden_folder();
  if (!folder) return;
  CHECK(refusal_of([] { Pipeline::open("no-such-bundle"); }).error == "BundleError");
  CHECK(refusal_of([] { Pipeline::open(""); }).error == "BundleError");
  Options options;
  options.threads = -1;
  const Refusal threads = refusal_of([&] { Pipeline::open(*folder / "bundles" / "fashion", options); });
  CHECK(threads.error == "InputError");
  CHECK(threads.message.find("threads: -1 came") == 0);
}
