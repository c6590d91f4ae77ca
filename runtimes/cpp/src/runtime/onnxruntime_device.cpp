#include "runtime/onnxruntime_device.h"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "dit_deploy/errors.hpp"
#include "runtime/backends.h"
#include "runtime/cuda.h"
#include "runtime/device_binding.h"
#include "runtime/element_type.h"
#include "runtime/replay.h"

namespace dit_deploy::runtime {
namespace {

// The number that tells ONNX Runtime to run as if it had no CUDA graphs.
constexpr int kNoGraph = -1;
// ONNX Runtime cannot give up a captured graph, and each holds memory: further sizes run without one.
constexpr int kGraphsASession = 16;
// Buffers that a tensor takes turns with: the solver's samples swap between two, its history between a few more.
constexpr std::size_t kValuesATensor = 8;

// Runs on one device take turns, and opening a session is one. ONNX Runtime captures in CUDA's global mode, during which no thread of the process may
// allocate memory; and the GPU would compute runs one after another anyhow.
class OnnxRuntimeDeviceRunner final : public Runner {
 public:
  OnnxRuntimeDeviceRunner(DeviceMemory memory, const std::filesystem::path& path, Component component,
                          const SessionSettings& settings)
      : memory_(std::move(memory)), path_(path), component_(std::move(component)), settings_(settings) {
    graphs_ = settings_.cuda_graphs;
    if (!graphs_) {
      session_ = open();
      return;
    }
    try {
      session_ = open();
    } catch (const BackendError& error) {
      settings_.cuda_graphs = graphs_ = false;
      session_ = open();  // it may refuse for another reason, which is the one to say
      warnings_.eager(what(), error.what());
    }
  }

  const Component& component() const override { return component_; }
  std::unique_ptr<Binding> bind(const Sizes& sizes) override;
  Device* device() override { return memory_.device.get(); }
  std::vector<std::string> warnings() const override { return warnings_.list(); }

  const DeviceMemory& memory() const { return memory_; }

  // The session of now, which is another one once CUDA graphs are given up.
  std::shared_ptr<Ort::Session> session() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return session_;
  }

  // The number of a CUDA graph that no binding has; none where there is to be none.
  std::optional<int> next_graph() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!graphs_ || last_graph_ == kGraphsASession) return std::nullopt;
    return ++last_graph_;
  }

  // Opens the session anew, without CUDA graphs; bindings take the new one when they run next.
  void give_up_graphs(const std::string& reason) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!graphs_) return;
    settings_.cuda_graphs = graphs_ = false;
    warnings_.eager(what(), reason);
    session_ = open();
  }

  // Waits for the device's other runs; see above.
  std::unique_lock<std::recursive_mutex> turn() const {
    if (memory_.turns == nullptr) return {};
    return std::unique_lock<std::recursive_mutex>(*memory_.turns);
  }

 private:
  std::shared_ptr<Ort::Session> open() const {
    const auto lock = turn();
    return open_session(path_, settings_, what());
  }

  std::string what() const { return path_.filename().string() + " of " + path_.parent_path().filename().string(); }

  DeviceMemory memory_;
  std::filesystem::path path_;
  Component component_;
  SessionSettings settings_;
  Warnings warnings_;
  std::mutex mutex_;
  bool graphs_ = false;
  int last_graph_ = 0;
  std::shared_ptr<Ort::Session> session_;
};

// Buffers of one size on the device. The first launch captures a CUDA graph where the runner has them.
class OnnxRuntimeDeviceBinding final : public BufferedBinding {
 public:
  OnnxRuntimeDeviceBinding(OnnxRuntimeDeviceRunner& runner, const Sizes& sizes)
      : BufferedBinding(runner.component(), sizes, runner.memory().device),
        runner_(runner),
        info_(runner.memory().kind.c_str(), OrtDeviceAllocator, runner.memory().index, OrtMemTypeDefault),
        session_(runner.session()),
        io_(*session_),
        values_(slots().size()) {
    number(eager_, kNoGraph);
  }

 protected:
  void point(std::size_t slot) override {
    const Slot& to = slots()[slot];
    try {
      const Ort::Value& value = value_of(slot);
      if (to.is_input) {
        io_.BindInput(to.name.c_str(), value);
      } else {
        io_.BindOutput(to.name.c_str(), value);
      }
    } catch (const Ort::Exception& error) {
      throw BackendError("ONNX Runtime refuses the buffer of " + to.name + ": " + first_line(error.what()));
    }
  }

  void compute() override {
    follow_session();
    if (graph_ && compared_.count(std::this_thread::get_id()) == 0) {
      compare(*graph_);
    } else {
      run_by(graph_ ? numbered_ : eager_);
    }
  }

  void capture() override {
    follow_session();
    if (const auto graph = runner_.next_graph()) {
      compare(*graph);
    } else {
      compute();
    }
  }

  void forget_capture() override { graph_.reset(); }

 private:
  struct Value {
    void* address;
    Ort::Value value;
  };

