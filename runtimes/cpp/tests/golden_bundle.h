// The bundle that golden files were drawn from.
#pragma once

#include "golden_files.h"

namespace dit_deploy::tests {

// That of the demo, with its VAE and engines for the CPU; nothing, with a visible skip, where it is not there.
inline std::optional<std::filesystem::path> golden_bundle() {
  const auto folder = golden_folder();
  if (!folder) return std::nullopt;
  for (const auto& place : {*folder, *folder / "fashion"}) {
    if (!std::filesystem::exists(place / "golden.json")) continue;
    const auto document = read_document(place / "golden.json", "dit-deploy-golden");
    const auto bundle = place / document.at("bundle").get<std::string>();
    if (std::filesystem::exists(bundle / "vae_decoder")) return bundle;
  }
  skip("no golden files of a bundle with a VAE: run `" + std::string(kGoldenCommand) + "`");
  return std::nullopt;
}

}  // namespace dit_deploy::tests
