#include "runtime/tensorrt_runner.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"
#include "runtime/device_binding.h"
#include "runtime/replay.h"
#include "runtime/tensorrt_cache.h"
#include "runtime/tensorrt_engine.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// A context, and the activation memory that must outlive it.
struct OpenContext {
  std::shared_ptr<Buffer> memory;
  std::unique_ptr<TensorRTContext> context;
};

std::string list_text(const Shape& shape) {
  std::vector<std::string> sizes;
  for (const auto size : shape) sizes.push_back(std::to_string(size));
  return "[" + join(sizes) + "]";
}

// One engine. Bindings may be used by threads at once, each by one: every binding has a context of its own. A binding
// keeps its CUDA graph, so that the pool of bindings is the cache of graphs: the least recently used size loses both.
class TensorRTRunner final : public Runner {
 public:
  TensorRTRunner(std::unique_ptr<TensorRTLibrary> library, std::shared_ptr<CudaDevice> device, TensorRTFile file)
      : file_(std::move(file)), device_(std::move(device)), library_(std::move(library)) {
    const CudaDevice::Scope scope(*device_);
    // Another thread's run of ONNX Runtime may be captured, and then nothing in the process may allocate.
    const std::lock_guard<std::recursive_mutex> lock(device_->mutex());
    engine_ =
        read_engine(*library_, file_.flavour, file_.path, device_->gpu() + " (" + device_->compute_capability() + ")");
    check_tensors();
    if (!file_.weights.empty() && !engine_->refit(file_.weights)) {
      throw failed("does not take the weights of " + file_.weights.filename().string());
    }
    if (library_->captures_itself() && !file_.cache.empty()) {
      cache_.emplace(*engine_, tensorrt_cache_path(file_.cache, file_.path, library_->version(), device_->gpu()));
      cache_->load();
    }
  }

  ~TensorRTRunner() override {
    const CudaDevice::Scope scope(*device_);
    if (cache_) cache_->save();  // RTX compiles in the background for some time after a size was first met
    engine_.reset();
    library_.reset();
  }

  const Component& component() const override { return file_.component; }
  std::unique_ptr<Binding> bind(const Sizes& sizes) override;
  Device* device() override { return device_.get(); }
  std::vector<std::string> warnings() const override { return warnings_.list(); }

  const std::shared_ptr<CudaDevice>& cuda() const { return device_; }
  bool cuda_graphs() const { return file_.cuda_graphs; }
  bool captures_itself() const { return library_->captures_itself(); }
  void warn_eager(const std::string& reason) { warnings_.eager(what(), reason); }

  void save_cache() {
    if (!cache_) return;
    device_->synchronize();
    const CudaDevice::Scope scope(*device_);
    cache_->save();
  }

  // An execution context for the shapes of the inputs among `slots`; `graphs` by RTX's own strategy.
  template <typename Slots>
  OpenContext context(int profile, const Slots& slots, bool graphs) {
    OpenContext opened;
    {
      const CudaDevice::Scope scope(*device_);
      const std::lock_guard<std::recursive_mutex> lock(device_->mutex());
      opened.context = engine_->context(graphs);
      if (!opened.context) throw failed("makes no execution context");
      if (!opened.context->set_profile(profile, device_->stream())) {
        throw failed("has no profile " + std::to_string(profile));
      }
      for (const auto& slot : slots) {
        if (slot.is_input && !opened.context->set_input_shape(slot.name, slot.like.shape)) {
          throw failed("does not take " + slot.name + " of shape " + list_text(slot.like.shape));
        }
      }
      if (!captures_itself()) {
        const std::size_t bytes = opened.context->memory_size();
        opened.memory = device_->allocate(bytes);
        opened.context->set_memory(opened.memory->address(), bytes);
      }
    }
    device_->synchronize();  // the switch of profiles may copy
    return opened;
  }

  // What the engine does not do, and what the library said of it.
  BackendError failed(const std::string& does) const {
    const std::string heard = one_line(library_->said(), 300);
    return BackendError(tensorrt_title(file_.flavour) + ": " + what() + " " + does +
                        (heard.empty() ? "" : ": " + heard));
  }

 private:
  std::string what() const { return engine_name(file_.path); }

  // Holds the engine's inputs and outputs against the declared ones: names, dtypes, and being on the GPU.
  void check_tensors() const {
    std::vector<bundle::TensorSpec> specs = file_.component.inputs;
    specs.insert(specs.end(), file_.component.outputs.begin(), file_.component.outputs.end());
    std::set<std::string> expected, found;
    for (const auto& spec : specs) expected.insert(spec.name);
    for (const auto& name : engine_->tensors()) found.insert(name);
    if (found != expected) {
      throw BackendError(what() + " has inputs and outputs " + one_line(join({found.begin(), found.end()}), 300) +
                         ", expected " + join({expected.begin(), expected.end()}) + "; build it again");
    }
    for (const auto& spec : specs) {
      if (engine_->dtype(spec.name) != spec.dtype) {
        const auto type = engine_->dtype(spec.name);
        throw BackendError(what() + ": " + spec.name + " is " + (type ? bundle::dtype_name(*type) : "of another type") +
                           ", expected " + bundle::dtype_name(spec.dtype) + "; build it again");
      }
      if (!engine_->on_device(spec.name)) {
        throw BackendError(what() + ": " + spec.name +
                           " is a shape on the host, which no component has; build it again");
      }
    }
  }

  int profile_for(const Sizes& sizes) const {
    if (!file_.profiles.empty()) return static_cast<int>(bundle::select_profile(file_.profiles, sizes));
    return holding(sizes);
  }

