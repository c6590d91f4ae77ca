// Opens the engines of a bundle: what their records say is held against the files, and against the bundle's graphs;
// dit_deploy/bundle/_engines.py.
#include <algorithm>

#include "bundle/files.h"
#include "bundle/integrity.h"
#include "bundle/reader.h"
#include "bundle/references.h"
#include "bundle/stable.h"
#include "text.h"

namespace dit_deploy::bundle {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kLimit = std::uint64_t{16} << 20;
constexpr char kMend[] = "build it again";

Engine load_engine(const fs::path& root, const Manifest& manifest, const fs::path& path, const std::string& name) {
  const fs::path real = resolve(path);
  if (!is_below(real, resolve(root)))
    throw BundleError(shown(path) + " is a link that leaves the bundle, to " + shown(real) + "; " + kMend);
  EngineRecord record = read_engine_record(path);
  if (record.name != name)
    throw BundleError(shown(path / kEngineRecord) + " is of an engine called " + quoted(record.name) +
                      "; rename the folder back, or " + kMend);
  for (const auto& [relative, recorded] : record.files) {
    const std::int64_t size = size_of(file_inside(path, relative, "engine", kMend));
    if (size != recorded.size)
      throw IntegrityError(shown(below(path, relative)) + " has " + std::to_string(size) + " bytes, but " +
                           kEngineRecord + " says " + std::to_string(recorded.size) + "; copy the engine again, or " +
                           kMend);
  }
  for (const auto& [relative, recorded] : record.files) {
    const bool graph = relative.size() >= 5 && relative.compare(relative.size() - 5, 5, ".onnx") == 0;
    if (graph) check_references(path, relative, record.files, "engine", kEngineRecord);
  }
  for (const auto& [component, built] : record.components) {
    if (manifest.component(component) == nullptr && component != kSolver)
      throw BundleError(shown(path) + " has a component " + quoted(component) + ", which the bundle does not have; " +
                        kMend);
    if (built.graph != graph_digest(manifest, component))
      throw BundleError("engine " + name + " was built from another graph of " + component + " (exported since); " +
                        kMend + ", in " + shown(root));
  }
  return Engine(path, std::move(record));
}

}  // namespace

EngineRecord read_engine_record(const fs::path& path) {
  const fs::path file = file_inside(path, kEngineRecord, "engine", kMend);
  return parse_engine(read_limited(file, kLimit), shown(file));
}

std::vector<std::string> engine_names(const fs::path& root) {
  const fs::path folder = root / "engines";
  std::error_code error;
  std::vector<std::string> names = names_in(folder, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) return {};
  if (error) throw BundleError(shown(folder) + " cannot be listed: " + error.message());
  const auto is_none = [&](const std::string& name) {
    return name[0] == '.' || !fs::is_regular_file(below(folder, name) / kEngineRecord, error);
  };
  names.erase(std::remove_if(names.begin(), names.end(), is_none), names.end());
  return names;
}

Engine open_engine(const fs::path& root, const Manifest& manifest, const std::string& name) {
  const fs::path folder = root / "engines";
  if (!is_engine_name(name) || !exists_itself(below(folder, name))) {
    std::string known;
    for (const std::string& one : engine_names(root)) known += (known.empty() ? "" : ", ") + printable(one);
    throw BundleError(shown(root) + " has no engine " + quoted(name) + "; it has " +
                      (known.empty() ? "none; `dit-deploy build-engine` builds one" : known));
  }
  const fs::path path = below(folder, name);
  if (!exists_itself(path / kEngineRecord))
    throw BundleError(shown(path) + " is no finished engine, it has no " + kEngineRecord +
                      "; remove it, or build it again");
  return read_stable(path, [&] { return load_engine(root, manifest, path, name); });
}

Engine::Engine(fs::path path, EngineRecord record) : path_(std::move(path)), record_(std::move(record)) {}

fs::path Engine::file(const std::string& component) const {
  const auto found = record_.components.find(component);
  if (found != record_.components.end()) return recorded(found->second.path);
  std::vector<std::string> known;
  for (const auto& [name, built] : record_.components) known.push_back(name);
  throw BundleError(shown(path_) + " has no component " + quoted(component) + "; it has " + join(known));
}

fs::path Engine::recorded(const std::string& relative) const {
  if (record_.files.count(relative) == 0)
    throw BundleError(shown(path_) + ": " + kEngineRecord + " records no file " + quoted(relative));
  return file_inside(path_, relative, "engine", kMend);
}

void Engine::check(const std::string& component) const {
  file(component);
  const EngineComponent& artefact = record_.components.at(component);
  check_files({artefact.path});  // first, as it is read to know what it refers to
  if (artefact.kind != "onnx") return;
  const std::set<std::string> files = referenced_files(path_, artefact.path);
  check_files({files.begin(), files.end()});
}

void Engine::check_files(const std::vector<std::string>& files) const {
  const RecordName name{kEngineRecord, "build the engine again, or copy it again", path_.parent_path().parent_path()};
  for (const std::string& relative : files) check_sha256(recorded(relative), record_.files.at(relative), name);
}

}  // namespace dit_deploy::bundle
