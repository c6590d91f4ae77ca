#include "bundle/manifest.h"

#include <functional>

#include "bundle/engine.h"
#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

Document whole() {
  Document document = tiny_manifest();
  document["files"] = record_of(tiny_files());
  return document;
}

using Change = std::function<void(Document&)>;

std::string refused(const Change& change) {
  Document document = whole();
  change(document);
  return refusal([&] { parse_manifest(document.dump(), "m"); });
}

TEST_CASE("a manifest is read whole, with defaults") {
  const Manifest manifest = parse_manifest(whole().dump(), "m");
  CHECK(manifest.family == "dit");
  CHECK(manifest.latents.scaling_factor == 0.18215);
  CHECK(manifest.latents.temporal_compression == 1);
  CHECK(manifest.components[0].first == "denoiser");
  const Component& denoiser = *manifest.component("denoiser");
  CHECK(denoiser.weights == DType::float32);
  CHECK(denoiser.input("class_labels")->dtype == DType::int64);
  CHECK(denoiser.input("class_labels")->maximum == 1000.0);
  CHECK(std::get<Axis>(denoiser.output("prediction")->axes[3]).maximum == 64);
  CHECK(denoiser.output("variance") == nullptr);
  CHECK(manifest.component("text_encoder") == nullptr);
  CHECK(std::get<std::int64_t>(manifest.guidance.unconditional.at("class_labels")) == 1000);
  CHECK(manifest.scheduler.num_inference_steps == 50);
  CHECK(manifest.labels.at(1) == "goldfish");
  CHECK(manifest.files.at("denoiser/model.onnx.data").size == 16);
}

TEST_CASE("fields that are wrong") {
  const std::pair<Change, const char*> faults[] = {
      {[](Document& d) { d["format"] = "other"; },
       "m is no manifest of a bundle: its format is not 'dit-deploy-bundle'"},
      {[](Document& d) { d["version"] = 2; }, "this bundle is version 2; this dit-deploy reads version 1: upgrade"},
      {[](Document& d) { d["version"] = "1"; }, "m: version: expected 1, but got '1'"},
      {[](Document& d) { d["version"] = true; }, "version: expected 1, but got True"},
      {[](Document& d) { d.erase("version"); }, "version: expected 1, but got None"},
      {[](Document& d) { d["colour"] = 1; }, "m: colour: is not a known field"},
      {[](Document& d) { d.erase("family"); }, "m: family: is required, but missing"},
      {[](Document& d) { d["family"] = "Not a name"; },
       "should match pattern '^[a-z][a-z0-9_]*$', but got 'Not a name'"},
      {[](Document& d) { d["family"] = std::string(65, 'x'); }, "family: string should have at most 64 characters"},
      {[](Document& d) { d["latents"] = Document::object(); },
       "latents.channels: is required, but missing (and 4 more)"},
      {[](Document& d) { d["latents"]["channels"] = "4"; },
       "latents.channels: input should be a valid integer, but got '4'"},
      {[](Document& d) { d["latents"]["channels"] = 4.0; }, "valid integer, but got 4.0"},
      {[](Document& d) { d["latents"]["channels"] = true; }, "valid integer, but got True"},
      {[](Document& d) { d["latents"]["channels"] = 0; }, "greater than or equal to 1, but got 0"},
      {[](Document& d) { d["latents"]["height"] = std::uint64_t{1} << 63; }, "an integer below 2^63"},
      {[](Document& d) { d["latents"]["scaling_factor"] = "1"; }, "input should be a valid number, but got '1'"},
      {[](Document& d) { d["components"] = {1}; }, "components: input should be an object, but got [1]"},
      {[](Document& d) { d["components"].erase("denoiser"); },
       "m: manifest: components lack a denoiser: ['vae_decoder']"},
      {[](Document& d) { d["components"]["denoiser"]["path"] = "../../x"; }, "../../x is named but has no record"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][0]["axes"][1] = -3; },
       "components.denoiser.inputs.0.axes.1: "},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][0]["axes"][0]["multiple"] = 0; }, "axes.0.multiple: "},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][0]["axes"][3]["maximum"] = 0; }, "but got 0"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][1]["name"] = "latents"; }, "tensor names repeat"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"] = Document::array(); }, "at least 1 item"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][2]["maximum"] = -1; },
       "maximum -1.0 is below minimum 0.0"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][2]["dtype"] = "int8"; }, "'float32', 'float16', "},
      {[](Document& d) { d["files"]["../x"] = d["files"]["denoiser/model.onnx"]; },
       "'../x' is not a plain relative path"},
      {[](Document& d) { d["files"]["engines/x"] = d["files"]["denoiser/model.onnx"]; }, "has records of its own"},
      {[](Document& d) { d["files"]["denoiser/model.onnx"]["sha256"] = "x"; }, "files.denoiser/model.onnx.sha256: "},
      {[](Document& d) { d["files"]["denoiser/model.onnx"]["size"] = -1; }, "greater than or equal to 0"},
      {[](Document& d) { d["labels"]["01"] = "x"; }, "labels.01: string should match pattern"},
      {[](Document& d) { d["prediction"]["type"] = "noise"; }, "'sample' or 'flow_prediction', but got 'noise'"},
      {[](Document& d) { d["prediction"]["learned_range_variance"] = 1; }, "a valid boolean, but got 1"},
  };
  for (const auto& [change, message] : faults) CHECK(has(refused(change), message));
}

