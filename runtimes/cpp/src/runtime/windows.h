// A long video by windows of latents: the denoiser sees some frames at a time, and its predictions are averaged at every
// step, as in MultiDiffusion (Bar-Tal et al. 2023), here along time; runtimes/windows.py.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "dit_deploy/pipeline.hpp"
#include "runtime/guided.h"
#include "runtime/tiling.h"

namespace dit_deploy::runtime {

// The windows of a video of `frames` latent frames, all of one length; none where one holds it all. Throws InputError where
// the request's are no numbers that fit the model.
std::vector<Part> read_windows(const bundle::Manifest& manifest, std::optional<std::int64_t> frames,
                               const Request& request);

// How much each frame of each window counts: 1 where it is alone, rising and falling over overlaps.
std::vector<std::vector<float>> window_weights(const std::vector<Part>& windows, std::int64_t frames);

// Evaluates the denoiser window by window.
class WindowedDenoiser final : public Denoiser {
 public:
  // `run` is of the whole video. Throws InputError where a condition cannot be cut into windows.
  WindowedDenoiser(const std::shared_ptr<BindingPool>& denoiser, const Run& run, std::vector<Part> windows);

  Predicted predict(const Sampled& sampled, std::size_t row) override;
  void close() override;
  double seconds() const override;

 private:
  // What a window is evaluated with.
  struct Window {
    std::vector<Condition> conditions;
    std::unique_ptr<GuidedDenoiser> denoiser;
    std::vector<float> weights;
  };

  void add(const float* output, const Window& window, const Part& part, std::vector<float>& sum);

  const Shape shape_;
  const std::vector<Part> parts_;
  std::vector<Window> windows_;
  std::vector<float> input_, prediction_, variance_;
};

}  // namespace dit_deploy::runtime
