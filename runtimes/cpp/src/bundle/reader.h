// Opens bundles and engines, and trusts nothing that a record or a folder says before it is checked;
// dit_deploy/bundle/_reader.py and _engines.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle/bundle.h"

namespace dit_deploy::bundle {

inline constexpr char kManifest[] = "manifest.json";
inline constexpr char kManifestDigest[] = "manifest.json.sha256";
inline constexpr char kEngineRecord[] = "engine.json";
inline constexpr std::uint64_t kManifestLimit = std::uint64_t{16} << 20;

// `path` without "." and "..", absolute. Throws BundleError where there can be no such bundle.
std::filesystem::path bundle_root(const std::filesystem::path& path);

struct Opened {
  Manifest manifest;
  std::string digest;  // SHA-256 over the bytes of manifest.json
};
// Reads the bundle in `root`. Without `check_files` on the manifest's own validity alone; the digest is then the
// recorded one where there is one, for verify() to hold.
Opened load_bundle(const std::filesystem::path& root, bool check_files);
// The content of manifest.json.sha256, in the form that `sha256sum -c` reads.
std::string digest_line(const std::string& digest);

// Names of the finished engines of the bundle at `root`, sorted.
std::vector<std::string> engine_names(const std::filesystem::path& root);
// Opens an engine with every check. Throws BundleError, IntegrityError.
Engine open_engine(const std::filesystem::path& root, const Manifest& manifest, const std::string& name);
// Reads the record of the engine in the folder `path`.
EngineRecord read_engine_record(const std::filesystem::path& path);

}  // namespace dit_deploy::bundle
