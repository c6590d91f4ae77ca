#include "sampling/guidance.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "dit_deploy/errors.hpp"
#include "sampling/singles.h"
#include "text.h"

namespace dit_deploy::sampling {

namespace {

// The sample standard deviation, in double.
double deviation(const float* values, std::size_t count) {
  constexpr std::size_t kLanes = 8;  // sums side by side, as the machine adds them
  std::array<double, kLanes> sums{}, squares{};
  std::size_t index = 0;
  for (; index + kLanes <= count; index += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(values[index + lane]);
      sums[lane] += value;
      squares[lane] += value * value;
    }
  }
  double sum = 0, square = 0;
  for (; index < count; ++index) {
    const auto value = static_cast<double>(values[index]);
    sum += value;
    square += value * value;
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
    square += squares[lane];
  }
  const auto all = static_cast<double>(count);
  const double mean = sum / all;
  return std::sqrt(std::max(square - all * (mean * mean), 0.0) / std::max(all - 1, 1.0));
}

// A token of a prediction [channels, rows, width]: `side` × `side` pixels at `first`, over all channels.
struct TokenPlace {
  std::size_t channels, each, width, side, first;

  // Calls visit(begin) for each row of its pixels.
  template <typename Visit>
  void rows(Visit&& visit) const {
    for (std::size_t channel = 0; channel < channels; ++channel) {
      for (std::size_t row = 0; row < side; ++row) visit(channel * each + first + row * width);
    }
  }
  // Its Euclidean length, summed as numpy sums it: of the pixels in a row their own sum first.
  float length(const float* values) const {
    float sum = 0;
    rows([&](std::size_t begin) {
      float own = 0;
      for (std::size_t index = begin; index < begin + side; ++index) own += values[index] * values[index];
      sum += own;
    });
    return std::sqrt(sum);
  }
};

// values := (values − others) · factor + others, each token brought back to the length that it has.
void guide_tokens(float* values, const float* others, float factor, TokenPlace token) {
  for (std::size_t row = 0; row < token.each / token.width; row += token.side) {
    for (std::size_t column = 0; column < token.width; column += token.side) {
      token.first = row * token.width + column;
      const float before = token.length(values);
      token.rows([&](std::size_t begin) {
        for (std::size_t index = begin; index < begin + token.side; ++index) {
          values[index] = (values[index] - others[index]) * factor + others[index];
        }
      });
      const float back = before / token.length(values);
      token.rows([&](std::size_t begin) {
        for (std::size_t index = begin; index < begin + token.side; ++index) values[index] *= back;
      });
    }
  }
}

}  // namespace

void SkipLayerGuidance::check() const {
  const bool indices = std::all_of(layers.begin(), layers.end(), [](std::int64_t layer) { return layer >= 0; });
  if (layers.empty() || !indices) {
    std::vector<std::string> texts;
    for (const std::int64_t layer : layers) texts.push_back(std::to_string(layer));
    throw InputError("skip_guidance_layers: (" + join(texts) + (texts.size() == 1 ? ",)" : ")") +
                     " came, indices of blocks were expected");
  }
  if (!std::isfinite(scale)) {
    throw InputError("skip_layer_guidance_scale: " + number_repr(scale) + " came, a finite number was expected");
  }
  if (!(0 <= start && start <= stop && stop <= 1)) {
    throw InputError("skip_layer_guidance_start and _stop: " + number_repr(start) + " and " + number_repr(stop) +
                     " came, two fractions with 0 <= start <= stop <= 1 expected");
  }
}

bool SkipLayerGuidance::active(std::int64_t step, std::int64_t num_steps) const {
  const auto own = static_cast<double>(step), all = static_cast<double>(num_steps);
  return all * start < own && own < all * stop;
}

void SkipLayerGuidance::add(float* guided, const float* conditional, const float* without, std::size_t count) const {
  const float factor = to_single(scale);
  for (std::size_t index = 0; index < count; ++index) guided[index] += (conditional[index] - without[index]) * factor;
}

void Guidance::check() const {
  if (!std::isfinite(scale)) {
    throw InputError("guidance_scale: " + number_repr(scale) + " came, a finite number was expected");
  }
  if (channels && *channels < 1) {
    throw InputError("guidance channels: " + std::to_string(*channels) +
                     " came, an integer of 1 or more, or None, was expected");
  }
  if (!(0 <= interval.first && interval.first <= interval.second && interval.second <= 1)) {
    throw InputError("guidance interval: (" + number_repr(interval.first) + ", " + number_repr(interval.second) +
                     ") came, two fractions with 0 <= first <= second <= 1 expected");
  }
  if (!(0 <= rescale && rescale <= 1)) {
    throw InputError("guidance rescale: " + number_repr(rescale) + " came, a number of 0 to 1 was expected");
  }
}

bool Guidance::active(std::int64_t step, std::int64_t num_steps) const {
  const double fraction = static_cast<double>(step) / static_cast<double>(num_steps);
  return on() && interval.first <= fraction && fraction < interval.second;
}

void Guidance::combine(float* conditional, const float* unconditional, std::size_t batch, std::size_t channels_in_all,
                       std::size_t each, std::size_t width) const {
  const std::size_t guided_channels = channels ? static_cast<std::size_t>(*channels) : channels_in_all;
  if (guided_channels > channels_in_all) {
    throw InputError("guidance channels: " + std::to_string(guided_channels) + " came, the prediction has " +
                     std::to_string(channels_in_all));
  }
  const float factor = to_single(scale);
  const std::size_t count = guided_channels * each;
  for (std::size_t sample = 0; sample < batch; ++sample) {
    float* const guided = conditional + sample * channels_in_all * each;  // the first channels: [count]
    const float* const other = unconditional + sample * channels_in_all * each;
    const double before = rescale != 0 ? deviation(guided, count) : 0;
    if (token) {
      guide_tokens(guided, other, factor, {guided_channels, each, width, static_cast<std::size_t>(*token), 0});
    } else {
      for (std::size_t index = 0; index < count; ++index) {
        guided[index] = (guided[index] - other[index]) * factor + other[index];
      }
    }
    if (rescale == 0) continue;
    const double after = deviation(guided, count);
    // a constant prediction has no deviation to bring back
    const double ratio = after > 0 ? before / after : 1;
    const float back = to_single(rescale * ratio + (1 - rescale));
    for (std::size_t index = 0; index < count; ++index) guided[index] *= back;
  }
}

}  // namespace dit_deploy::sampling
