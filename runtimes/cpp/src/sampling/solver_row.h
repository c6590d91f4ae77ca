// The rows of a table as the solver graph takes them; dit_deploy/sampling/solver_row.py.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "sampling/guidance.h"
#include "sampling/table.h"

namespace dit_deploy::sampling {

inline constexpr std::size_t kOlder = 3;
inline constexpr std::size_t kSolverWidth = 2 + 1 + 2 * (4 + 1 + kOlder) + 6;

struct SolverRow {
  std::array<float, kSolverWidth> coefficients{};
  std::vector<std::size_t> older;  // k of the m_k that older_1, older_2, … get
  bool guided = false;
  bool noise = false;
};

// Why a solver graph cannot run the table with this guidance; empty where it can.
std::string no_solver_rows(const SolverTable& table, const Guidance& guidance);
std::vector<SolverRow> solver_rows(const SolverTable& table, const Guidance& guidance, double timestep_scale);

}  // namespace dit_deploy::sampling
