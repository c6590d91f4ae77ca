// A bundle on disk whose manifest, paths, sizes and graph references have been checked.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bundle/engine.h"
#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// An engine of a bundle, checked as dit_deploy.bundle.Engine.
class Engine {
 public:
  Engine(std::filesystem::path path, EngineRecord record);

  const std::filesystem::path& path() const { return path_; }
  const EngineRecord& record() const { return record_; }
  const std::string& name() const { return record_.name; }

  // The artefact of a component, inside the engine's folder. Throws BundleError.
  std::filesystem::path file(const std::string& component) const;
  // A recorded file. Throws BundleError.
  std::filesystem::path recorded(const std::string& relative) const;
  // Holds the SHA-256 of every file that `component` runs from against the record, each file once a process.
  // Throws IntegrityError.
  void check(const std::string& component) const;
  // The same for given recorded files, by their paths in the engine's folder.
  void check_files(const std::vector<std::string>& files) const;

 private:
  std::filesystem::path path_;
  EngineRecord record_;
};

class Bundle {
 public:
  // Throws BundleError, IntegrityError.
  static Bundle open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

  // A recorded file, inside the bundle. Throws BundleError.
  std::filesystem::path file(const std::string& relative) const;
  // Throws BundleError that names the components that there are.
  const Component& component(const std::string& name) const;
  std::filesystem::path component_path(const std::string& name) const;
  // The diffusers scheduler config, an object with a string _class_name; infinite numbers may occur in it.
  nlohmann::json scheduler_config() const;

  // Holds the SHA-256 of a component's files against the manifest, each file once a process. Throws IntegrityError.
  void check(const std::string& component) const;
  // The same for one recorded file.
  void check_file(const std::string& relative) const;

  // Names of the finished engines, sorted.
  std::vector<std::string> engine_names() const;
  // Throws BundleError, IntegrityError.
  Engine engine(const std::string& name) const;

 private:
  Bundle(std::filesystem::path path, Manifest manifest);
  std::filesystem::path path_;
  Manifest manifest_;
};

// See dit_deploy::verify.
std::vector<std::string> verify(const std::filesystem::path& path);

}  // namespace dit_deploy::bundle
