// Classifier-free guidance on arrays; dit_deploy/sampling/guidance.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

namespace dit_deploy::sampling {

struct Guidance {
  double scale = 1;
  std::optional<std::int64_t> channels;
  std::pair<double, double> interval{0, 1};
  double rescale = 0;
  bool batched = true;

  // Throws InputError as Python's __post_init__ does.
  void check() const;
  bool active(std::int64_t step, std::int64_t num_steps) const;
  // conditional := guided, [batch, channels_in_all, each] float32; allocates nothing. Throws InputError where there
  // are fewer channels than `channels`.
  void combine(float* conditional, const float* unconditional, std::size_t batch, std::size_t channels_in_all,
               std::size_t each) const;
};

}  // namespace dit_deploy::sampling
