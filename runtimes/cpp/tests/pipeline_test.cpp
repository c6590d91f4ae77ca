// The pipeline's own promises: NaN is an error and never a picture, sizes follow the pictures, output types, options that
// change a picture only where they should.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "golden_files.h"
#include "pipeline_stubs.h"
#include "runtime/backends.h"
#include "runtime/drawing.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;

namespace {

std::optional<bundle::Bundle> demo() {
  const auto folder = golden_folder();
  if (!folder) return std::nullopt;
  return bundle::Bundle::open(*folder / "bundles" / "fashion");
}

Options plain_graphs() {
  Options options;
  options.engine = "onnx";
  options.threads = 1;  // the models are small, and other tests run beside
  return options;
}

Request small_request(std::vector<std::int64_t> labels = {1}) {
  Request request;
  request.class_labels = std::move(labels);
  request.num_inference_steps = 3;
  request.seed = {0};
  return request;
}

Picture gradient(std::int64_t height, std::int64_t width) {
  Picture picture{height, width, 3, {}};
  for (std::int64_t i = 0; i < height * width * 3; ++i) picture.pixels.push_back(static_cast<std::uint8_t>(i % 251));
  return picture;
}

double largest_difference(const std::vector<float>& one, const std::vector<float>& other) {
  REQUIRE(one.size() == other.size());
  double largest = 0;
  for (std::size_t i = 0; i < one.size(); ++i) largest = std::max(largest, std::abs(double{one[i]} - double{other[i]}));
  return largest;
}

}  // namespace

TEST_CASE("pipeline: what is not finite is an error that names where") {
  const auto bundle = demo();
  if (!bundle) return;
  struct Poisoned {
    const char *component, *output, *message;
  };
  for (const Poisoned& poisoned : {
           Poisoned{"denoiser", "prediction", "the latents hold NaN or infinite values after step 1 of 3"},
           Poisoned{"vae_decoder", "images", "the VAE decoder's pictures hold NaN or infinite values"},
           Poisoned{"vae_encoder", "mean", "the VAE encoder's mean holds NaN or infinite values"},
           Poisoned{"vae_encoder", "std", "the VAE encoder's std holds NaN or infinite values"},
       }) {
    CAPTURE(poisoned.component);
    runtime::Runners runners;
    runners[poisoned.component] =
        std::make_unique<PoisonedRunner>(runtime::open_onnxruntime(bundle->component_path(poisoned.component),
                                                                   bundle->component(poisoned.component), {}),
                                         poisoned.output);
    runtime::Drawing drawing(*bundle, plain_graphs(), std::move(runners));
    Request request = small_request();
    request.image = {gradient(32, 32)};
    request.strength = 1.0;
    CHECK_THROWS_WITH_AS(drawing.generate(request), doctest::Contains(poisoned.message), NotFiniteError);
  }
}

TEST_CASE("pipeline: each output type gives what it says") {
  const auto bundle = demo();
  if (!bundle) return;
  runtime::Drawing drawing(*bundle, plain_graphs());
  CHECK(drawing.engine() == "onnx");
  CHECK(drawing.pixel_multiple() == 8);
  Request request = small_request({1, 2, 3});
  const Result pictures = drawing.generate(request);
  REQUIRE(pictures.images.size() == 3);
  CHECK(pictures.array.values.empty());
  request.output_type = OutputType::array;
  const Result array = drawing.generate(request);
  CHECK(array.images.empty());
  REQUIRE(array.array.shape == std::vector<std::int64_t>{3, 32, 32, 3});
  const std::size_t each = 32 * 32 * 3;
  for (std::size_t i = 0; i < 3 * each; ++i) {
    const float value = array.array.values[i];
    REQUIRE(value >= 0);
    REQUIRE(value <= 1);
    REQUIRE(pictures.images[i / each].pixels[i % each] == static_cast<std::uint8_t>(std::nearbyint(value * 255)));
  }
  request.output_type = OutputType::latent;
  const Result latents = drawing.generate(request);
  CHECK(latents.images.empty());
  CHECK(latents.array.values.empty());
  CHECK(latents.latents.values == pictures.latents.values);
  CHECK(latents.seconds.at("vae_decoder") == 0);
  for (const char* part : {"denoiser", "vae_decoder", "total"}) CHECK(pictures.seconds.at(part) > 0);
  CHECK(pictures.seconds.at("total") > pictures.seconds.at("denoiser") + pictures.seconds.at("vae_decoder"));
}

TEST_CASE("pipeline: pictures set the size, and one or each sample has its own") {
  const auto bundle = demo();
  if (!bundle) return;
  runtime::Drawing drawing(*bundle, plain_graphs());
  Request request = small_request({1, 2});
  request.image = {gradient(50, 100)};
  Result result = drawing.generate(request);
  CHECK(result.images.at(0).height == 48);
  CHECK(result.images.at(0).width == 96);
  request.image = {gradient(50, 100), gradient(20, 20)};  // the first one's size
  result = drawing.generate(request);
  CHECK(result.images.at(1).width == 96);
  request.height = 32;
  request.width = 40;
  result = drawing.generate(request);
  CHECK(result.images.at(1).height == 32);
  CHECK(result.images.at(1).width == 40);
}

