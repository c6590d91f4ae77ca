// Hashes every recorded file and lists what is not as its record says; dit_deploy/bundle/_verify.py.
#include <algorithm>
#include <set>

#include "bundle/files.h"
#include "bundle/reader.h"
#include "bundle/sha256.h"
#include "text.h"

namespace dit_deploy::bundle {

namespace fs = std::filesystem;

namespace {

struct Problem {
  std::string path;
  std::string kind;  // missing, size, altered, extra, unsafe, unreadable, unusable
  std::string text;  // what is said of the path
};
using Problems = std::vector<Problem>;

// A folder and the files that should be in it. `ignored` are top-level names with records of their own or none.
struct Recorded {
  fs::path root;
  std::map<std::string, FileRecord> files;
  std::set<std::string> ignored;
  std::string prefix;  // the folder's own path in the bundle, with a slash
  std::string record = "the manifest";
};

Problem unreadable(const std::string& path, const std::string& why) {
  return {path, "unreadable", "cannot be read: " + one_line(why)};
}

Problem altered(const std::string& path, const std::string& expected, const std::string& found) {
  return {path, "altered", "was altered: its SHA-256 is " + found + ", expected " + expected};
}

// Adds what is wrong with one recorded file, which is read only if its size is right.
void hold_against(const Recorded& folder, const std::string& path, const FileRecord& record, Problems& problems) {
  const std::string name = folder.prefix + path;
  try {
    const fs::path file = file_inside(folder.root, path);
    std::int64_t size = size_of(file);
    std::string hash;
    if (size == record.size) {
      std::error_code error;
      std::tie(size, hash) = sha256_of(file, error);
      if (error) return problems.push_back(unreadable(name, error.message()));
    }
    if (size != record.size) {  // it may have shrunk or grown while it was read, too
      problems.push_back(
          {name, "size", "has " + std::to_string(size) + " bytes, expected " + std::to_string(record.size)});
    } else if (hash != record.sha256) {
      problems.push_back(altered(name, record.sha256, hash));
    }
  } catch (const IntegrityError&) {
    problems.push_back({name, "missing", "is missing"});
  } catch (const BundleError& error) {
    problems.push_back({name, "unsafe", "is unsafe: " + one_line(error.what())});
  }
}

// Adds the files that have no record, and links that lead out.
void unrecorded(const Recorded& folder, Problems& problems) {
  const fs::path real_root = resolve(folder.root);
  const auto look = [&](const std::string& path, const fs::path& whole, bool link) {
    if (folder.files.count(path) > 0) return;
    const std::string name = folder.prefix + path;
    const fs::path real = link ? resolve(whole) : fs::path();
    if (link && !is_below(real, real_root)) {
      problems.push_back(
          {name, "unsafe", "is unsafe: " + one_line("a link that leaves the bundle, to " + shown(real))});
    } else if (folder.ignored.count(path.substr(0, path.find('/'))) == 0) {
      problems.push_back({name, "extra", "is not recorded in " + folder.record});
    }
  };
  std::error_code error;
  fs::path failed;
  walk(folder.root, look, error, failed);
  if (error) problems.push_back(unreadable(shown(failed), error.message()));
}

// A problem that was found twice counts once, as it was found first: a link out of an engine may be one out of its
// bundle, too.
Problems without_repeats(const Problems& problems) {
  std::map<std::pair<std::string, std::string>, const Problem*> first;
  for (const Problem& one : problems) first.emplace(std::pair(one.path, one.kind), &one);
  Problems kept;
  for (auto one = problems.rbegin(); one != problems.rend(); ++one) {
    const auto found = first.find({one->path, one->kind});
    if (found == first.end()) continue;
    kept.push_back(*found->second);
    first.erase(found);
  }
  std::reverse(kept.begin(), kept.end());
  return kept;
}

// The finished engines, and as problems those whose records cannot be read. Folders that are links out of the bundle are
// left to the look at the bundle itself.
std::vector<Recorded> recorded_engines(const fs::path& root, Problems& problems) {
  std::vector<Recorded> folders;
  const fs::path real_root = resolve(root);
  for (const std::string& name : engine_names(root)) {
    const std::string prefix = "engines/" + name + "/";
    const fs::path path = below(root, "engines/" + name);
    if (!is_below(resolve(path), real_root)) continue;
    try {
      folders.push_back({path, read_engine_record(path).files, {kEngineRecord}, prefix, kEngineRecord});
    } catch (const BundleError& error) {
      problems.push_back(unreadable(prefix + kEngineRecord, error.what()));
    }
  }
  return folders;
}

// Adds the engines whose files are as recorded, as far as `problems` says, but which do not open for all that.
void unusable_engines(const fs::path& root, const Manifest& manifest, Problems& problems) {
  const Problems known = problems;
  for (const std::string& name : engine_names(root)) {
    const std::string path = "engines/" + name;
    const bool is_known = std::any_of(known.begin(), known.end(), [&](const Problem& one) {
      return one.path == "engines" || one.path == path || one.path.rfind(path + "/", 0) == 0;
    });
    if (is_known) continue;
    try {
      open_engine(root, manifest, name);
    } catch (const BundleError& error) {
      problems.push_back({path, "unusable", "cannot be used: " + one_line(error.what())});
    }
  }
}

// What is wrong with a file of the bundle that records others; nothing, or one problem.
Problems hold_own(const fs::path& root, const std::string& name, const std::string& expected) {
  try {
    const std::string found = sha256(read_limited(file_inside(root, name), kManifestLimit));
    if (found != expected) return {altered(name, expected, found)};
  } catch (const IntegrityError&) {
    return {{name, "missing", "is missing"}};
  } catch (const BundleError& error) {
    return {unreadable(name, error.what())};
  }
  return {};
}

}  // namespace

std::vector<std::string> verify(const fs::path& path) {
  const fs::path root = bundle_root(path);
  const Opened opened = load_bundle(root, false);
  Problems found, unreadable_engines;
  std::vector<Recorded> folders{
      {root, opened.manifest.files, {"calibration", "engines", "parity", kManifest, kManifestDigest}, ""}};
  for (Recorded& engine : recorded_engines(root, unreadable_engines)) folders.push_back(std::move(engine));
  for (const Recorded& folder : folders) {
    for (const auto& [file, record] : folder.files) hold_against(folder, file, record, found);
    unrecorded(folder, found);
  }
  found = without_repeats(found);
  found.insert(found.end(), unreadable_engines.begin(), unreadable_engines.end());
  unusable_engines(root, opened.manifest, found);

  Problems all = hold_own(root, kManifest, opened.digest);
  const Problems digest = hold_own(root, kManifestDigest, sha256(digest_line(opened.digest)));
  all.insert(all.end(), digest.begin(), digest.end());
  all.insert(all.end(), found.begin(), found.end());
  std::vector<std::string> lines;
  for (const Problem& problem : all) lines.push_back(one_line(problem.path + " " + problem.text, kNoLimit));
  return lines;
}

}  // namespace dit_deploy::bundle
