// Engine record version 1, as read from engines/NAME/engine.json; dit_deploy/bundle/engine.py is its declaration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// What an engine calls the solver graph among its components.
inline constexpr char kSolver[] = "solver";

struct SizeRange {
  std::int64_t minimum = 1, optimum = 1, maximum = 1;
};

struct Profile {
  std::map<std::string, SizeRange> sizes;
  bool holds(const Sizes& sizes) const;
  double distance(const Sizes& sizes) const;
};

struct EngineComponent {
  std::string path;
  std::string kind;   // onnx, tensorrt
  std::string graph;  // graph_digest of the graph that it was built from
  std::vector<Profile> profiles;
};

struct Target {
  std::string device;  // cpu, cuda
  std::optional<std::string> provider;
  std::vector<std::string> compute_capabilities;  // "8.9"
  std::optional<std::string> operators;           // cpu_ops
};

struct EngineRecord {
  std::string name, created_by, created, backend, backend_version, precision;
  Target target;
  std::map<std::string, EngineComponent> components;
  std::string key;
  std::map<std::string, std::string> key_parts;
  std::map<std::string, FileRecord> files;
  std::optional<bool> parity_passed;  // parity.passed, where it was measured
  // of options, which is free JSON: those that a runtime looks at
  bool version_compatible = false, strip_weights = false;
};

// Returns the record that the bytes of engine.json hold, with every check that Python makes. `name` is the file, for
// messages. Throws BundleError.
EngineRecord parse_engine(std::string_view data, const std::string& name);

// Up to 100 letters, digits, . _ -
bool is_engine_name(std::string_view name);
// SHA-256 over the parts as canonical JSON.
std::string engine_key(const std::map<std::string, std::string>& key_parts);
// SHA-256 that names a component's graph with its weights; see graph_digest in dit_deploy/bundle/engine.py.
// Throws InputError where there is no such component.
std::string graph_digest(const Manifest& manifest, const std::string& component);

// The index of the profile to run `sizes` with. Throws InputError that lists what each profile holds.
std::size_t select_profile(const std::vector<Profile>& profiles, const Sizes& sizes);

// The declaration of the solver graph for a manifest's latents; see dit_deploy/bundle/solver.py.
Component solver_component(const Manifest& manifest, const std::string& path = "solver.onnx");

}  // namespace dit_deploy::bundle
