// Which files an ONNX graph refers to, read without a protobuf library; dit_deploy/bundle/_onnx.py.
//
// ONNX Runtime follows the location of external data, and the file named by an EPContext node, wherever they point, so a
// bundle must look first. Only the fields on the way to a tensor are read; weights are stepped over.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// One tensor kept outside the graph: `location` is relative to the graph's folder, sizes in bytes.
struct ExternalData {
  std::string tensor, location;
  std::uint64_t offset = 0, length = 0;
};

struct References {
  std::vector<ExternalData> tensors;
  std::vector<std::string> contexts;  // files that EPContext nodes name
};

// Everything that an ONNX file refers to, in the file's order. Throws BundleError where it cannot be read or is no
// well-formed ONNX protobuf.
References read_references(const std::filesystem::path& path);
// The same of bytes; `name` is for messages.
References read_references(std::string_view data, const std::string& name);

// The paths, relative to `root`, of `model` and of every file that it refers to, as they are written.
std::set<std::string> referenced_files(const std::filesystem::path& root, const std::string& model);

// Checks that the graph `model` of the bundle at `root` refers to recorded files of it only. `what` and `record` are for
// the messages. Throws BundleError, and IntegrityError for bytes past the recorded end of a file.
void check_references(const std::filesystem::path& root, const std::string& model,
                      const std::map<std::string, FileRecord>& files, const std::string& what = "bundle",
                      const std::string& record = "the manifest");

// The part of a POSIX path before its last slash; empty where it has none.
std::string parent_of(const std::string& path);
// Whether a POSIX path lies in `folder` or below, or is it; everything does in the empty one.
bool lies_in(const std::string& path, const std::string& folder);

}  // namespace dit_deploy::bundle
