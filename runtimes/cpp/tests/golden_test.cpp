// The whole pipeline against what the Python runtime drew (tests/runtimes/cpp/golden.py): noise, latents after each step,
// pictures; with the noise given, and from the seed.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "dit_deploy/pipeline.hpp"
#include "golden_files.h"
#include "safetensors.h"
#include "sampling/noise.h"

namespace fs = std::filesystem;
using namespace dit_deploy;
using namespace dit_deploy::tests;

namespace {

constexpr double kLatentsLimit = 1e-5, kPictureLimit = 1.0 / 255, kNoiseLimit = 1e-6;

// A folder of golden files: "golden.json" and one file a case.
struct GoldenSet {
  fs::path folder;
  fs::path bundle;
  std::vector<std::string> cases;
};

std::vector<GoldenSet> golden_sets(const fs::path& folder) {
  std::vector<fs::path> places;
  if (fs::exists(folder / "golden.json")) places.push_back(folder);
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (fs::exists(entry.path() / "golden.json")) places.push_back(entry.path());
    }
  }
  if (places.empty()) read_document(folder / "golden.json", "dit-deploy-golden");  // says what is missing
  std::sort(places.begin(), places.end());
  std::vector<GoldenSet> sets;
  for (const fs::path& place : places) {
    const auto document = read_document(place / "golden.json", "dit-deploy-golden");
    GoldenSet set{place, place / document.at("bundle").get<std::string>(), document.at("cases")};
    std::ifstream recorded(set.bundle / "manifest.json.sha256");
    std::string digest;
    recorded >> digest;
    INFO(place.string(), " was written from another bundle; write it again by `", kGoldenCommand, "`");
    REQUIRE(digest == document.at("digest").get<std::string>());
    sets.push_back(std::move(set));
  }
  return sets;
}

struct Golden {
  SafeTensors file;
  Request request;
  Options options;
  std::vector<std::string> warnings;
};

// The pictures of an argument: "image.0", "image.1", …
std::vector<Picture> pictures_of(const SafeTensors& file, const std::string& name) {
  std::vector<Picture> pictures;
  for (std::size_t i = 0; file.has(name + "." + std::to_string(i)); ++i) {
    const SafeTensor& one = file.at(name + "." + std::to_string(i));
    pictures.push_back({one.shape.at(0), one.shape.at(1), one.shape.at(2), one.values<std::uint8_t>()});
  }
  return pictures;
}

Golden read_golden(const fs::path& path) {
  Golden golden{read_safetensors(path), {}, {}, {}};
  const auto& metadata = golden.file.metadata;
  REQUIRE(metadata.at("format") == "dit-deploy-golden");
  REQUIRE(metadata.at("version") == std::to_string(kGoldenVersion));
  const auto words = nlohmann::json::parse(metadata.at("request"));
  golden.request = read_request(words);
  golden.options = read_options(words);
  golden.warnings = nlohmann::json::parse(metadata.at("warnings")).get<std::vector<std::string>>();
  golden.request.image = pictures_of(golden.file, "image");
  golden.request.last_image = pictures_of(golden.file, "last_image");
  golden.request.video = pictures_of(golden.file, "video");
  return golden;
}

template <typename Value>
double largest_difference(const Value* found, const Value* expected, std::size_t count) {
  double largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double difference = std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    if (!(difference <= largest)) largest = difference;  // NaN counts, too
  }
  return largest;
}

struct Differences {
  double latents = 0, picture = 0;
};

// Holds pictures, or the frames of videos, against bytes [batch, (frames,) height, width, channels].
void hold_pictures(const Result& result, const SafeTensor& pictures) {
  const auto bytes = pictures.values<std::uint8_t>();
  std::vector<Picture> drawn = result.images;
  const bool video = pictures.shape.size() == 5;
  REQUIRE(static_cast<std::int64_t>(video ? result.frames.size() : drawn.size()) == pictures.shape.at(0));
  for (const auto& frames : result.frames) {
    REQUIRE(static_cast<std::int64_t>(frames.size()) == pictures.shape.at(1));
    drawn.insert(drawn.end(), frames.begin(), frames.end());
  }
  const std::size_t each = bytes.size() / drawn.size();
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    const Picture& picture = drawn[i];
    const std::vector<std::int64_t> sides{picture.height, picture.width, picture.channels};
    REQUIRE(std::equal(sides.begin(), sides.end(), pictures.shape.end() - 3));
    REQUIRE(picture.pixels.size() == each);
    CHECK(largest_difference(picture.pixels.data(), bytes.data() + i * each, each) <= 1);
  }
}

