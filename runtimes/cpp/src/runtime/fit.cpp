#include "runtime/fit.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "text.h"

namespace dit_deploy::runtime {
namespace {

std::string title(const std::string& backend) {
  if (backend == "onnxruntime") return "ONNX Runtime";
  return backend == "tensorrt" ? "TensorRT" : "TensorRT-RTX";
}

// The library whose engine lies inside the graphs of a provider: another version of it does not take them. Empty for a
// provider that runs plain graphs.
std::string compiled_by(const bundle::EngineRecord& record) {
  const std::string provider = record.target.provider.value_or("");
  if (provider == "TensorrtExecutionProvider") return "tensorrt";
  return provider == "NvTensorRTRTXExecutionProvider" ? "tensorrt-rtx" : "";
}

// What backend_version is the version of: what built the engine, whether ONNX Runtime loads it or not.
std::string library_of(const bundle::EngineRecord& record) {
  const std::string compiled = compiled_by(record);
  return compiled.empty() ? record.backend : compiled;
}

// The leading numbers of a version; a package's may have one more than the library's own.
std::vector<std::uint64_t> numbers(const std::string& version) {
  std::vector<std::uint64_t> found;
  bool inside = false;
  for (const char character : version) {
    const bool digit = character >= '0' && character <= '9';
    if (!digit && character != '.') {
      if (character == ' ' && found.empty()) continue;
      break;
    }
    if (digit) {
      if (!inside) found.push_back(0);
      const auto value = static_cast<std::uint64_t>(character - '0');
      const bool fits = found.back() <= (UINT64_MAX - value) / 10;
      found.back() = fits ? found.back() * 10 + value : UINT64_MAX;
    }
    inside = digit;
  }
  return found;
}

std::vector<std::uint64_t> first(std::vector<std::uint64_t> parts, std::size_t count) {
  parts.resize(std::min(parts.size(), count));
  return parts;
}

bool version_fits(const bundle::EngineRecord& record, const std::string& library, const std::string& version) {
  const auto here = numbers(version), built = numbers(record.backend_version);
  if (library == "onnxruntime") return first(here, 2) >= first(built, 2);
  if (record.version_compatible) return first(here, 1) == first(built, 1) && here >= built;
  const std::size_t both = std::min(here.size(), built.size());
  return first(here, both) == first(built, both);
}

std::string lacks_gpu(const bundle::EngineRecord& record, const Machine& machine) {
  if (machine.compute_capabilities.empty()) {
    return "this machine has no NVIDIA GPU" + (machine.gpu_note.empty() ? "" : " (" + machine.gpu_note + ")");
  }
  const auto& wanted = record.target.compute_capabilities;
  const std::string& here = machine.compute_capabilities.front();  // the one that is used
  if (wanted.empty() || std::find(wanted.begin(), wanted.end(), here) != wanted.end()) return "";
  return "this machine's GPU has compute capability " + here;
}

std::string lacks_backend(const bundle::EngineRecord& record, const Machine& machine) {
  if (machine.versions.count(record.backend) == 0) {
    return "this machine has no " + title(record.backend) +
           " that this library can load: build dit_deploy where CMake finds its headers, and have its libraries where "
           "the "
           "loader finds them";
  }
  const std::string library = library_of(record);
  const auto here = machine.versions.find(library);
  if (here == machine.versions.end()) return "";  // the provider has one of its own
  if (version_fits(record, library, here->second)) return "";
  return "this machine has " + title(library) + " " + here->second + ": build it again here, or install " +
         one_line(record.backend_version);
}

std::string lacks_provider(const bundle::EngineRecord& record, const Machine& machine) {
  if (record.backend != "onnxruntime" || !record.target.provider) return "";
  const std::string& wanted = *record.target.provider;
  if (std::find(machine.providers.begin(), machine.providers.end(), wanted) != machine.providers.end()) return "";
  return "this machine's ONNX Runtime " + machine.versions.at("onnxruntime") + " has no " + one_line(wanted);
}

}  // namespace

std::string lacks(const bundle::EngineRecord& record, const Machine& machine) {
  std::string lacking;
  if (record.target.device == "cuda") lacking = lacks_gpu(record, machine);
  if (lacking.empty()) lacking = lacks_backend(record, machine);
  if (lacking.empty()) lacking = lacks_provider(record, machine);
  if (lacking.empty() && record.target.operators) lacking = machine.cpu_ops_note;
  return lacking;
}

std::string made_for(const bundle::EngineRecord& record) {
  std::string text = title(library_of(record)) + " " + one_line(record.backend_version);
  if (record.target.provider) {
    text += (compiled_by(record).empty() ? "" : " in ONNX Runtime") + (" with " + one_line(*record.target.provider));
  }
  if (record.target.operators) text += " and the fused INT8 operators";
  if (record.target.device == "cuda") {
    const auto& capabilities = record.target.compute_capabilities;
    text += capabilities.empty() ? " on an NVIDIA GPU" : " on compute capability " + join(capabilities, " or ");
  }
  return text;
}

std::string unfit(const bundle::EngineRecord& record, const Machine& machine) {
  const std::string lacking = lacks(record, machine);
  return lacking.empty() ? "" : "it is for " + made_for(record) + "; " + lacking;
}

}  // namespace dit_deploy::runtime
