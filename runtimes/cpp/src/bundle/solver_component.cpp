// The solver graph's inputs and outputs, derived from the manifest like every other component's;
// dit_deploy/bundle/solver.py.
#include "bundle/engine.h"
#include "sampling/solver_row.h"

namespace dit_deploy::bundle {
namespace {

TensorSpec spec(std::string name, std::vector<AxisSpec> axes, std::string description) {
  TensorSpec made;
  made.name = std::move(name);
  made.axes = std::move(axes);
  made.description = std::move(description);
  return made;
}

Axis axis(std::string name, std::optional<std::int64_t> maximum = std::nullopt) {
  Axis made;
  made.name = std::move(name);
  made.maximum = maximum;
  return made;
}

std::vector<AxisSpec> after(const AxisSpec& first, std::vector<AxisSpec> rest) {
  rest.insert(rest.begin(), first);
  return rest;
}

}  // namespace

Component solver_component(const Manifest& manifest, const std::string& path) {
  const Component* denoiser = manifest.component("denoiser");
  const TensorSpec* latents = denoiser == nullptr ? nullptr : denoiser->input("latents");
  if (latents == nullptr || latents->axes.size() < 2) throw InputError("the manifest has no denoiser of latents");
  const Axis batch = axis("batch");
  std::vector<AxisSpec> each(latents->axes.begin() + 1, latents->axes.end());  // [channels, (frames,) height, width]
  each[0] = manifest.latents.channels;
  const std::vector<AxisSpec> one = after(batch, each);
  const std::vector<AxisSpec> of_predictions = after(axis("predictions", 2), one);
  const std::vector<AxisSpec> of_copies{axis("copies", 2), batch};

  Component solver;
  solver.path = path;
  auto& inputs = solver.inputs;
  inputs.push_back(spec("sample", one, "the current sample"));
  inputs.push_back(spec("saved", one, "the saved sample"));
  for (std::size_t k = 1; k <= sampling::kOlder; ++k)
    inputs.push_back(spec("older_" + std::to_string(k), one, "a converted output of an earlier row"));
  inputs.push_back(spec("noise", one, "standard normal; any finite values where the row has no noise"));
  inputs.push_back(spec("prediction", of_predictions, "the denoiser's, conditional first"));
  if (manifest.prediction.learned_range_variance)
    inputs.push_back(spec("variance", of_predictions, "the denoiser's learned variance; the conditional one counts"));
  inputs.push_back(spec("copies", of_copies, "ones, as many as there are samples in the next model input"));
  inputs.push_back(spec("guided_channels", {manifest.latents.channels}, "1 for a channel that is guided, else 0"));
  inputs.push_back(spec("coefficients", {static_cast<std::int64_t>(sampling::kSolverWidth)},
                        "the row, see dit_deploy.sampling.solver_row.LAYOUT"));
  solver.outputs = {
      spec("next_sample", one, "the new sample"),
      spec("next_saved", one, "the new saved sample"),
      spec("converted", one, "the row's own converted output, m_0"),
      spec("model_input", after(axis("copies", 2), one),
           "input_scale of the next row times the new sample, once a copy"),
      spec("next_timestep", of_copies, "the next row's timestep, once a copy of a sample"),
      spec("magnitude", {std::int64_t{1}}, "finite exactly where the new sample and the guided prediction are"),
  };
  return solver;
}

}  // namespace dit_deploy::bundle
