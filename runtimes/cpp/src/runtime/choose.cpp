#include "runtime/choose.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// Engines on a GPU come before those on a CPU, and what was compiled for the GPU before what runs kernels one by one.
constexpr std::array<std::string_view, 4> kBackends{"tensorrt", "tensorrt-rtx", "TensorrtExecutionProvider",
                                                    "NvTensorRTRTXExecutionProvider"};
constexpr std::array<std::string_view, 5> kPrecisions{"int8", "fp8", "fp16", "bf16", "fp32"};
constexpr std::size_t kNamed = 3;

// The place of `text`; that after the last where it is none of them.
template <std::size_t count>
std::size_t place(const std::array<std::string_view, count>& texts, std::string_view text) {
  return static_cast<std::size_t>(std::find(texts.begin(), texts.end(), text) - texts.begin());
}

// A key by which engines are sorted, the best first.
auto rank(const bundle::EngineRecord& record) {
  const std::string kind = record.backend == "onnxruntime" ? record.target.provider.value_or("") : record.backend;
  return std::make_tuple(record.components.count("denoiser") == 0,  // nearly all the time is spent there
                         record.target.device == "cpu", place(kBackends, kind), place(kPrecisions, record.precision),
                         record.name);
}

// Whether the plain graphs are faster: ONNX Runtime converts to single precision around each node on a CPU.
bool slow(const bundle::EngineRecord& record) {
  return record.target.device == "cpu" && (record.precision == "fp16" || record.precision == "bf16");
}

bool failed(const bundle::EngineRecord& record) { return record.parity_passed == false; }

// The reason, and what was passed over: few of it.
std::string reason(std::string text, const std::vector<std::string>& left) {
  for (std::size_t i = 0; i < std::min(left.size(), kNamed); ++i) text += "; " + left[i];
  if (left.size() > kNamed) text += "; and " + std::to_string(left.size() - kNamed) + " more do not";
  return text;
}

// Asks for the machine when it is needed, and once: one with GPUs serves engines without one, too.
class LazyMachine {
 public:
  explicit LazyMachine(const MachineSource& source) : source_(source) {}

  const Machine& operator()(const bundle::EngineRecord& record) {
    const bool gpus = record.target.device == "cuda";
    if (!machine_ || (gpus && !with_gpus_)) {
      machine_ = source_(gpus);
      with_gpus_ = gpus;
    }
    return *machine_;
  }

 private:
  const MachineSource& source_;
  std::optional<Machine> machine_;
  bool with_gpus_ = false;
};

Choice best(const bundle::Bundle& bundle, const std::vector<std::string>& names, const MachineSource& source) {
  if (names.empty()) return {"onnx", "onnx: the plain graphs, as this bundle has no engines", std::nullopt};
  LazyMachine machine(source);
  std::vector<bundle::Engine> faster;
  std::vector<std::string> slower, left;
  for (const std::string& name : names) {
    std::optional<bundle::Engine> opened;
    try {
      opened = bundle.engine(name);
    } catch (const BundleError& error) {
      left.push_back(name + " cannot be used: " + one_line(error.what(), 200));
      continue;
    }
    const bundle::EngineRecord& record = opened->record();
    if (const std::string lacking = lacks(record, machine(record)); !lacking.empty()) {
      left.push_back(name + " does not fit: " + lacking);
    } else if (failed(record)) {
      left.push_back(name + " failed its parity check");
    } else if (slow(record)) {
      slower.push_back(name);
    } else {
      faster.push_back(std::move(*opened));
    }
  }
  if (!slower.empty()) left.push_back(join(slower) + ": slower than the plain graphs on a CPU");
  if (faster.empty()) return {"onnx", reason("onnx: the plain graphs", left), std::nullopt};
  const auto found = std::min_element(faster.begin(), faster.end(), [](const auto& one, const auto& other) {
    return rank(one.record()) < rank(other.record());
  });
  const std::string count =
      faster.size() == 1 ? "the one that fits" : "the best of " + std::to_string(faster.size()) + " that fit";
  return {found->name(), reason(found->name() + ": " + count, left), *found};
}

}  // namespace

Choice choose_engine(const bundle::Bundle& bundle, const std::string& engine, const MachineSource& machine) {
  const std::vector<std::string> names = bundle.engine_names();
  if (engine == "auto") return best(bundle, names, machine);
  if (engine == "onnx") return {"onnx", "onnx: the plain graphs, as asked", std::nullopt};
  if (std::find(names.begin(), names.end(), engine) == names.end()) {
    const std::string others = names.empty() ? "" : ", and " + join(names);
    throw InputError("engine: " + quoted(engine) + " came; this bundle has onnx, the plain graphs" + others);
  }
  bundle::Engine opened = bundle.engine(engine);
  const bundle::EngineRecord& record = opened.record();
  if (const std::string why = unfit(record, machine(record.target.device == "cuda")); !why.empty()) {
    throw InputError("engine: " + engine + " does not fit this machine: " + why + "; use another, or engine=\"auto\"");
  }
  const char* parity = failed(record) ? ", though its parity check failed" : "";
  return {engine, engine + ": as asked" + parity, std::move(opened)};
}

Choice choose_engine(const bundle::Bundle& bundle, const std::string& engine,
                     const std::map<std::string, std::string>& provider_libraries) {
  return choose_engine(bundle, engine, [&](bool gpus) { return this_machine(gpus, provider_libraries); });
}

}  // namespace dit_deploy::runtime
