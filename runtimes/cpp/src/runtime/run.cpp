#include "runtime/run.h"

#include <string>
#include <utility>

#include "bundle/shapes.h"
#include "runtime/experts.h"
#include "runtime/host_steps.h"
#include "runtime/windows.h"

namespace dit_deploy::runtime {
namespace {

std::unique_ptr<Denoiser> denoiser_of(std::shared_ptr<BindingPool> pool, const Run& run, const Course& course) {
  if (!course.windows.empty()) return std::make_unique<WindowedDenoiser>(pool, run, course.windows);
  return std::make_unique<GuidedDenoiser>(std::move(pool), run);
}

// Keeps what the steps on the device work with.
class Kept final : public Steps {
 public:
  Kept(std::shared_ptr<BindingPool> pool, std::unique_ptr<Steps> steps)
      : pool_(std::move(pool)), steps_(std::move(steps)) {}

  void predict(std::size_t row) override { steps_->predict(row); }
  void advance(std::size_t row, const float* noise) override { steps_->advance(row, noise); }
  void check(std::int64_t step) override { steps_->check(step); }
  const float* latents() override { return steps_->latents(); }
  double seconds() const override { return steps_->seconds(); }

 private:
  const std::shared_ptr<BindingPool> pool_;
  const std::unique_ptr<Steps> steps_;  // gone before the pool
};

}  // namespace

std::unique_ptr<Steps> open_steps(Components& components, const Run& run, const Course& course, const float* start) {
  const auto& experts = run.manifest.experts;
  const auto size = static_cast<std::size_t>(bundle::elements(run.shape));
  if (!experts) {
    auto pool = components.pool("denoiser");
    if (!course.windows.empty())
      return std::make_unique<HostSteps>(denoiser_of(std::move(pool), run, course), run.table, size, start);
    BindingPool* solver = pool->runner().device() == nullptr ? nullptr : components.solver();
    auto steps = open_steps(*pool, solver, run, start);
    return std::make_unique<Kept>(std::move(pool), std::move(steps));
  }
  const auto make = [&components, &run, &course, name = experts->component](bool first) {
    if (first) return denoiser_of(components.pool("denoiser"), run, course);
    const Run second{run.manifest,           run.table, run.timestep_scale, run.conditions,
                     course.second_guidance, run.shape, run.grid,           run.unguided_grid};
    return denoiser_of(components.pool(name), second, course);
  };
  const auto released = [&components, alone = course.alone, name = experts->component](bool first) {
    if (alone) components.release(first ? "denoiser" : name);
  };
  return std::make_unique<HostSteps>(
      std::make_unique<ExpertDenoiser>(make, experts->boundary * course.num_train_timesteps, run.table, released),
      run.table, size, start);
}

}  // namespace dit_deploy::runtime
