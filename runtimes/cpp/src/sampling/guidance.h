// Classifier-free guidance on arrays; dit_deploy/sampling/guidance.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace dit_deploy::sampling {

// Guidance away from what the denoiser predicts without some of its blocks, on top of the usual one (SD 3.5).
struct SkipLayerGuidance {
  std::vector<std::int64_t> layers;
  double scale = 2.8;               // of conditional − conditional without the blocks, which is added
  double start = 0.01, stop = 0.2;  // fractions of the steps between which it is on, both ends left out

  // Throws InputError as Python's __post_init__ does.
  void check() const;
  bool active(std::int64_t step, std::int64_t num_steps) const;
  // Adds scale · (conditional − without) to `guided`, `count` float32 each.
  void add(float* guided, const float* conditional, const float* without, std::size_t count) const;
};

struct Guidance {
  double scale = 1;
  std::optional<std::int64_t> channels;
  std::pair<double, double> interval{0, 1};
  double rescale = 0;
  bool batched = true;
  // Latent pixels on a side of a token, each of which is brought back to the length of the conditional one (Qwen-Image).
  std::optional<std::int64_t> token;
  std::optional<SkipLayerGuidance> skip;  // in steps that are guided; of use to the caller only
  bool variance = false;                  // a learned variance is guided like the prediction; the same
  // Guide at a scale of 1 and below too: of the second of two denoisers in a run whose first is guided.
  bool any_scale = false;

  // Throws InputError as Python's __post_init__ does.
  void check() const;
  // Whether any step is guided, as far as the scale goes; and whether one is.
  bool on() const { return any_scale || scale > 1; }
  bool active(std::int64_t step, std::int64_t num_steps) const;
  // conditional := guided, [batch, channels_in_all, each] float32, where `each` is (frames ×) height × `width`; allocates
  // nothing. Throws InputError where there are fewer channels than `channels`.
  void combine(float* conditional, const float* unconditional, std::size_t batch, std::size_t channels_in_all,
               std::size_t each, std::size_t width) const;
};

}  // namespace dit_deploy::sampling
