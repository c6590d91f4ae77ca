#include "runtime/windows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"
#include "runtime/frames.h"

namespace dit_deploy::runtime {
namespace {

// A window of the sample.
class Seen final : public Sampled {
 public:
  // `whole` is the model's input, [batch, channels, frames, …] of `shape`.
  Seen(const std::vector<float>& whole, const Shape& shape, const Part& part)
      : whole_(whole), shape_(shape), part_(part) {}

  void model_input(std::size_t, float* out) const override {
    const std::int64_t area = shape_[3] * shape_[4];
    for (std::int64_t plane = 0; plane < shape_[0] * shape_[1]; ++plane) {
      out = std::copy_n(whole_.data() + (plane * shape_[2] + part_.begin) * area, part_.size() * area, out);
    }
  }

 private:
  const std::vector<float>& whole_;
  const Shape& shape_;
  const Part& part_;
};

// A tensor cut along the axis of frames where it has one.
Tensor cut(const Tensor& tensor, const bundle::TensorSpec& spec, const Part& part, std::int64_t frames) {
  Tensor made = tensor;
  for (std::size_t index = 0; index < spec.axes.size(); ++index) {
    const auto* axis = std::get_if<bundle::Axis>(&spec.axes[index]);
    if (axis == nullptr || axis->name != "patch_frames") continue;
    if (made.shape[index] != frames)
      throw InputError("window_frames: " + spec.name + " of this model cannot be cut into windows");
    std::size_t outer = 1;
    for (std::size_t before = 0; before < index; ++before) outer *= static_cast<std::size_t>(made.shape[before]);
    const std::size_t each = made.data.size() / outer, inner = each / static_cast<std::size_t>(frames);
    std::vector<std::byte> data;
    for (std::size_t one = 0; one < outer; ++one) {
      const std::byte* from = made.data.data() + one * each + static_cast<std::size_t>(part.begin) * inner;
      data.insert(data.end(), from, from + static_cast<std::size_t>(part.size()) * inner);
    }
    made.data = std::move(data);
    made.shape[index] = part.size();
  }
  return made;
}

std::vector<Condition> cut(const std::vector<Condition>& conditions, const Component& component, const Part& part,
                           std::int64_t frames) {
  std::vector<Condition> made;
  for (const Condition& one : conditions) {
    const bundle::TensorSpec& spec = *component.input(one.name);
    made.push_back(
        {one.name, cut(one.conditional, spec, part, frames), cut(one.unconditional, spec, part, frames), {}});
    if (one.skipping) made.back().skipping = cut(*one.skipping, spec, part, frames);
  }
  return made;
}

}  // namespace

std::vector<Part> read_windows(const bundle::Manifest& manifest, std::optional<std::int64_t> frames,
                               const Request& request) {
  if (!request.window_frames) {
    if (request.window_overlap) throw InputError("window_overlap: came without window_frames; give both");
    return {};
  }
  if (!frames) throw InputError("window_frames: this bundle draws pictures; leave it out");
  const std::int64_t window = *latent_frames(manifest, request.window_frames, "window_frames");
  const bundle::Latents& latents = manifest.latents;
  const std::int64_t patch = latents.temporal_patch_size, unit = latents.temporal_compression * patch;
  std::int64_t overlap = std::max<std::int64_t>(1, window / patch / 4) * patch;
  if (request.window_overlap) {
    overlap = *request.window_overlap / latents.temporal_compression;
    if (*request.window_overlap % unit != 0) {
      throw InputError("window_overlap: " + std::to_string(*request.window_overlap) + " came, expected a multiple of " +
                       std::to_string(unit) + " pictures");
    }
  }
  if (overlap < 0 || overlap >= window) {
    const std::string came = request.window_overlap ? std::to_string(*request.window_overlap) : "None";
    throw InputError("window_overlap: " + came + " came, expected less than a window's " +
                     std::to_string(*request.window_frames));
  }
  if (*frames <= window) return {};
  std::vector<Part> windows;
  for (std::int64_t start = 0; start < *frames - window; start += window - overlap)
    windows.push_back({start, start + window});
  windows.push_back({*frames - window, *frames});
  return windows;
}

std::vector<std::vector<float>> window_weights(const std::vector<Part>& windows, std::int64_t frames) {
  std::vector<std::vector<double>> made;
  std::vector<double> total(static_cast<std::size_t>(frames));
  for (std::size_t index = 0; index < windows.size(); ++index) {
    const Part& window = windows[index];
    const auto length = static_cast<std::size_t>(window.size());
    std::vector<double> weight(length, 1.0);
    const std::int64_t left = index > 0 ? windows[index - 1].end - window.begin : 0;
    const std::int64_t right = index + 1 < windows.size() ? window.end - windows[index + 1].begin : 0;
    for (std::int64_t i = 0; i < left; ++i)
      weight[static_cast<std::size_t>(i)] *= static_cast<double>(i + 1) / static_cast<double>(left + 1);
    for (std::int64_t i = 0; i < right; ++i)
      weight[length - 1 - static_cast<std::size_t>(i)] *= static_cast<double>(i + 1) / static_cast<double>(right + 1);
    for (std::size_t i = 0; i < length; ++i) total[static_cast<std::size_t>(window.begin) + i] += weight[i];
    made.push_back(std::move(weight));
  }
  std::vector<std::vector<float>> weights;
  for (std::size_t index = 0; index < windows.size(); ++index) {
    weights.emplace_back();
    for (std::size_t i = 0; i < made[index].size(); ++i) {
      const double all = total[static_cast<std::size_t>(windows[index].begin) + i];
      weights.back().push_back(static_cast<float>(made[index][i] / all));
    }
  }
  return weights;
}

WindowedDenoiser::WindowedDenoiser(const std::shared_ptr<BindingPool>& denoiser, const Run& run,
                                   std::vector<Part> windows)
    : shape_(run.shape), parts_(std::move(windows)), windows_(parts_.size()) {
  const Component& component = denoiser->runner().component();
  const auto weights = window_weights(parts_, shape_[2]);
  for (std::size_t index = 0; index < parts_.size(); ++index) {
    Window& window = windows_[index];
    window.conditions = cut(run.conditions, component, parts_[index], shape_[2]);
    window.weights = weights[index];
    Shape shape = shape_;
    shape[2] = parts_[index].size();
    Sizes grid = run.grid, unguided = run.unguided_grid;
    const auto& frames = std::get<bundle::Axis>(component.input("latents")->axes[2]);
    for (Sizes* sizes : {&grid, &unguided}) {
      if (!sizes->empty()) (*sizes)[frames.name] = *frames.free(shape[2]);  // read_windows() took such lengths only
    }
    window.denoiser = std::make_unique<GuidedDenoiser>(
        denoiser,
        Run{run.manifest, run.table, run.timestep_scale, window.conditions, run.guidance, shape, grid, unguided});
  }
  input_.resize(static_cast<std::size_t>(bundle::elements(shape_)));
  prediction_.resize(input_.size());
  if (component.output("variance") != nullptr) variance_.resize(input_.size());
}

Predicted WindowedDenoiser::predict(const Sampled& sampled, std::size_t row) {
  sampled.model_input(row, input_.data());
  for (std::vector<float>* sum : {&prediction_, &variance_}) std::fill(sum->begin(), sum->end(), 0.0F);
  for (std::size_t index = 0; index < windows_.size(); ++index) {
    Window& window = windows_[index];
    const Predicted one = window.denoiser->predict(Seen(input_, shape_, parts_[index]), row);
    add(one.prediction, window, parts_[index], prediction_);
    if (one.variance != nullptr) add(one.variance, window, parts_[index], variance_);
    window.denoiser->close();  // its buffers are the next window's
  }
  return {prediction_.data(), variance_.empty() ? nullptr : variance_.data()};
}

void WindowedDenoiser::add(const float* output, const Window& window, const Part& part, std::vector<float>& sum) {
  const std::int64_t area = shape_[3] * shape_[4];
  for (std::int64_t plane = 0; plane < shape_[0] * shape_[1]; ++plane) {
    float* out = sum.data() + (plane * shape_[2] + part.begin) * area;
    for (const float weight : window.weights) {
      for (std::int64_t i = 0; i < area; ++i) *out++ += *output++ * weight;
    }
  }
}

void WindowedDenoiser::close() {
  for (Window& window : windows_) window.denoiser->close();
}

double WindowedDenoiser::seconds() const {
  double sum = 0;
  for (const Window& window : windows_) sum += window.denoiser->seconds();
  return sum;
}

}  // namespace dit_deploy::runtime