  // The first of the engine's own profiles that holds the shapes.
  int holding(const Sizes& sizes) const {
    for (int profile = 0; profile < engine_->profiles(); ++profile) {
      bool holds = true;
      for (const auto& spec : file_.component.inputs) {
        const Shape shape = bundle::shape_of(spec, sizes);
        const auto [low, high] = engine_->range(spec.name, profile);
        holds = holds && low.size() == shape.size() && high.size() == shape.size();
        for (std::size_t axis = 0; holds && axis < shape.size(); ++axis) {
          holds = low[axis] <= shape[axis] && shape[axis] <= high[axis];
        }
      }
      if (holds) return profile;
    }
    std::vector<std::string> came;
    for (const auto& spec : file_.component.inputs)
      came.push_back(spec.name + " " + list_text(bundle::shape_of(spec, sizes)));
    throw BackendError(what() + ": no profile holds " + join(came) + "; build an engine for this size");
  }

  TensorRTFile file_;
  std::shared_ptr<CudaDevice> device_;
  Warnings warnings_;
  std::unique_ptr<TensorRTLibrary> library_;
  std::unique_ptr<TensorRTEngine> engine_;
  std::optional<TensorRTCache> cache_;
};

// An execution context and its buffers for one set of sizes.
class TensorRTBinding final : public BufferedBinding {
 public:
  TensorRTBinding(TensorRTRunner& runner, const Sizes& sizes, int profile)
      : BufferedBinding(runner.component(), sizes, runner.cuda()),
        runner_(runner),
        cuda_(*runner.cuda()),
        profile_(profile),
        opened_(runner.context(profile, slots(), false)) {
    check_outputs();
  }

  ~TensorRTBinding() override {
    try {
      cuda_.synchronize();           // what was queued uses the context
    } catch (const BackendError&) {  // then nothing is computed any more
    }
    const CudaDevice::Scope scope(cuda_);
    graph_.reset();
    opened_.context.reset();
  }

 protected:
  void point(std::size_t slot) override {
    const Slot& to = slots()[slot];
    if (!opened_.context->set_address(to.name, to.buffer->address())) {
      throw runner_.failed("does not take the address of " + to.name);
    }
  }

  void compute() override {
    if (graph_) {
      graph_->launch();
    } else {
      enqueue();
    }
  }

  // Runs, captures, and replays once to compare; where that is not the same, runs without from here on.
  void capture() override {
    enqueue();  // warms up: a shape's first run may allocate and compile
    if (runner_.cuda_graphs()) compare();
    runner_.save_cache();
  }

  void forget_capture() override { graph_.reset(); }

 private:
  void check_outputs() {
    const auto unknown = opened_.context->unknown_shapes();
    if (!unknown.empty()) throw runner_.failed("does not know the shapes of " + join(unknown));
    for (const Slot& slot : slots()) {
      const Shape found = opened_.context->shape(slot.name);
      if (!slot.is_input && found != slot.like.shape) {
        throw runner_.failed("computes " + slot.name + " of shape " + list_text(found) + ", expected " +
                             list_text(slot.like.shape) + "; build it again");
      }
    }
  }

  void enqueue() {
    const CudaDevice::Scope scope(cuda_);
    const std::lock_guard<std::recursive_mutex> lock(cuda_.mutex());
    if (!opened_.context->enqueue(cuda_.stream())) throw runner_.failed("fails");
  }

  void compare() {
    OpenContext eager;  // what it goes on with where RTX's own capture is not trusted
    std::string reason;
    try {
      std::vector<ReplayOutput> outputs;
      for (const Slot& slot : slots()) {
        if (!slot.is_input) outputs.push_back({slot.name, slot.buffer.get(), slot.like.dtype, slot.like.bytes});
      }
      const auto run = [this] { enqueue(); };
      if (runner_.captures_itself()) {
        // Goes on with a context that replays graphs by itself, and runs it once, which is when it captures.
        const auto capture = [this, &eager] {
          OpenContext capturing = runner_.context(profile_, slots(), true);
          eager = std::exchange(opened_, std::move(capturing));
          point_all();
          enqueue();
        };
        reason = replay_differs(cuda_, outputs, run, capture, run);
      } else {
        const auto record = [this, &run] { graph_ = cuda_.capture(run); };
        reason = replay_differs(cuda_, outputs, run, record, [this] { graph_->launch(); });
      }
      if (!reason.empty()) reason = "its first replay is not the ordinary run: " + reason;
    } catch (const BackendError& error) {
      reason = std::string("it cannot be captured: ") + error.what();
    }
    // What was queued uses the context that goes now.
    cuda_.synchronize();
    const CudaDevice::Scope scope(cuda_);
    if (reason.empty()) {
      eager.context.reset();
      return;
    }
    runner_.warn_eager(reason);
    graph_.reset();
    if (eager.context) {
      std::swap(opened_, eager);
      eager.context.reset();
      point_all();
    }
    enqueue();
  }

  void point_all() {
    for (std::size_t slot = 0; slot < slots().size(); ++slot) point(slot);
  }

  TensorRTRunner& runner_;
  CudaDevice& cuda_;
  int profile_;
  OpenContext opened_;
  std::unique_ptr<CudaGraph> graph_;
};

std::unique_ptr<Binding> TensorRTRunner::bind(const Sizes& sizes) {
  return std::make_unique<TensorRTBinding>(*this, sizes, profile_for(sizes));
}

}  // namespace

std::unique_ptr<Runner> open_tensorrt_on(std::unique_ptr<TensorRTLibrary> library, std::shared_ptr<CudaDevice> device,
                                         TensorRTFile file) {
  return std::make_unique<TensorRTRunner>(std::move(library), std::move(device), std::move(file));
}

}  // namespace dit_deploy::runtime
