#include "bundle/engine.h"

#include <functional>

#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

Document record() {
  const Folder folder;
  write_engine(folder.path(), "fast", std::string(64, '0'));
  return read_document(folder.path() / "engines/fast/engine.json");
}

TEST_CASE("a record is read whole") {
  Document document = record();
  document["options"] = {{"version_compatible", true}, {"strip_weights", 1}};
  document["components"]["denoiser"]["profiles"] = {
      {{"sizes", {{"batch", {{"minimum", 1}, {"optimum", 2}, {"maximum", 8}}}}}}};
  const EngineRecord engine = parse_engine(document.dump(), "e");
  CHECK(engine.name == "fast");
  CHECK(engine.target.provider == "CPUExecutionProvider");
  CHECK(engine.parity_passed == true);
  CHECK(engine.version_compatible);
  CHECK(engine.strip_weights);
  CHECK(engine.components.at("denoiser").profiles[0].sizes.at("batch").maximum == 8);
  document["parity"] = nullptr;
  CHECK_FALSE(parse_engine(document.dump(), "e").parity_passed.has_value());
}

TEST_CASE("what a record may not say") {
  using Change = std::function<void(Document&)>;
  const std::pair<Change, const char*> faults[] = {
      {[](Document& d) { d["format"] = "dit-deploy-bundle"; }, "e is no record of an engine: its format is not"},
      {[](Document& d) { d["version"] = 2; }, "this engine is version 2"},
      {[](Document& d) { d["name"] = "auto"; }, "name: 'auto' has a meaning of its own"},
      {[](Document& d) { d["name"] = "a/b"; }, "should match pattern '^[A-Za-z0-9_][A-Za-z0-9._-]*$'"},
      {[](Document& d) { d["created"] = "2026-11-25 21:40:00"; }, "created: string should match pattern"},
      {[](Document& d) { d["precision"] = "int4"; }, "input should be 'fp32', 'fp16', 'bf16', 'int8' or 'fp8'"},
      {[](Document& d) { d["seconds"] = -1; }, "seconds: input should be greater than or equal to 0, but got -1"},
      {[](Document& d) { d["components"] = Document::object(); }, "dictionary should have at least 1 item"},
      {[](Document& d) { d["files"] = Document::object(); }, "e: engine: denoiser.onnx is named but has no record"},
      {[](Document& d) { d["files"]["engine.json"] = {{"size", 1}, {"sha256", std::string(64, '0')}}; }, "itself"},
      {[](Document& d) { d["files"]["../x"] = {{"size", 1}, {"sha256", std::string(64, '0')}}; },
       "'../x' is not a plain"},
      {[](Document& d) { d["key_parts"]["precision"] = "fp16"; }, "key is not the SHA-256 over key_parts"},
      {[](Document& d) { d["parity"] = 1; }, "parity: input should be an object, but got 1"},
      {[](Document& d) { d["target"]["compute_capabilities"] = {"sm_89"}; }, "target.compute_capabilities.0: "},
      {[](Document& d) { d["target"]["operators"] = "more"; }, "input should be 'cpu_ops', but got 'more'"},
      {[](Document& d) { d["components"]["denoiser"]["kind"] = "tensorrt"; }, "kind tensorrt, but the backend is"},
      {[](Document& d) { d["components"]["denoiser"]["profiles"] = {{{"sizes", Document::object()}}}; }, "at least 1"},
      {[](Document& d) {
         d["components"]["denoiser"]["profiles"] = {
             {{"sizes", {{"batch", {{"minimum", 2}, {"optimum", 1}, {"maximum", 4}}}}}}};
       },
       "minimum 2, optimum 1, maximum 4 came, expected minimum ≤ optimum ≤ maximum"},
  };
  for (const auto& [change, message] : faults) {
    Document document = record();
    change(document);
    CHECK(has(refusal([&] { parse_engine(document.dump(), "e"); }), message));
  }
}

TEST_CASE("keys are over canonical JSON in ASCII") {
  CHECK(engine_key({}) == sha256("{}"));
  CHECK(engine_key({{"precision", "int8"}, {"backend", "x → y"}}) ==
        sha256(R"({"backend":"x \u2192 y","precision":"int8"})"));
  CHECK(engine_key({{"a", std::string("\0\x7f\n\"\\/\xf0\x9f\x98\x80", 10)}}) ==
        sha256(R"({"a":"\u0000\u007f\n\"\\/\ud83d\ude00"})"));
}

TEST_CASE("names of engines") {
  CHECK(is_engine_name("A1._-"));
  for (const std::string& name : {std::string(), std::string("."), std::string("a/b"), std::string("a\n"),
                                  std::string("-a"), std::string("é"), std::string(101, 'x')})
    CHECK_FALSE(is_engine_name(name));
}

TEST_CASE("the digest of a graph covers its folder and no other") {
  Manifest manifest;
  Component component;
  component.path = "denoiser/model.onnx";
  manifest.components = {{"denoiser", component}};
  manifest.files = {{"denoiser/a", {1, "x"}}, {"denoiser2/a", {1, "x"}}};
  CHECK(graph_digest(manifest, "denoiser") == sha256(R"([["denoiser/a",1,"x"]])"));
  CHECK(graph_digest(manifest, "solver") == sha256("[\"solver\",\"" + graph_digest(manifest, "denoiser") + "\"]"));
  manifest.components[0].second.path = "model.onnx";
  CHECK(graph_digest(manifest, "denoiser") == sha256(R"([["denoiser/a",1,"x"],["denoiser2/a",1,"x"]])"));
  CHECK(has(refusal<InputError>([&] { graph_digest(manifest, "vae"); }), "no component 'vae'"));
}

TEST_CASE("the profile whose optimum is nearest, the narrowest of equals") {
  const auto profile = [](std::int64_t low, std::int64_t best, std::int64_t high) {
    Profile made;
    made.sizes["batch"] = {low, best, high};
    return made;
  };
  const std::vector<Profile> profiles{profile(1, 2, 8), profile(1, 8, 8), profile(1, 2, 4), profile(16, 16, 16)};
  CHECK(select_profile(profiles, {{"batch", 2}}) == 2);
  CHECK(select_profile(profiles, {{"batch", 8}}) == 1);
  CHECK(select_profile(profiles, {{"batch", 16}, {"other", 1}}) == 3);
  CHECK(refusal<InputError>([&] { select_profile(profiles, {{"batch", 9}}); }) ==
        "no profile of this engine holds batch 9; it holds batch 1 … 8; or batch 1 … 8; or batch 1 … 4; or batch 16. "
        "Build an engine for these sizes");
  CHECK(has(refusal<InputError>([&] { select_profile({}, {}); }), "holds nothing; it holds no size at all"));
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