TEST_CASE("pipeline: guidance changes the picture only where it should") {
  const auto bundle = demo();
  if (!bundle) return;
  runtime::Drawing drawing(*bundle, plain_graphs());
  const auto latents = [&](auto change) {
    Request request = small_request();
    request.num_inference_steps = 6;
    change(request);
    return drawing.generate(request).latents.values;
  };
  const auto plain = latents([](Request&) {});
  CHECK(largest_difference(latents([](Request& r) { r.guidance_channels = 3; }), plain) > 1e-4);
  CHECK(largest_difference(latents([](Request& r) { r.guidance_interval = {0.0, 0.5}; }), plain) > 1e-4);
  CHECK(largest_difference(latents([](Request& r) { r.guidance_rescale = 0.7; }), plain) > 1e-4);
  CHECK(latents([](Request& r) { r.guidance_interval = {0.0, 1.0}; }) == plain);
  CHECK(latents([](Request& r) { r.guidance_channels = 0; }) == plain);
  CHECK(largest_difference(latents([](Request& r) { r.guidance_batched = false; }), plain) <= 1e-5);
  const auto without = latents([](Request& r) { r.guidance_scale = 1.0; });
  CHECK(largest_difference(latents([](Request& r) { r.guidance_interval = {1.0, 1.0}; }), without) == 0);
}

TEST_CASE("pipeline: the VAE keeps to its memory, and a request's own pieces have the last word") {
  const auto bundle = demo();
  if (!bundle) return;
  Request request = small_request({1, 2});
  request.height = 128;
  request.width = 96;
  request.output_type = OutputType::array;
  const auto drawn = [&](std::optional<std::string> vae_memory, std::optional<std::int64_t> vae_tile) {
    Options options = plain_graphs();
    options.vae_memory = std::move(vae_memory);
    request.vae_tile = vae_tile;
    return runtime::Drawing(*bundle, options).generate(request).array.values;
  };
  // The demo's decoder takes 1.1 MB for a piece of 8 latent pixels, and 4.2 MB for one of 16.
  const auto whole = drawn(std::nullopt, std::nullopt), pieces = drawn(std::nullopt, 32);
  CHECK(largest_difference(whole, pieces) > 1e-4);
  CHECK(drawn("1G", std::nullopt) == whole);
  CHECK(drawn("2M", std::nullopt) == pieces);
  CHECK(drawn("2M", 4096) == whole);
  CHECK_THROWS_WITH_AS(drawn("1k", std::nullopt), doctest::Contains("the smallest piece of this size needs "),
                       InputError);
  CHECK_THROWS_WITH_AS(drawn("2 apples", std::nullopt),
                       "vae_memory: '2 apples' came, expected bytes above 0, such as 2G or 512M", InputError);
  request.output_type = OutputType::latent;
  CHECK_NOTHROW(drawn("1k", std::nullopt));
}

TEST_CASE("pipeline: progress is told for each step and each piece, and what it throws ends the run") {
  const auto bundle = demo();
  if (!bundle) return;
  runtime::Drawing drawing(*bundle, plain_graphs());
  Request request = small_request({1, 2});
  request.scheduler = "heun";  // two rows a step
  request.height = 64;
  request.vae_tile = 32;
  std::vector<std::string> told;
  request.progress = [&](const char* what, std::int64_t done, std::int64_t total) {
    told.push_back(std::string(what) + " " + std::to_string(done) + "/" + std::to_string(total));
  };
  drawing.generate(request);
  CHECK(told == std::vector<std::string>{"denoising 1/3", "denoising 2/3", "denoising 3/3", "decoding 1/6",
                                         "decoding 2/6", "decoding 3/6", "decoding 4/6", "decoding 5/6",
                                         "decoding 6/6"});
  request.progress = [](const char*, std::int64_t, std::int64_t) { throw Cancelled("enough"); };
  CHECK_THROWS_WITH_AS(drawing.generate(request), "enough", Cancelled);
}

TEST_CASE("pipeline: a list of seeds is a generator for each picture") {
  const auto bundle = demo();
  if (!bundle) return;
  runtime::Drawing drawing(*bundle, plain_graphs());
  Request both = small_request({0, 6});
  both.seed = {1, (std::uint64_t{1} << 40) + 5};
  const auto together = drawing.generate(both).latents.values;
  Request alone = small_request({6});
  alone.seed = {(std::uint64_t{1} << 40) + 5};
  const auto second = drawing.generate(alone).latents.values;
  const std::vector<float> half(together.begin() + static_cast<std::ptrdiff_t>(second.size()), together.end());
  CHECK(largest_difference(half, second) <= 1e-5);
}
