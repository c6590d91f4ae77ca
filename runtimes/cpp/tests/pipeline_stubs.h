// Runners for tests of what stands around a backend: a denoiser of plain arithmetic, and one that spoils an output.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle/shapes.h"
#include "runtime/runner.h"

namespace dit_deploy::tests {

// A class-conditional denoiser's declaration: 4 channels, 2 × 2 patches, learned variance.
inline bundle::Component stub_denoiser() {
  using bundle::Axis;
  const auto tensor = [](const char* name, DType dtype, std::vector<bundle::AxisSpec> axes) {
    bundle::TensorSpec spec;
    spec.name = name;
    spec.dtype = dtype;
    spec.axes = std::move(axes);
    return spec;
  };
  const Axis batch{"batch", 1, 1, {}}, height{"patch_height", 2, 1, {}}, width{"patch_width", 2, 1, {}};
  bundle::Component component;
  component.inputs = {tensor("latents", DType::float32, {batch, std::int64_t{4}, height, width}),
                      tensor("timestep", DType::float32, {batch}), tensor("class_labels", DType::int64, {batch})};
  component.outputs = {tensor("prediction", DType::float32, {batch, std::int64_t{4}, height, width}),
                       tensor("variance", DType::float32, {batch, std::int64_t{4}, height, width})};
  return component;
}

// Buffers of a component's declared shapes.
class StubBinding : public runtime::Binding {
 public:
  StubBinding(const bundle::Component& component, const bundle::Sizes& sizes) {
    for (const auto* specs : {&component.inputs, &component.outputs}) {
      for (const bundle::TensorSpec& spec : *specs) {
        Held& held = (specs == &component.inputs ? inputs_ : outputs_)[spec.name];
        held.tensor.dtype = spec.dtype;
        held.tensor.shape = bundle::shape_of(spec, sizes);
        held.tensor.bytes =
            static_cast<std::size_t>(bundle::elements(held.tensor.shape)) * bundle::dtype_size(spec.dtype);
        held.memory.resize(held.tensor.bytes / sizeof(std::int64_t) + 1);
        held.tensor.data = held.memory.data();
      }
    }
  }
  const runtime::HostTensor* input(std::string_view name) override { return find(inputs_, name); }
  const runtime::HostTensor* output(std::string_view name) override { return find(outputs_, name); }

  // Something that depends on every input, sample by sample, and stays small.
  void run() override {
    const runtime::HostTensor& latents = *input("latents");
    const auto batch = static_cast<std::size_t>(latents.shape[0]), each = latents.bytes / sizeof(float) / batch;
    const auto* sample = static_cast<const float*>(latents.data);
    const auto* timestep = static_cast<const float*>(input("timestep")->data);
    const auto* label = static_cast<const std::int64_t*>(input("class_labels")->data);
    auto* prediction = static_cast<float*>(output("prediction")->data);
    auto* variance = static_cast<float*>(output("variance")->data);
    for (std::size_t b = 0; b < batch; ++b) {
      for (std::size_t i = b * each; i < (b + 1) * each; ++i) {
        prediction[i] = 0.5f * sample[i] + 1e-4f * timestep[b] + 1e-2f * static_cast<float>(label[b]);
        variance[i] = 0.25f;
      }
    }
  }

 private:
  struct Held {
    runtime::HostTensor tensor;
    std::vector<std::int64_t> memory;
  };
  using Named = std::map<std::string, Held, std::less<>>;

  static const runtime::HostTensor* find(const Named& named, std::string_view name) {
    const auto found = named.find(name);
    return found == named.end() ? nullptr : &found->second.tensor;
  }

  Named inputs_, outputs_;
};

// Counts its bindings in `binds`, which outlives it.
class StubRunner : public runtime::Runner {
 public:
  explicit StubRunner(std::size_t& binds, bundle::Component component = stub_denoiser())
      : binds_(binds), component_(std::move(component)) {}
  const bundle::Component& component() const override { return component_; }
  std::unique_ptr<runtime::Binding> bind(const bundle::Sizes& sizes) override {
    ++binds_;
    return std::make_unique<StubBinding>(component_, sizes);
  }

 private:
  std::size_t& binds_;
  bundle::Component component_;
};

// What another runner computes, with one NaN in the output `name`.
class PoisonedRunner : public runtime::Runner {
 public:
  PoisonedRunner(std::unique_ptr<runtime::Runner> runner, std::string name)
      : runner_(std::move(runner)), name_(std::move(name)) {}
  const bundle::Component& component() const override { return runner_->component(); }
  std::unique_ptr<runtime::Binding> bind(const bundle::Sizes& sizes) override {
    return std::make_unique<Poisoned>(runner_->bind(sizes), name_);
  }

 private:
  class Poisoned : public runtime::Binding {
   public:
    Poisoned(std::unique_ptr<runtime::Binding> binding, std::string name)
        : binding_(std::move(binding)), name_(std::move(name)) {}
    const runtime::HostTensor* input(std::string_view name) override { return binding_->input(name); }
    const runtime::HostTensor* output(std::string_view name) override { return binding_->output(name); }
    void run() override {
      binding_->run();
      static_cast<float*>(binding_->output(name_)->data)[0] = std::numeric_limits<float>::quiet_NaN();
    }

   private:
    std::unique_ptr<runtime::Binding> binding_;
    std::string name_;
  };

  std::unique_ptr<runtime::Runner> runner_;
  std::string name_;
};

}  // namespace dit_deploy::tests
