// A bundle as small as one can be, written into a folder of the test's own, and ways to break it.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "bundle/sha256.h"
#include "dit_deploy/errors.hpp"

namespace dit_deploy::bundle::testing {

namespace fs = std::filesystem;
using Document = nlohmann::ordered_json;

// A folder that goes with the object.
class Folder {
 public:
  Folder() {
    static std::atomic<int> count{0};
    const std::string name = "dit_deploy_test_" + std::to_string(reinterpret_cast<std::uintptr_t>(&count)) + "_";
    do {
      path_ = fs::temp_directory_path() / (name + std::to_string(count++));
    } while (!fs::create_directories(path_));
    path_ = fs::canonical(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline void write(const fs::path& path, const std::string& data) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << data;
}

inline std::string varint(std::uint64_t value) {
  std::string out;
  for (; value > 127; value >>= 7) out += static_cast<char>((value & 127) | 128);
  return out + static_cast<char>(value);
}
// A protobuf field that holds bytes, and one that holds a number.
inline std::string field(unsigned number, const std::string& data) {
  return varint(number << 3 | 2) + varint(data.size()) + data;
}
inline std::string field(unsigned number, std::uint64_t value) { return varint(number << 3) + varint(value); }

// A tensor that is kept outside, with these entries.
inline std::string outside(const std::map<std::string, std::string>& entries) {
  std::string out = field(8, std::string("weight")) + field(14, std::uint64_t{1});
  for (const auto& [key, value] : entries) out += field(13, field(1, key) + field(2, value));
  return out;
}
// A model whose graph has the tensor among its initializers.
inline std::string model(const std::string& tensor) { return field(7, field(5, tensor)); }
inline std::string plain_model() { return model(field(8, std::string("weight")) + field(9, std::string(16, 'w'))); }
// A model of one EPContext node.
inline std::string context_model(std::uint64_t embed_mode, const std::string& context) {
  const std::string mode = field(1, std::string("embed_mode")) + field(3, embed_mode);
  const std::string cache = field(1, std::string("ep_cache_context")) + field(4, context);
  return field(7, field(1, field(4, std::string("EPContext")) + field(5, mode) + field(5, cache)));
}

inline Document tiny_manifest() {
  return Document::parse(R"({
    "format": "dit-deploy-bundle", "version": 1, "created_by": "tests", "family": "dit",
    "source": {"kind": "test", "name": "tiny",
               "sha256": "0000000000000000000000000000000000000000000000000000000000000000"},
    "latents": {"channels": 4, "height": 8, "width": 8, "patch_size": 2, "spatial_compression": 8,
                "scaling_factor": 0.18215},
    "components": {
      "denoiser": {
        "path": "denoiser/model.onnx",
        "inputs": [
          {"name": "latents", "dtype": "float32", "axes": [{"name": "batch"}, 4,
            {"name": "patch_height", "multiple": 2}, {"name": "patch_width", "multiple": 2, "maximum": 64}]},
          {"name": "timestep", "dtype": "float32", "axes": [{"name": "batch"}]},
          {"name": "class_labels", "dtype": "int64", "axes": [{"name": "batch"}], "minimum": 0, "maximum": 1000}],
        "outputs": [
          {"name": "prediction", "dtype": "float32", "axes": [{"name": "batch"}, 4,
            {"name": "patch_height", "multiple": 2}, {"name": "patch_width", "multiple": 2, "maximum": 64}]}]},
      "vae_decoder": {
        "path": "vae_decoder/model.onnx",
        "inputs": [{"name": "latents", "dtype": "float32",
          "axes": [{"name": "batch"}, 4, {"name": "latent_height"}, {"name": "latent_width"}]}],
        "outputs": [{"name": "images", "dtype": "float32", "minimum": -1, "maximum": 1, "axes": [{"name": "batch"}, 3,
          {"name": "latent_height", "multiple": 8}, {"name": "latent_width", "multiple": 8}]}]}},
    "prediction": {"type": "epsilon"},
    "guidance": {"kind": "classifier_free", "unconditional": {"class_labels": 1000}, "channels": 3,
                 "default_scale": 4.0},
    "labels": {"0": "tench", "1": "goldfish"},
    "files": {}})");
}

inline std::map<std::string, std::string> tiny_files() {
  return {{"denoiser/model.onnx", model(outside({{"location", "model.onnx.data"}, {"offset", "0"}, {"length", "16"}}))},
          {"denoiser/model.onnx.data", "0123456789abcdef"},
          {"vae_decoder/model.onnx", plain_model()},
          {"scheduler/scheduler_config.json", R"({"_class_name": "DDIMScheduler", "clip_sample_range": -Infinity})"}};
}

inline Document record_of(const std::map<std::string, std::string>& files) {
  Document out = Document::object();
  for (const auto& [path, data] : files) out[path] = {{"size", data.size()}, {"sha256", sha256(data)}};
  return out;
}

// Writes manifest.json with its digest.
inline void write_manifest(const fs::path& root, const Document& document) {
  const std::string data = document.dump();
  write(root / "manifest.json", data);
  write(root / "manifest.json.sha256", sha256(data) + "  manifest.json\n");
}

inline Document read_document(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return Document::parse(stream);
}

// Writes the tiny bundle.
inline void write_bundle(const fs::path& root) {
  const auto files = tiny_files();
  for (const auto& [path, data] : files) write(root / path, data);
  Document document = tiny_manifest();
  document["files"] = record_of(files);
  write_manifest(root, document);
}

// Writes an engine of the denoiser of the bundle at `root`; `graph` is the denoiser's digest.
inline void write_engine(const fs::path& root, const std::string& name, const std::string& graph) {
  const std::map<std::string, std::string> files{
      {"denoiser.onnx", model(outside({{"location", "denoiser.onnx.data"}}))},
      {"denoiser.onnx.data", "fedcba9876543210"}};
  for (const auto& [path, data] : files) write(root / "engines" / name / path, data);
  const Document document{
      {"format", "dit-deploy-engine"},
      {"version", 1},
      {"name", name},
      {"created_by", "tests"},
      {"created", "2026-11-25T21:40:00Z"},
      {"backend", "onnxruntime"},
      {"backend_version", "1.32.0"},
      {"precision", "int8"},
      {"target", {{"device", "cpu"}, {"provider", "CPUExecutionProvider"}}},
      {"components", {{"denoiser", {{"path", "denoiser.onnx"}, {"kind", "onnx"}, {"graph", graph}}}}},
      {"key", sha256(R"({"precision":"int8"})")},
      {"key_parts", {{"precision", "int8"}}},
      {"seconds", 1.5},
      {"parity", {{"passed", true}}},
      {"files", record_of(files)}};
  write(root / "engines" / name / "engine.json", document.dump());
}

// The message with which `act` throws an E; a failure where it does not.
template <typename E = BundleError, typename Act>
std::string refusal(Act&& act) {
  try {
    act();
  } catch (const E& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  FAIL("nothing was thrown");
  return "";
}

inline bool has(const std::string& text, const std::string& part) {
  INFO("in: ", text);
  return text.find(part) != std::string::npos;
}

}  // namespace dit_deploy::bundle::testing
