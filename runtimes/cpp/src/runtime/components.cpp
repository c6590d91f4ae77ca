#include "runtime/components.h"

#include <algorithm>
#include <utility>

#include "bundle/engine.h"
#include "runtime/backends.h"
#include "runtime/machine.h"

namespace dit_deploy::runtime {
namespace {

// engines/.cache, where backends keep what makes them faster next time; empty where it cannot be made, or leads out of
// the bundle. Nothing in it is recorded or needed.
std::filesystem::path cache_folder(const std::filesystem::path& bundle) {
  std::error_code error;
  const std::filesystem::path folder = bundle / "engines" / ".cache";
  std::filesystem::create_directories(folder, error);
  if (error) return {};
  const auto real = std::filesystem::canonical(folder, error), root = std::filesystem::canonical(bundle, error);
  if (error || std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first != root.end()) return {};
  return folder;
}

}  // namespace

Components::Components(const bundle::Bundle& bundle, std::optional<bundle::Engine> engine, Options options,
                       Runners runners)
    : bundle_(bundle), engine_(std::move(engine)), options_(std::move(options)), runners_(std::move(runners)) {
  for (const auto& named : bundle_.manifest().components) slots_[named.first];
  slots_[bundle::kSolver];
}

bool Components::has(const std::string& name) const { return bundle_.manifest().component(name) != nullptr; }

std::shared_ptr<BindingPool> Components::pool(const std::string& name) {
  bundle_.component(name);
  Slot& slot = slots_.at(name);
  const std::lock_guard<std::mutex> lock(slot.mutex);
  if (!slot.pool) slot.pool = std::make_shared<BindingPool>(load(name));
  return slot.pool;
}

void Components::release(const std::string& name) {
  Slot& slot = slots_.at(name);
  const std::lock_guard<std::mutex> lock(slot.mutex);
  slot.pool.reset();
}

BindingPool* Components::solver() {
  Slot& slot = slots_.at(bundle::kSolver);
  const std::lock_guard<std::mutex> lock(slot.mutex);
  if (!slot.pool && !slot.absent) {
    if (auto runner = load_solver()) {
      slot.pool = std::make_shared<BindingPool>(std::move(runner));
    } else {
      slot.absent = true;
    }
  }
  return slot.pool.get();
}

std::vector<std::string> Components::warnings() {
  std::vector<std::string> all;
  for (auto& named : slots_) {
    const std::lock_guard<std::mutex> lock(named.second.mutex);
    if (!named.second.pool) continue;
    for (std::string& warning : named.second.pool->runner().warnings()) all.push_back(std::move(warning));
  }
  return all;
}

std::unique_ptr<Runner> Components::load(const std::string& name) {
  {
    const std::lock_guard<std::mutex> lock(runners_mutex_);
    if (const auto given = runners_.find(name); given != runners_.end()) return std::move(given->second);
  }
  const Component& component = bundle_.component(name);
  if (engine_ && engine_->record().components.count(name) != 0) return load_from(name, component, true);
  bundle_.check(name);
  return open_graph(bundle_.component_path(name), component, settings_of_plain_graphs());
}

std::unique_ptr<Runner> Components::load_solver() {
  {
    const std::lock_guard<std::mutex> lock(runners_mutex_);
    if (const auto given = runners_.find(bundle::kSolver); given != runners_.end()) return std::move(given->second);
  }
  // Only beside a denoiser on a device is the solver graph of use.
  if (!engine_ || engine_->record().components.count(bundle::kSolver) == 0 ||
      engine_->record().target.device == "cpu") {
    return nullptr;
  }
  return load_from(bundle::kSolver, bundle::solver_component(bundle_.manifest()), false);
}

std::unique_ptr<Runner> Components::load_from(const std::string& name, const Component& component, bool cuda_graphs) {
  const bundle::EngineRecord& record = engine_->record();
  const bundle::EngineComponent& built = record.components.at(name);
  engine_->check(name);
  if (built.kind == "onnx") {
    SessionSettings settings = settings_of_engine();
    settings.cuda_graphs = cuda_graphs;
    return open_graph(engine_->file(name), component, settings);
  }
  std::filesystem::path weights;  // what an engine without weights is filled from, beside the engine
  if (const std::string graph = name + ".onnx"; record.strip_weights && record.files.count(graph) != 0) {
    std::vector<std::string> files{graph};
    if (record.files.count(graph + ".data") != 0) files.push_back(graph + ".data");
    engine_->check_files(files);
    weights = engine_->recorded(graph);
  }
  return open_tensorrt(engine_->file(name), component, record.backend == "tensorrt" ? "tensorrt" : "tensorrt-rtx",
                       built.profiles, weights, cache_folder(bundle_.path()), cuda_graphs);
}

std::unique_ptr<Runner> Components::open_graph(const std::filesystem::path& path, const Component& component,
                                               const SessionSettings& settings) const {
  // CUDA's own provider works on memory that stays on the GPU; the others take arrays of the host, and copy by themselves.
  const auto& providers = settings.providers;
  const bool cuda = std::find(providers.begin(), providers.end(), kCudaProvider) != providers.end();
  return cuda ? open_onnxruntime_cuda(path, component, settings) : open_onnxruntime(path, component, settings);
}

SessionSettings Components::settings_of_engine() const {
  const bundle::Target& target = engine_->record().target;
  SessionSettings settings;
  settings.threads = options_.threads;
  settings.provider_options = options_.provider_options;
  settings.provider_libraries = options_.provider_libraries;
  if (const std::string provider = target.provider.value_or(kCpuProvider); provider != kCpuProvider) {
    settings.providers = {provider, kCpuProvider};
  }
  settings.cpu_ops = target.operators.has_value();
  if (engine_->record().precision == "int8" && target.device == "cpu" && !cpu_has_vnni()) {
    // Sums of U8 × S8 products saturate on such CPUs: the slower kernels that do not. With VNNI they only cost time.
    settings.config["session.x64quantprecision"] = "1";
  }
  return settings;
}

SessionSettings Components::settings_of_plain_graphs() const {
  SessionSettings settings;
  settings.threads = options_.threads;
  // A GPU's engine keeps the graphs beside it on the GPU too, where ONNX Runtime can.
  if (engine_ && engine_->record().target.device == "cuda") {
    const auto available = available_providers({});
    if (std::find(available.begin(), available.end(), kCudaProvider) != available.end()) {
      settings.providers = {kCudaProvider, kCpuProvider};
      settings.cuda_graphs = true;
      // Of the engine's options, the GPU is what all providers have.
      if (const auto device = options_.provider_options.find("device_id"); device != options_.provider_options.end()) {
        settings.provider_options.insert(*device);
      }
    }
  }
  return settings;
}

}  // namespace dit_deploy::runtime
