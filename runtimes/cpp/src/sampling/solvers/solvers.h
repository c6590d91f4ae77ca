// The table of each diffusers scheduler class, and the class's options with diffusers' defaults;
// dit_deploy/sampling/solvers/. Each builder throws InputError for an option or a number of steps that has no table, and
// SameLevel where two steps fall on the same noise level.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "sampling/options.h"
#include "sampling/schedulers.h"
#include "sampling/table.h"

namespace dit_deploy::sampling {

// Ancestral sampling (Ho et al. 2020), with the fixed variances and the learned range of Nichol & Dhariwal 2021.
nlohmann::json ddpm_options();
SolverTable build_ddpm(const Options& options, const SolverRequest& request);

// Denoising diffusion implicit models (Song et al. 2021), with eta from 0 (deterministic) to 1 (ancestral).
nlohmann::json ddim_options();
SolverTable build_ddim(const Options& options, const SolverRequest& request);

// Multistep DPM-Solver and DPM-Solver++ (Lu et al. 2022), deterministic and SDE, orders 1 to 3.
nlohmann::json dpm_solver_options();
SolverTable build_dpm_solver(const Options& options, const SolverRequest& request);

// UniPC (Zhao et al. 2023): a predictor and a corrector that share one evaluation of the denoiser.
nlohmann::json unipc_options();
SolverTable build_unipc(const Options& options, const SolverRequest& request);

// Euler steps over sigma (Karras et al. 2022, algorithm 2 without churn), plain and ancestral.
nlohmann::json euler_options();
SolverTable build_euler(const Options& options, const SolverRequest& request);
nlohmann::json euler_ancestral_options();
SolverTable build_euler_ancestral(const Options& options, const SolverRequest& request);

// Heun's second-order steps over sigma (Karras et al. 2022, algorithm 1): two evaluations a step, one in the last.
nlohmann::json heun_options();
SolverTable build_heun(const Options& options, const SolverRequest& request);

// Linear multistep of order 4 over sigma (Adams-Bashforth with uneven steps, as in k-diffusion).
nlohmann::json lms_options();
SolverTable build_lms(const Options& options, const SolverRequest& request);

// Multistep consistency sampling of latent consistency models (Luo et al. 2023).
nlohmann::json lcm_options();
SolverTable build_lcm(const Options& options, const SolverRequest& request);

// Pseudo numerical methods (Liu et al. 2022): Runge-Kutta warm-up (PRK), then linear multistep.
nlohmann::json pndm_options();
SolverTable build_pndm(const Options& options, const SolverRequest& request);

// Flow matching (Lipman et al. 2023; Liu et al. 2022): Euler and Heun steps along the predicted velocity.
nlohmann::json flow_euler_options();
SolverTable build_flow_euler(const Options& options, const SolverRequest& request);
nlohmann::json flow_heun_options();
SolverTable build_flow_heun(const Options& options, const SolverRequest& request);

// CogVideoX (Yang et al. 2024): DDIM, and an SDE DPM-Solver++ of order 2, over a schedule moved to more noise.
nlohmann::json cogvideox_options();
SolverTable build_cogvideox_ddim(const Options& options, const SolverRequest& request);
SolverTable build_cogvideox_dpm(const Options& options, const SolverRequest& request);

}  // namespace dit_deploy::sampling
