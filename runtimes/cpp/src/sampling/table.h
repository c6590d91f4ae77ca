// A sampler as a table; dit_deploy/sampling/table.py says what each column means.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace dit_deploy::sampling {

// What the first columns of a row multiply; m_0, m_1, … follow.
enum Basis : std::size_t { kSample = 0, kSaved = 1, kPrediction = 2, kNoise = 3, kOutputs = 4 };

struct Row {
  double timestep = 0;
  std::int64_t step = 0;
  double input_scale = 1;
  std::array<double, 2> output{0, 1};  // m_0 = output[0] · sample + output[1] · prediction
  double clip = 0;                     // infinity leaves m_0
  std::vector<double> saved, sample;   // over the basis, 4 + history numbers
  std::int64_t noise_draws = 0;
  std::array<double, 2> log_variance{0, 0};  // NaN where the row has no such term

  bool learned() const;     // has a learned-range variance
  bool uses_noise() const;  // needs noise given, whatever else it draws
};

struct SolverTable {
  std::vector<Row> rows;
  std::int64_t num_steps = 0;
  double initial_noise_scale = 1;
  std::pair<double, double> start{1, 0};  // (signal, noise) of image-to-image

  std::size_t history() const;  // K: converted outputs in the basis
  bool needs_variance() const;
  // Throws InputError as Python's __post_init__ does, where a coefficient is not finite.
  void check() const;
};

}  // namespace dit_deploy::sampling
