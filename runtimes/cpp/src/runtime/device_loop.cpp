// The sampling loop on the device: latents go up once and come down once; runtimes/device_loop.py.
//
// The denoiser's runner and the solver graph's share a device. Each step uploads one row of coefficients (a hundred
// bytes), and noise where a sampler draws it; the solver graph writes the next model input and timestep where the
// denoiser reads them. What comes down after a step is one number, which tells whether everything is finite; waiting for
// it costs the device some tens of microseconds of idleness a step, and stops a run at the step that went wrong.
//
// Rescaled guidance and that of tokens, skip-layer guidance, and guidance in two calls (of half the memory, or of texts of
// two lengths) are left to the loop on the host (host_steps.h), and so are a guided variance, windows and two denoisers.
#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"
#include "runtime/device.h"
#include "runtime/finite.h"
#include "runtime/steps.h"
#include "sampling/solver_row.h"

namespace dit_deploy::runtime {
namespace {

using BufferPtr = std::shared_ptr<Buffer>;

// The inputs of the solver graph that older converted outputs go to.
constexpr std::array<std::string_view, sampling::kOlder> kOlderNames{"older_1", "older_2", "older_3"};

// Adds the time until it goes out of scope.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), started_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point started_;
};

// After the first row of each kind (guided or not, and what the next one is), steps allocate nothing.
class DeviceSteps final : public Steps {
 public:
  DeviceSteps(BindingPool& denoiser, BindingPool& solver, const Run& run, const float* start);

  void predict(std::size_t row) override;
  void advance(std::size_t row, const float* noise) override;
  void check(std::int64_t step) override;
  const float* latents() override;
  double seconds() const override { return seconds_; }

 private:
  // A borrowed binding, which is one on the device.
  struct Bound {
    BindingPool::Lease lease;
    DeviceBinding* operator->() const { return static_cast<DeviceBinding*>(&*lease); }
  };

  std::size_t copies_of(std::size_t row) const { return rows_[row].guided ? 2 : 1; }
  Bound& denoiser(std::size_t copies);
  Bound& solver(std::size_t predictions, std::size_t copies);
  Sizes sizes(std::size_t batch) const;
  void begin(const float* start);
  BufferPtr floats(std::size_t count) { return device_.allocate(count * sizeof(float)); }
  BufferPtr uploaded(const std::vector<float>& values);

  BindingPool& denoisers_;
  BindingPool& solvers_;
  Device& device_;
  const Run run_;
  const std::vector<sampling::SolverRow> rows_;
  const std::size_t batch_, size_;
  const bool learned_;
  double seconds_ = 0;
  std::array<Bound, 2> denoiser_bound_;               // by copies - 1
  std::array<std::array<Bound, 2>, 2> solver_bound_;  // by predictions - 1, copies - 1
  BufferPtr sample_, spare_, saved_, spare_saved_, zeros_, noise_, converted_;
  std::vector<BufferPtr> history_;  // m_1 first
  BufferPtr coefficients_, channels_, magnitude_;
  std::array<BufferPtr, 2> ones_;  // by copies - 1
  std::vector<float> host_;
};

DeviceSteps::DeviceSteps(BindingPool& denoiser, BindingPool& solver, const Run& run, const float* start)
    : denoisers_(denoiser),
      solvers_(solver),
      device_(*denoiser.runner().device()),
      run_(run),
      rows_(sampling::solver_rows(run.table, run.guidance, run.timestep_scale)),
      batch_(static_cast<std::size_t>(run.shape.at(0))),
      size_(static_cast<std::size_t>(bundle::elements(run.shape))),
      learned_(solver.runner().component().input("variance") != nullptr),
      host_(size_) {
  for (BufferPtr* buffer : {&sample_, &spare_, &saved_, &spare_saved_, &zeros_, &noise_, &converted_}) {
    *buffer = floats(size_);
  }
  const std::size_t history = run.table.history();
  while (history_.size() + 1 < history) history_.push_back(floats(size_));
  coefficients_ = floats(sampling::kSolverWidth);
  magnitude_ = floats(1);
  const auto channels = static_cast<std::size_t>(run.shape.at(1));
  std::vector<float> mask(channels, 0.0f);
  const auto guided = static_cast<std::size_t>(run.guidance.channels.value_or(run.shape.at(1)));
  std::fill_n(mask.begin(), std::min(guided, channels), 1.0f);
  channels_ = uploaded(mask);
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    const std::size_t copies = copies_of(row);
    if (!ones_[copies - 1]) ones_[copies - 1] = uploaded(std::vector<float>(copies * batch_, 1.0f));
  }
  begin(start);
}

void DeviceSteps::predict(std::size_t row) {
  const Stopwatch watch(seconds_);
  // Before the denoiser is busy: a copy from ordinary memory may wait for what was queued.
  const auto& coefficients = rows_.at(row).coefficients;
  device_.upload(*coefficients_, coefficients.data(), sizeof coefficients);
  denoiser(copies_of(row))->launch();
}

