// The sampling loop's arithmetic on one run's buffers; dit_deploy/sampling/state.py. Float32, in the same order of
// operations, so that the results are the same.
#pragma once

#include <cstddef>
#include <vector>

#include "sampling/table.h"

namespace dit_deploy::sampling {

class SolverState {
 public:
  // `table` must outlive the state; `size` is the number of elements of the latents.
  SolverState(const SolverTable& table, std::size_t size);

  const float* sample() const { return sample_.data(); }
  std::size_t size() const { return sample_.size(); }
  // Begins at the first row with a copy of `sample`.
  void reset(const float* sample);
  // out := input_scale · sample
  void model_input(std::size_t row, float* out) const;
  // Applies one row; allocates nothing. `variance` where the row is learned(), `noise` where it uses_noise(), else
  // nullptr will do. Throws InputError where one is missing or the row is not the next one.
  void advance(std::size_t row, const float* prediction, const float* variance, const float* noise);

 private:
  // A coefficient that is not 0.
  struct Term {
    std::size_t column;
    float coefficient;
  };
  using Terms = std::vector<Term>;

  static Terms terms_of(const double* coefficients, std::size_t count);
  static bool keeps(const Terms& terms);
  static bool takes(const Terms& terms);
  // Whether the new saved sample is one that there is already.
  static bool moves(const Terms& terms) { return keeps(terms) || takes(terms); }

  void combine(const Terms& terms, const float* prediction, const float* noise, std::vector<float>& out);
  const float* basis(std::size_t column, const float* prediction, const float* noise) const;
  void save(const Terms& terms, const float* prediction, const float* noise);
  void add_learned_noise(const Row& row, const float* variance, const float* noise);
  void require(const char* name, const float* array) const;

  const SolverTable& table_;
  std::vector<Terms> sample_terms_, saved_terms_, output_terms_;
  std::vector<bool> needs_output_;
  std::vector<float> sample_, saved_, spare_, spare_saved_;
  std::vector<std::vector<float>> outputs_;
  std::size_t next_ = 0;
};

}  // namespace dit_deploy::sampling