TEST_CASE("parts that do not fit together") {
  const std::pair<Change, const char*> faults[] = {
      {[](Document& d) { d["latents"]["channels"] = 16; }, "no [batch, 16, …, height, width]"},
      {[](Document& d) { d["latents"]["patch_size"] = 4; },
       "expected [batch, channels, 4·patch_height, 4·patch_width]"},
      {[](Document& d) { d["latents"]["spatial_compression"] = 4; }, "the vae_decoder's images has "},
      {[](Document& d) { d["prediction"]["learned_range_variance"] = true; }, "go together"},
      {[](Document& d) { d["guidance"]["unconditional"] = {{"prompt", 0}}; },
       "no condition of the denoiser: ['prompt']"},
      {[](Document& d) { d["guidance"]["unconditional"] = Document::object(); }, "conditions: ['class_labels']"},
      {[](Document& d) { d["guidance"]["unconditional"]["class_labels"] = 17.5; }, "17.5 came, expected an integer"},
      {[](Document& d) { d["guidance"]["unconditional"]["class_labels"] = 1001; }, "a value of the input's 0 … 1000"},
      {[](Document& d) { d["guidance"]["channels"] = 5; }, "guidance.channels 5 exceeds 4 channels"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"].erase(1); }, "the denoiser lacks ['timestep']"},
      {[](Document& d) { d["components"]["denoiser"]["inputs"][1]["axes"] = {1}; }, "timestep has [1], expected batch"},
      {[](Document& d) { d["components"]["denoiser"]["outputs"][0]["axes"][1] = 3; }, "expected the axes of latents"},
      {[](Document& d) { d["components"]["denoiser"]["outputs"][0]["axes"][1] = {{"name", "z"}}; },
       "of no input: ['z']"},
      {[](Document& d) { d["components"]["vae_decoder"]["outputs"][0]["name"] = "image"; },
       "gives ['image'], expected"},
      {[](Document& d) { d["components"]["vae_decoder"]["inputs"][0]["axes"][1] = 16; }, "expected 4 channels"},
  };
  for (const auto& [change, message] : faults) CHECK(has(refused(change), message));
}

TEST_CASE("the solver graph's declaration follows from the manifest") {
  Document document = whole();
  const Component solver = solver_component(parse_manifest(document.dump(), "m"));
  CHECK(solver.path == "solver.onnx");
  CHECK(solver.inputs.size() == 10);
  CHECK(solver.input("variance") == nullptr);
  CHECK(std::get<Axis>(solver.input("prediction")->axes[0]).name == "predictions");
  CHECK(solver.input("prediction")->axes.size() == 5);
  CHECK(solver.output("model_input")->axes.size() == 5);
  CHECK(std::get<std::int64_t>(solver.input("coefficients")->axes[0]) == 25);
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
