// Files held against their records before a backend opens them, each hashed once a process; runtimes/integrity.py.
#pragma once

#include <filesystem>
#include <string>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// Where a file is recorded, for messages.
struct RecordName {
  std::string record, mend;
  std::filesystem::path bundle;
};

// Throws IntegrityError where the file's SHA-256 is not the recorded one, BundleError where it cannot be read. A file
// that was hashed before and has not been written since is not read again.
void check_sha256(const std::filesystem::path& path, const FileRecord& record, const RecordName& name);

}  // namespace dit_deploy::bundle