void DeviceSteps::advance(std::size_t row, const float* noise) {
  const Stopwatch watch(seconds_);
  const sampling::SolverRow& own = rows_.at(row);
  const std::size_t copies = copies_of(row), then = copies_of(std::min(row + 1, rows_.size() - 1));
  if (own.noise) {
    if (noise == nullptr) throw InputError("noise: row " + std::to_string(row) + " of the solver table needs it");
    device_.upload(*noise_, noise, size_ * sizeof(float));
  }
  Bound& predicted = denoiser(copies);
  Bound& next = denoiser(then);
  Bound& update = solver(copies, then);
  update->attach("sample", sample_);
  update->attach("saved", saved_);
  for (std::size_t place = 0; place < kOlderNames.size(); ++place) {
    update->attach(kOlderNames[place], place < own.older.size() ? history_.at(own.older[place] - 1) : zeros_);
  }
  update->attach("noise", noise_);
  update->attach("prediction", predicted->buffer("prediction"));
  if (learned_) update->attach("variance", predicted->buffer("variance"));
  update->attach("copies", ones_[then - 1]);
  update->attach("guided_channels", channels_);
  update->attach("coefficients", coefficients_);
  update->attach("next_sample", spare_);
  update->attach("next_saved", spare_saved_);
  update->attach("converted", converted_);
  update->attach("model_input", next->buffer("latents"));
  update->attach("next_timestep", next->buffer("timestep"));
  update->attach("magnitude", magnitude_);
  update->launch();
  std::swap(sample_, spare_);
  std::swap(saved_, spare_saved_);
  if (!history_.empty()) {
    std::swap(history_.back(), converted_);  // the oldest gives its place to the next row's
    std::rotate(history_.begin(), history_.end() - 1, history_.end());
  }
}

void DeviceSteps::check(std::int64_t step) {
  float magnitude = 0;
  {
    const Stopwatch watch(seconds_);
    device_.download(*magnitude_, &magnitude, sizeof magnitude);
  }
  check_latents(&magnitude, 1, step, run_.table.num_steps);
}

const float* DeviceSteps::latents() {
  device_.download(*sample_, host_.data(), size_ * sizeof(float));
  return host_.data();
}

// Uploads the first sample and the first model input, as the solver graph will make the later ones.
void DeviceSteps::begin(const float* start) {
  device_.upload(*sample_, start, size_ * sizeof(float));
  const sampling::Row& first = run_.table.rows.at(0);
  const std::size_t copies = copies_of(0);
  const auto scale = static_cast<float>(first.input_scale);
  std::vector<float> values(copies * size_);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = scale * start[i % size_];
  Bound& binding = denoiser(copies);
  device_.upload(*binding->buffer("latents"), values.data(), values.size() * sizeof(float));
  values.assign(copies * batch_, static_cast<float>(first.timestep * run_.timestep_scale));
  device_.upload(*binding->buffer("timestep"), values.data(), values.size() * sizeof(float));
}

// The denoiser's binding for so many copies of the sample, its conditions uploaded.
DeviceSteps::Bound& DeviceSteps::denoiser(std::size_t copies) {
  Bound& bound = denoiser_bound_[copies - 1];
  if (bound.lease) return bound;
  Bound borrowed{denoisers_.borrow(sizes(copies * batch_))};
  for (const Condition& condition : run_.conditions) {
    std::vector<std::byte> data = condition.conditional.data;
    const auto& other = condition.unconditional.data;
    if (copies > 1) data.insert(data.end(), other.begin(), other.end());
    device_.upload(*borrowed->buffer(condition.name), data.data(), data.size());
  }
  bound = std::move(borrowed);
  return bound;
}

DeviceSteps::Bound& DeviceSteps::solver(std::size_t predictions, std::size_t copies) {
  Bound& bound = solver_bound_[predictions - 1][copies - 1];
  if (bound.lease) return bound;
  Sizes wanted = sizes(batch_);
  wanted["predictions"] = static_cast<std::int64_t>(predictions);
  wanted["copies"] = static_cast<std::int64_t>(copies);
  bound.lease = solvers_.borrow(wanted);
  return bound;
}

Sizes DeviceSteps::sizes(std::size_t batch) const {
  Sizes all = run_.grid;
  all["batch"] = static_cast<std::int64_t>(batch);
  return all;
}

BufferPtr DeviceSteps::uploaded(const std::vector<float>& values) {
  BufferPtr buffer = floats(values.size());
  device_.upload(*buffer, values.data(), values.size() * sizeof(float));
  return buffer;
}

}  // namespace

std::string why_not_on_device(BindingPool& denoiser, BindingPool* solver, const Run& run) {
  const Device* device = denoiser.runner().device();
  if (device == nullptr) return "the denoiser runs on the host";
  if (solver == nullptr) return "the engine has no solver graph; build it again";
  const Device* other = solver->runner().device();
  if (other == nullptr || other->name() != device->name()) {
    return "the solver graph does not run on the denoiser's device";
  }
  if (run.guidance.scale > 1 && !run.guidance.batched) return "guidance in two calls is the host's";
  if (run.guidance.skip) return "skip-layer guidance is a third call, which is the host's";
  if (run.guidance.scale > 1 && run.guidance.variance && run.table.needs_variance())
    return "a guided variance is the host's";
  if (run.guidance.scale > 1 && !run.unguided_grid.empty()) {
    return "conditions of two sizes are two calls, which is the host's";
  }
  return sampling::no_solver_rows(run.table, run.guidance);
}

std::unique_ptr<Steps> open_device_steps(BindingPool& denoiser, BindingPool& solver, const Run& run,
                                         const float* start) {
  return std::make_unique<DeviceSteps>(denoiser, solver, run, start);
}

}  // namespace dit_deploy::runtime
