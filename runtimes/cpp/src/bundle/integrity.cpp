#include "bundle/integrity.h"

#include <mutex>

#include "bundle/files.h"

namespace dit_deploy::bundle {
namespace {

using Key = std::pair<std::string, State>;

// (path, state) → SHA-256 of a file that was hashed and has not been written since.
struct Known {
  std::mutex mutex;
  std::map<Key, std::string> hashes;
};

Known& known() {
  static Known all;
  return all;
}

std::string hash_of(const std::filesystem::path& path) {
  const auto key = [&] { return Key(resolve(path).u8string(), state_of(path)); };
  const Key before = key();
  {
    const std::lock_guard lock(known().mutex);
    const auto found = known().hashes.find(before);
    if (found != known().hashes.end()) return found->second;
  }
  std::error_code error;
  const std::string hash = sha256_of(path, error).second;
  if (error) throw BundleError(shown(path) + " cannot be read: " + error.message());
  if (key() == before && before.second != State()) {  // else it was written while it was read
    const std::lock_guard lock(known().mutex);
    known().hashes[before] = hash;
  }
  return hash;
}

}  // namespace

void check_sha256(const std::filesystem::path& path, const FileRecord& record, const RecordName& name) {
  const std::string found = hash_of(path);
  if (found != record.sha256)
    throw IntegrityError(shown(path) + " was altered: its SHA-256 is " + found + ", " + name.record + " says " +
                         record.sha256 + "; " + name.mend + " (`dit-deploy verify " + shown(name.bundle) +
                         "` lists every file that differs)");
}

}  // namespace dit_deploy::bundle
