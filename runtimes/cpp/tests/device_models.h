// A denoiser and the solver graph in plain C++, with buffers on a device; golden_device.py has them as graphs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle/engine.h"
#include "bundle/manifest.h"
#include "pipeline_stubs.h"
#include "runtime/device_binding.h"
#include "sampling/solver_row.h"

namespace dit_deploy::tests {

// Of a bundle with stub_denoiser().
inline bundle::Manifest device_manifest(bool learned) {
  bundle::Manifest manifest;
  manifest.latents.channels = 4;
  manifest.latents.height = manifest.latents.width = 8;
  manifest.latents.patch_size = 2;
  manifest.latents.spatial_compression = 8;
  manifest.prediction.learned_range_variance = learned;
  manifest.components.emplace_back("denoiser", stub_denoiser());
  return manifest;
}

// Where a tensor is, how many values it has, and its first size.
struct Values {
  float* data = nullptr;
  std::size_t count = 0, first = 0;
};
using Lookup = std::function<Values(std::string_view name)>;

// prediction = tanh(latents + 0.001 · timestep + 0.05 · class), variance = its negative.
inline void compute_denoiser(const Lookup& find) {
  const Values latents = find("latents"), timestep = find("timestep"), prediction = find("prediction");
  const auto* const labels = reinterpret_cast<const std::int64_t*>(find("class_labels").data);
  float* const variance = find("variance").data;
  const std::size_t each = latents.count / latents.first;
  for (std::size_t i = 0; i < latents.count; ++i) {
    const std::size_t sample = i / each;
    const float shift = static_cast<float>(labels[sample]) * 0.05f + timestep.data[sample] * 0.001f;
    prediction.data[i] = std::tanh(latents.data[i] + shift);
    variance[i] = -prediction.data[i];
  }
}

// As exporters/solver_graph.py says.
inline void compute_solver(const Lookup& find) {
  constexpr std::size_t kTerms = 5 + sampling::kOlder;
  const Values sample = find("sample"), prediction = find("prediction"), variance = find("variance");
  const Values next_sample = find("next_sample"), copies = find("copies"), model_input = find("model_input");
  const Values channels = find("guided_channels");
  const float* const row = find("coefficients").data;
  const float *const sample_row = row + 3, *const saved_row = sample_row + kTerms;
  const float* const rest = saved_row + kTerms;  // slope, middle, learned, guidance, input_scale, timestep
  const std::size_t each = sample.count / sample.first / channels.count;
  float magnitude = 0;
  for (std::size_t i = 0; i < sample.count; ++i) {
    const float conditional = prediction.data[i], unconditional = prediction.data[prediction.count - sample.count + i];
    const float weight = channels.data[i / each % channels.count] * rest[3];
    const float guided = conditional + weight * (conditional - unconditional);
    const float raw = row[0] * sample.data[i] + row[1] * guided;
    const float converted = std::max(std::min(raw, row[2]), -row[2]);
    const float basis[kTerms] = {sample.data[i],
                                 find("saved").data[i],
                                 guided,
                                 find("noise").data[i],
                                 converted,
                                 find("older_1").data[i],
                                 find("older_2").data[i],
                                 find("older_3").data[i]};
    float next = 0, saved = 0;
    for (std::size_t term = 0; term < kTerms; ++term) {
      next += sample_row[term] * basis[term];
      saved += saved_row[term] * basis[term];
    }
    if (variance.data != nullptr) next += rest[2] * std::exp(variance.data[i] * rest[0] + rest[1]) * basis[3];
    next_sample.data[i] = next;
    find("next_saved").data[i] = saved;
    find("converted").data[i] = converted;
    magnitude += std::abs(next) + std::abs(guided);
  }
  for (std::size_t i = 0; i < model_input.count; ++i)
    model_input.data[i] = rest[4] * next_sample.data[i % sample.count];
  for (std::size_t i = 0; i < copies.count; ++i) find("next_timestep").data[i] = copies.data[i] * rest[5];
  find("magnitude").data[0] = magnitude;
}

// The one of the two that a component declares.
inline void compute_component(const bundle::Component& component, const Lookup& find) {
  if (component.input("coefficients") != nullptr) {
    compute_solver(find);
  } else {
    compute_denoiser(find);
  }
}

// Computes on the host what is in buffers that it can address.
class StubDeviceBinding : public runtime::BufferedBinding {
 public:
  StubDeviceBinding(const bundle::Component& component, const bundle::Sizes& sizes,
                    std::shared_ptr<runtime::Device> device, std::size_t& runs)
      : BufferedBinding(component, sizes, std::move(device)), runs_(runs) {
    find_ = [this](std::string_view name) {
      for (const Slot& slot : slots()) {
        if (slot.name != name) continue;
        return Values{static_cast<float*>(slot.buffer->address()), slot.like.bytes / sizeof(float),
                      static_cast<std::size_t>(slot.like.shape[0])};
      }
      return Values{};
    };
  }

 protected:
  void point(std::size_t) override {}
  void compute() override {
    ++runs_;
    compute_component(component(), find_);
  }

 private:
  std::size_t& runs_;
  Lookup find_;
};

// Counts its runs in `runs`, which outlives it.
class StubDeviceRunner : public runtime::Runner {
 public:
  StubDeviceRunner(bundle::Component component, std::shared_ptr<runtime::Device> device, std::size_t& runs)
      : component_(std::move(component)), device_(std::move(device)), runs_(runs) {}
  const bundle::Component& component() const override { return component_; }
  std::unique_ptr<runtime::Binding> bind(const bundle::Sizes& sizes) override {
    return std::make_unique<StubDeviceBinding>(component_, sizes, device_, runs_);
  }
  runtime::Device* device() override { return device_.get(); }

 private:
  bundle::Component component_;
  std::shared_ptr<runtime::Device> device_;
  std::size_t& runs_;
};

}  // namespace dit_deploy::tests
