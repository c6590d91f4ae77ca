#include "sampling/state.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "dit_deploy/errors.hpp"
#include "sampling/singles.h"

namespace dit_deploy::sampling {

namespace {

// Elements that a sum is made of at a time: what has been summed stays in the nearest cache.
constexpr std::size_t kChunk = 2048;

}  // namespace

SolverState::Terms SolverState::terms_of(const double* coefficients, std::size_t count) {
  Terms terms;
  for (std::size_t column = 0; column < count; ++column) {
    if (coefficients[column] != 0) terms.push_back({column, to_single(coefficients[column])});
  }
  return terms;
}

SolverState::SolverState(const SolverTable& table, std::size_t size)
    : table_(table), sample_(size), saved_(size), spare_(size), outputs_(table.history(), std::vector<float>(size)) {
  const std::size_t rows = table.rows.size();
  for (const Row& row : table.rows) {
    sample_terms_.push_back(terms_of(row.sample.data(), row.sample.size()));
    saved_terms_.push_back(terms_of(row.saved.data(), row.saved.size()));
    const std::array<double, kPrediction + 1> output{row.output[0], 0, row.output[1]};
    output_terms_.push_back(terms_of(output.data(), output.size()));
    // only samplers that make a new saved sample need one
    if (!moves(saved_terms_.back())) spare_saved_.resize(size);
  }
  // m_0 is computed where this row or a later one within reach multiplies it
  for (std::size_t row = 0; row < rows; ++row) {
    bool needed = false;
    for (std::size_t k = 0; k < std::min(table.history(), rows - row); ++k) {
      const Row& later = table.rows[row + k];
      needed = needed || later.sample[kOutputs + k] != 0 || later.saved[kOutputs + k] != 0;
    }
    needs_output_.push_back(needed);
  }
}

void SolverState::reset(const float* sample) {
  std::copy(sample, sample + size(), sample_.begin());
  std::fill(saved_.begin(), saved_.end(), 0.0F);
  next_ = 0;
}

void SolverState::model_input(std::size_t row, float* out) const {
  const float scale = to_single(table_.rows[row].input_scale);
  for (std::size_t index = 0; index < size(); ++index) out[index] = sample_[index] * scale;
}

void SolverState::advance(std::size_t row, const float* prediction, const float* variance, const float* noise) {
  if (row != next_ || row >= table_.rows.size()) {
    throw InputError("row: " + std::to_string(row) + " came, " + std::to_string(next_) + " is next");
  }
  const Row& columns = table_.rows[row];
  require("prediction", prediction);
  if (columns.learned()) require("variance", variance);
  if (columns.uses_noise()) require("noise", noise);

  if (!outputs_.empty()) {
    std::rotate(outputs_.begin(), outputs_.end() - 1, outputs_.end());  // the oldest gives its place to this row's
    if (needs_output_[row]) {
      std::vector<float>& output = outputs_.front();
      combine(output_terms_[row], prediction, noise, output);
      const float clip = to_single(columns.clip);
      if (!std::isinf(clip)) {
        for (float& value : output) value = value < -clip ? -clip : value > clip ? clip : value;
      }
    }
  }
  combine(sample_terms_[row], prediction, noise, spare_);
  if (columns.learned()) add_learned_noise(columns, variance, noise);
  save(saved_terms_[row], prediction, noise);
  sample_.swap(spare_);
  ++next_;
}

bool SolverState::keeps(const Terms& terms) {
  return terms.size() == 1 && terms[0].column == kSaved && terms[0].coefficient == 1;
}

bool SolverState::takes(const Terms& terms) {
  return terms.size() == 1 && terms[0].column == kSample && terms[0].coefficient == 1;
}

// Sets the saved sample; keeping it, or keeping the current sample, costs no arithmetic.
void SolverState::save(const Terms& terms, const float* prediction, const float* noise) {
  if (keeps(terms)) return;
  if (takes(terms)) {
    saved_.swap(sample_);
    return;
  }
  combine(terms, prediction, noise, spare_saved_);
  saved_.swap(spare_saved_);
}

// out := Σ coefficient · basis; `out` is none of the basis that the terms name.
void SolverState::combine(const Terms& terms, const float* prediction, const float* noise, std::vector<float>& out) {
  if (terms.empty()) {
    std::fill(out.begin(), out.end(), 0.0F);
    return;
  }
  for (std::size_t begin = 0; begin < out.size(); begin += kChunk) {
    const std::size_t end = std::min(begin + kChunk, out.size());
    bool first = true;
    for (const Term& term : terms) {
      const float* const from = basis(term.column, prediction, noise);
      const float factor = term.coefficient;
      float* const to = out.data();
      if (first) {
        for (std::size_t index = begin; index < end; ++index) to[index] = from[index] * factor;
      } else {
        for (std::size_t index = begin; index < end; ++index) to[index] += from[index] * factor;
      }
      first = false;
    }
  }
}

const float* SolverState::basis(std::size_t column, const float* prediction, const float* noise) const {
  switch (column) {
    case kSample:
      return sample_.data();
    case kSaved:
      return saved_.data();
    case kPrediction:
      return prediction;
    case kNoise:
      return noise;
    default:
      return outputs_[column - kOutputs].data();
  }
}

void SolverState::add_learned_noise(const Row& row, const float* variance, const float* noise) {
  // ½ (f · largest + (1 − f) · smallest) with f = (variance + 1) / 2, as one multiplication and one addition
  const float slope = to_single((row.log_variance[1] - row.log_variance[0]) / 4);
  const float middle = to_single((row.log_variance[1] + row.log_variance[0]) / 4);
  for (std::size_t index = 0; index < size(); ++index) {
    // Through double, so that every machine, and Python, rounds to the same float.
    const auto deviation = static_cast<float>(std::exp(static_cast<double>(variance[index] * slope + middle)));
    spare_[index] += deviation * noise[index];
  }
}

void SolverState::require(const char* name, const float* array) const {
  if (array == nullptr) {
    throw InputError(std::string(name) + ": none came, this row needs one of " + std::to_string(size()) + " elements");
  }
}

}  // namespace dit_deploy::sampling