  static void number(Ort::RunOptions& options, int graph) {
    options.SetRunLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    options.AddConfigEntry("gpu_graph_id", std::to_string(graph).c_str());
  }

  // What ONNX Runtime calls the buffer of a slot; made once for an address, so that swapping buffers allocates nothing
  // here.
  const Ort::Value& value_of(std::size_t slot) {
    const Slot& of = slots()[slot];
    auto& known = values_[slot];
    void* const address = of.buffer->address();
    for (const Value& one : known) {
      if (one.address == address) return one.value;
    }
    if (known.size() == kValuesATensor) known.clear();
    known.push_back({address, Ort::Value::CreateTensor(info_, address, of.like.bytes, of.like.shape.data(),
                                                       of.like.shape.size(), element_type(of.like.dtype))});
    return known.back().value;
  }

  // Runs, captures, and replays once to compare; where that is not the same, runs without from here on.
  void compare(int graph) {
    std::string reason;
    try {
      numbered_ = Ort::RunOptions();
      number(numbered_, graph);
      std::vector<ReplayOutput> outputs;
      for (const Slot& slot : slots()) {
        if (!slot.is_input) outputs.push_back({slot.name, slot.buffer.get(), slot.like.dtype, slot.like.bytes});
      }
      // ONNX Runtime warms up and captures in the first run of a graph's number.
      const auto numbered = [this] { run_by(numbered_); };
      reason = replay_differs(device(), outputs, [this] { run_by(eager_); }, numbered, numbered);
      if (!reason.empty()) reason = "its first replay is not the ordinary run: " + reason;
    } catch (const BackendError& error) {
      reason = std::string("it cannot be captured: ") + error.what();
    }
    if (reason.empty()) {
      graph_ = graph;
      compared_.insert(std::this_thread::get_id());
    } else {
      graph_.reset();
      runner_.give_up_graphs(reason);
      compute();
    }
  }

  void follow_session() {
    auto now = runner_.session();
    if (now == session_) return;
    session_ = std::move(now);
    io_ = Ort::IoBinding(*session_);
    graph_.reset();
    compared_.clear();
    for (std::size_t slot = 0; slot < slots().size(); ++slot) {
      if (slots()[slot].buffer) point(slot);
    }
  }

  // ONNX Runtime waits for its own stream at the end of a run, so that what is asked of the device later finds the
  // outputs there; what was asked before has to be waited for here. It could compute on the device's stream instead
  // (user_compute_stream), but would wait all the same, and capture whatever else falls into that stream.
  void run_by(const Ort::RunOptions& options) {
    const DeviceMemory& memory = runner_.memory();
    const auto lock = runner_.turn();
    if (memory.settle) memory.settle();
    try {
      session_->Run(options, io_);
    } catch (const Ort::Exception& error) {
      throw BackendError("ONNX Runtime failed in " + component().path + ": " + first_line(error.what()));
    }
  }

  OnnxRuntimeDeviceRunner& runner_;
  Ort::MemoryInfo info_;
  std::shared_ptr<Ort::Session> session_;
  Ort::IoBinding io_;
  std::vector<std::vector<Value>> values_;
  Ort::RunOptions eager_, numbered_;
  std::optional<int> graph_;
  // ONNX Runtime's CUDA graphs are each thread's own: another one captures again, which is compared again.
  std::set<std::thread::id> compared_;
};

std::unique_ptr<Binding> OnnxRuntimeDeviceRunner::bind(const Sizes& sizes) {
  try {
    return std::make_unique<OnnxRuntimeDeviceBinding>(*this, sizes);
  } catch (const Ort::Exception& error) {
    throw BackendError("ONNX Runtime makes no buffers for " + what() + ": " + first_line(error.what()));
  }
}

}  // namespace

std::unique_ptr<Runner> open_onnxruntime_on(DeviceMemory memory, const std::filesystem::path& path, Component component,
                                            const SessionSettings& settings) {
  return std::make_unique<OnnxRuntimeDeviceRunner>(std::move(memory), path, std::move(component), settings);
}

std::unique_ptr<Runner> open_onnxruntime_cuda(const std::filesystem::path& path, Component component,
                                              const SessionSettings& settings) {
  int index = 0;
  if (const auto given = settings.provider_options.find("device_id"); given != settings.provider_options.end()) {
    char* end = nullptr;
    const long value = std::strtol(given->second.c_str(), &end, 10);
    if (given->second.empty() || *end != '\0' || value < 0 || value > 1024) {
      throw InputError("provider option device_id: " + given->second +
                       " came, expected the number of a GPU, 0 or more");
    }
    index = static_cast<int>(value);
  }
  const auto device = CudaDevice::open(index);
  DeviceMemory memory;
  memory.device = device;
  memory.kind = "Cuda";
  memory.index = index;
  memory.settle = [device] { device->synchronize(); };
  memory.turns = &device->mutex();
  return open_onnxruntime_on(std::move(memory), path, std::move(component), settings);
}

}  // namespace dit_deploy::runtime
