#include "runtime/steps.h"

#include "runtime/host_steps.h"

namespace dit_deploy::runtime {

std::unique_ptr<Steps> open_steps(BindingPool& denoiser, BindingPool* solver, const Run& run, const float* start) {
  if (solver != nullptr && why_not_on_device(denoiser, solver, run).empty()) {
    return open_device_steps(denoiser, *solver, run, start);
  }
  return std::make_unique<HostSteps>(denoiser, run, start);
}

}  // namespace dit_deploy::runtime
