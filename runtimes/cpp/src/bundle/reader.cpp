#include "bundle/reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bundle/files.h"
#include "bundle/integrity.h"
#include "bundle/json.h"
#include "bundle/references.h"
#include "bundle/sha256.h"
#include "bundle/stable.h"
#include "text.h"

namespace dit_deploy::bundle {

namespace fs = std::filesystem;

namespace {

constexpr char kHow[] = "a bundle is a folder made by `dit-deploy export SOURCE BUNDLE`";
constexpr std::uint64_t kSchedulerLimit = std::uint64_t{1} << 20;
constexpr std::uint64_t kDigestLimit = std::uint64_t{1} << 12;

// Whether a writer calls a folder that is not in place so: .NAME.tmp-123-0abc or .NAME.old-123-0abc.
bool is_unfinished(const std::string& name) {
  const auto all = [](std::string_view text, std::string_view allowed) {
    return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
  };
  const std::size_t last = name.rfind('-');
  const std::size_t first = last == std::string::npos || last == 0 ? std::string::npos : name.rfind('-', last - 1);
  if (first == std::string::npos || first < 6 || name[0] != '.') return false;
  const std::string kind = name.substr(first - 4, 4);
  return (kind == ".tmp" || kind == ".old") && all(std::string_view(name).substr(last + 1), "0123456789abcdef") &&
         all(std::string_view(name).substr(first + 1, last - first - 1), "0123456789");
}

// What a folder without a manifest holds.
std::string contents(const fs::path& root) {
  std::error_code error;
  std::vector<std::string> names = names_in(root, error);
  if (error) throw BundleError("'" + shown(root) + "' cannot be opened: " + error.message());
  const auto holds = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  for (const auto& [name, kind] : {std::pair("model_index.json", "pipeline"), std::pair("config.json", "model")}) {
    if (holds(name))
      return std::string("it looks like a diffusers ") + kind + " (" + name + "); run `dit-deploy export " +
             shown(root) + " BUNDLE`";
  }
  if (names.empty()) return "it is empty";
  const std::string more = names.size() > 4 ? " and " + std::to_string(names.size() - 4) + " more" : "";
  names.resize(std::min<std::size_t>(names.size(), 4));
  for (std::string& name : names) name = printable(name);
  return "it holds " + join(names) + more + ", but no " + kManifest;
}

std::string manifest_bytes(const fs::path& root) {
  std::error_code error;
  const fs::file_status status = fs::status(root, error);
  if (status.type() == fs::file_type::none)
    throw BundleError("'" + shown(root) + "' cannot be opened: " + error.message());
  if (!fs::exists(status)) throw BundleError("there is no " + shown(root) + "; " + kHow);
  if (!fs::is_directory(status)) throw BundleError(shown(root) + " is a file; " + kHow);
  if (!exists_itself(root / kManifest))
    throw BundleError(shown(root) + " is no bundle: " + contents(root) + "; " + kHow);
  return read_limited(file_inside(root, kManifest), kManifestLimit);
}

void refuse_links_out(const fs::path& root) {
  std::error_code error;
  fs::path failed = root;
  const fs::path real_root = fs::canonical(root, error);
  const auto look = [&](const std::string&, const fs::path& path, bool link) {
    const fs::path real = link ? resolve(path) : fs::path();
    if (link && !is_below(real, real_root))
      throw BundleError(shown(path) + " is a link that leaves the bundle, to " + shown(real) + "; remove it");
  };
  if (!error) walk(root, look, error, failed);
  if (error) throw BundleError(shown(root) + " cannot be listed: " + error.message() + ": '" + shown(failed) + "'");
}

Opened checked(const fs::path& root, const std::string& data) {
  Opened opened{parse_manifest(data, shown(root / kManifest)), sha256(data)};
  if (read_limited(file_inside(root, kManifestDigest), kDigestLimit) != digest_line(opened.digest)) {
    // Last, so that a field which is wrong in itself is named first; what is left is a value that is possible but not
    // what was written, which would draw another picture without a word.
    throw IntegrityError(shown(root / kManifest) + " is not the one that was written: its SHA-256 is not that in " +
                         kManifestDigest + "; " + kMendBundle);
  }
  refuse_links_out(root);
  for (const auto& [path, record] : opened.manifest.files) {
    const std::int64_t size = size_of(file_inside(root, path));
    if (size != record.size)
      throw IntegrityError(shown(below(root, path)) + " has " + std::to_string(size) +
                           " bytes, but the manifest says " + std::to_string(record.size) + "; " + kMendBundle);
  }
  for (const auto& [name, component] : opened.manifest.components)
    check_references(root, component.path, opened.manifest.files);
  return opened;
}

Opened unchecked(const fs::path& root, const std::string& data) {
  Opened opened{parse_manifest(data, shown(root / kManifest)), sha256(data)};
  std::string recorded;
  try {
    recorded = read_limited(file_inside(root, kManifestDigest), kDigestLimit);
  } catch (const BundleError&) {
    return opened;
  }
  const std::string stated = recorded.substr(0, 64);
  const bool is_digest = stated.size() == 64 && stated.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (is_digest && recorded == digest_line(stated)) opened.digest = stated;
  return opened;
}

}  // namespace

fs::path bundle_root(const fs::path& path) {
  if (path.native().find(fs::path::value_type{}) != fs::path::string_type::npos)
    throw BundleError("there is no " + shown(path) + "; " + kHow);
  std::error_code error;
  fs::path root = (path.empty() ? fs::current_path(error) : fs::absolute(path, error)).lexically_normal();
  if (error) throw BundleError("'" + shown(path) + "' cannot be opened: " + error.message());
  if (!root.has_filename() && root.has_relative_path()) root = root.parent_path();  // "a/" is "a"
  if (is_unfinished(root.filename().u8string()))
    throw BundleError(shown(root) + " is an unfinished bundle, left by a writer that was stopped; remove it");
  return root;
}

std::string digest_line(const std::string& digest) { return digest + "  " + kManifest + "\n"; }

Opened load_bundle(const fs::path& root, bool check_files) {
  return read_stable(root, [&] {
    const std::string data = manifest_bytes(root);
    return check_files ? checked(root, data) : unchecked(root, data);
  });
}

Bundle::Bundle(fs::path path, Manifest manifest) : path_(std::move(path)), manifest_(std::move(manifest)) {}

Bundle Bundle::open(const fs::path& path) {
  const fs::path root = bundle_root(path);
  return Bundle(root, load_bundle(root, true).manifest);
}

fs::path Bundle::file(const std::string& relative) const {
  if (manifest_.files.count(relative) == 0)
    throw BundleError(shown(path_) + ": the manifest records no file " + quoted(relative));
  return file_inside(path_, relative);
}

const Component& Bundle::component(const std::string& name) const {
  const Component* found = manifest_.component(name);
  if (found != nullptr) return *found;
  std::vector<std::string> known;
  for (const auto& [key, component] : manifest_.components) known.push_back(key);
  throw BundleError(shown(path_) + " has no component " + quoted(name) + "; it has " + join(known));
}

fs::path Bundle::component_path(const std::string& name) const { return file(component(name).path); }

nlohmann::json Bundle::scheduler_config() const {
  const fs::path path = file(manifest_.scheduler.path);
  nlohmann::json config = read_object(read_limited(path, kSchedulerLimit), shown(path), true);
  const auto name = config.find("_class_name");
  if (name == config.end() || !name->is_string())
    throw BundleError(shown(path) + " names no scheduler: expected a string under _class_name");
  return config;
}

void Bundle::check(const std::string& name) const {
  const std::string folder = parent_of(component(name).path);
  for (const auto& named : manifest_.files) {
    if (lies_in(named.first, folder)) check_file(named.first);
  }
}

void Bundle::check_file(const std::string& relative) const {
  check_sha256(file(relative), manifest_.files.at(relative),
               {"the manifest", "export the bundle again, or copy it again", path_});
}

std::vector<std::string> Bundle::engine_names() const { return bundle::engine_names(path_); }

Engine Bundle::engine(const std::string& name) const { return open_engine(path_, manifest_, name); }

}  // namespace dit_deploy::bundle
