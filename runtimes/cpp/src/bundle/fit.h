// Holds the parts of a manifest against the signatures that every runtime relies on; dit_deploy/bundle/_fit.py.
#pragma once

#include <string>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// What is wrong with the denoiser, prompts, the guidance or the VAE of a manifest that has a denoiser; empty where all fits.
std::string misfit(const Manifest& manifest);

}  // namespace dit_deploy::bundle