// Draws a case and holds each step against the tensors of `prefix`; then, as `output` says, the pictures or the array.
Differences draw_again(const Pipeline& pipeline, Request request, const Golden& golden, std::string prefix,
                       OutputType output) {
  const SafeTensors& file = golden.file;
  if (!file.has(prefix + "latents")) prefix.clear();  // the run does not differ from the other
  const SafeTensor& steps = file.at(prefix + "latents");
  const std::vector<float> expected = steps.values<float>();
  const auto count = static_cast<std::size_t>(steps.shape.at(0)), size = expected.size() / count;
  const std::vector<std::int64_t> shape(steps.shape.begin() + 1, steps.shape.end());
  Differences found;
  std::size_t seen = 0;
  request.callback = [&](const Step& step) {
    REQUIRE(static_cast<std::size_t>(step.index) == seen);
    REQUIRE(static_cast<std::size_t>(step.count) == count);
    REQUIRE(step.shape == shape);
    const double difference = largest_difference(step.latents, expected.data() + seen * size, size);
    INFO("after step ", seen + 1, " of ", count, ": latents differ by ", difference);
    CHECK(difference <= kLatentsLimit);
    found.latents = std::max(found.latents, difference);
    ++seen;
    return true;
  };

  request.output_type = file.has("array") ? output : OutputType::latent;
  const Result result = pipeline.generate(request);
  REQUIRE(seen == count);
  CHECK(result.warnings == golden.warnings);
  REQUIRE(result.latents.shape == shape);
  CHECK(result.seed == request.seed);
  const std::vector<float> kept = file.has(prefix + "final")
                                      ? file.at(prefix + "final").values<float>()
                                      : std::vector<float>(expected.end() - std::ptrdiff_t(size), expected.end());
  CHECK(largest_difference(result.latents.values.data(), kept.data(), size) <= kLatentsLimit);
  if (!file.has("array")) {
    CHECK(result.images.empty());
    CHECK(result.frames.empty());
    CHECK(result.array.values.empty());
    return found;
  }
  if (output == OutputType::picture) {
    hold_pictures(result, file.at(prefix + "pictures"));
    return found;
  }
  const SafeTensor& array = file.at(prefix + "array");
  REQUIRE(result.array.shape == array.shape);
  const auto floats = array.values<float>();
  found.picture = largest_difference(result.array.values.data(), floats.data(), floats.size());
  CHECK(found.picture <= kPictureLimit);
  return found;
}

// The first draw from the request's seeds; a run that starts from pictures draws their posterior before.
std::vector<float> first_draw(const Golden& golden, std::size_t batch, std::size_t each) {
  sampling::NoiseSource source(golden.request.seed);
  std::vector<float> noise(batch * each);
  if (!golden.request.image.empty()) {
    source.draw(noise.data(), source.shared() ? golden.request.image.size() : batch, each);
  }
  source.draw(noise.data(), batch, each);
  return noise;
}

// Calls `check(pipeline, golden)` for every case of every set.
template <typename Check>
void for_each_case(Check&& check) {
  const auto folder = golden_folder();
  if (!folder) return;
  for (const GoldenSet& set : golden_sets(*folder)) {
    std::map<std::string, Pipeline> pipelines;
    for (const std::string& name : set.cases) {
      const Golden golden = read_golden(set.folder / (name + ".safetensors"));
      const std::string& engine = golden.options.engine;
      auto pipeline = pipelines.find(engine);
      if (pipeline == pipelines.end()) {
        pipeline = pipelines.emplace(engine, Pipeline::open(set.bundle, golden.options)).first;
      }
      const std::string what = set.folder.filename().string() + "/" + name;
      CAPTURE(what);
      check(pipeline->second, golden, what);
    }
  }
}

}  // namespace

TEST_CASE("golden files: with the noise given, each step and the pictures are Python's") {
  for_each_case([](const Pipeline& pipeline, const Golden& golden, const std::string& what) {
    Request request = golden.request;
    const SafeTensor& noise = golden.file.at("noise");
    request.noise = Array{noise.shape, noise.values<float>()};
    const Differences found = draw_again(pipeline, request, golden, "given.", OutputType::picture);
    MESSAGE(what, ": largest difference of latents ", found.latents);
  });
}

TEST_CASE("golden files: from the seed, noise, each step and the pictures are Python's") {
  for_each_case([](const Pipeline& pipeline, const Golden& golden, const std::string& what) {
    const SafeTensor& noise = golden.file.at("noise");
    const auto expected = noise.values<float>();
    const auto batch = static_cast<std::size_t>(noise.shape.at(0));
    double difference = 0;
    if (noise.shape.size() == 4) {  // what videos draw before, and in which order, is the model's own
      const std::vector<float> drawn = first_draw(golden, batch, expected.size() / batch);
      difference = largest_difference(drawn.data(), expected.data(), expected.size());
    }
    CHECK(difference <= kNoiseLimit);
    const Differences found = draw_again(pipeline, golden.request, golden, "", OutputType::array);
    MESSAGE(what, ": largest difference of noise ", difference, ", of latents ", found.latents, ", of pictures ",
            found.picture * 255, "/255");
  });
}

TEST_CASE("golden files: absence and another version name the script") {
  const fs::path folder = fs::temp_directory_path() / "dit-deploy-golden-test";
  fs::remove_all(folder);
  CHECK_THROWS_WITH_AS(golden_sets(folder), doctest::Contains("tests/runtimes/cpp/golden.py"), std::runtime_error);
  fs::create_directories(folder);
  std::ofstream(folder / "golden.json") << R"({"format": "dit-deploy-golden", "version": 999})";
  CHECK_THROWS_WITH_AS(golden_sets(folder), doctest::Contains("version 999, expected dit-deploy-golden version"),
                       std::runtime_error);
  fs::remove_all(folder);
}
