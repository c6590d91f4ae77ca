#include "runtime/tensorrt_engine.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

#include "dit_deploy/errors.hpp"
#include "runtime/mapped_file.h"
#include "runtime/tensorrt_runner.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// What the library says, in lower case → what it means. The first of which something was said decides. {title},
// {version} and {gpu} stand for what they say.
struct Reason {
  std::vector<std::string_view> said;
  std::string_view means;
};

#define DIT_DEPLOY_MEND "build the engine again for this machine with `dit-deploy build-engine`"

const std::vector<Reason>& reasons() {
  static const std::vector<Reason> all{
      {{"driver version is insufficient", "cudaerror 35", "no cuda-capable device", "cuda initialization failure",
        "cudaerror 100", "old_cuda_driver"},
       "there is no NVIDIA driver, or it is too old: `dit-deploy doctor` says which"},
      {{"magictag", "magic tag", "malformed"}, "it is cut short, or no engine: copy it again, or build it again"},
      {{"version tag", "version of tensorrt", "serialization version", "version_mismatch", "library version"},
       "another version of {title} built it, here is {version}: " DIT_DEPLOY_MEND ", or install that version"},
      {{"incompatible device", "compute capab", "different device", "unsupported_cc", "not supported on this gpu"},
       "it was built for another GPU than {gpu}: " DIT_DEPLOY_MEND},
      {{"out of memory", "cudaerror 2", "outofmemory", "insufficient_gpu_memory"},
       "{gpu} has not enough memory left for it: close what else uses the GPU (`nvidia-smi` lists it)"},
      {{"host code"},
       "it carries code of its own, which is not run: " DIT_DEPLOY_MEND " without version compatibility"},
      {{"stripped", "refit"}, "its weights were left out of it and were not given"},
      {{"truncat", "corrupt", "size mismatch", "out of range", "end of file", "end of stream", "end of buffer"},
       "it is cut short: copy it again, or build it again"},
  };
  return all;
}

#undef DIT_DEPLOY_MEND

// Whether `text` has `part`, and a number at its end is all of the number there.
bool says(const std::string& text, std::string_view part) {
  const auto digit = [](char one) { return one >= '0' && one <= '9'; };
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    const std::size_t end = at + part.size();
    if (!digit(part.back()) || end == text.size() || !digit(text[end])) return true;
  }
  return false;
}

std::string filled(std::string_view text, const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string out(text);
  for (const auto& [name, value] : values) {
    for (auto at = out.find(name); at != std::string::npos; at = out.find(name, at + value.size())) {
      out.replace(at, name.size(), value);
    }
  }
  return out;
}

std::string reason(const std::string& heard, const std::string& title, const std::string& version,
                   const std::string& gpu) {
  std::string lower = heard;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char one) { return one >= 'A' && one <= 'Z' ? static_cast<char>(one - 'A' + 'a') : one; });
  for (const Reason& one : reasons()) {
    for (const auto part : one.said) {
      if (says(lower, part)) return filled(one.means, {{"{title}", title}, {"{version}", version}, {"{gpu}", gpu}});
    }
  }
  const std::string words = one_line(heard, 300);
  return words.find_first_not_of(' ') == std::string::npos ? "it does not say why" : words;
}

}  // namespace

std::string engine_name(const std::filesystem::path& path) {
  return path.filename().u8string() + " of " + path.parent_path().filename().u8string();
}

std::unique_ptr<TensorRTEngine> read_engine(TensorRTLibrary& library, const std::string& flavour,
                                            const std::filesystem::path& path, const std::string& gpu) {
  const std::string refuses = tensorrt_title(flavour) + " refuses " + engine_name(path) + ": ";
  const MappedFile file(path);
  if (file.size() == 0) throw BackendError(refuses + "it is empty; copy it again, or build it again");
  library.said();  // of something else
  std::string diagnosis;
  if (auto engine = library.deserialize(file.data(), file.size(), diagnosis)) return engine;
  throw BackendError(refuses +
                     reason(library.said() + " " + diagnosis, tensorrt_title(flavour), library.version(), gpu));
}

}  // namespace dit_deploy::runtime
