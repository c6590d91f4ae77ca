// VAE encode → sampling loop → VAE decode, over any backend; runtimes/pipeline.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/components.h"
#include "runtime/memory.h"
#include "runtime/prompts.h"
#include "runtime/tiling.h"
#include "sampling/noise.h"

namespace dit_deploy::runtime {

// What Pipeline is made of. It knows latents and names, no model family: sizes, conditions, guidance and units come
// from the bundle's manifest, the sampler from a table.
class Drawing {
 public:
  // `runners` replace components of the bundle, for tests.
  Drawing(bundle::Bundle bundle, const Options& options, Runners runners = {});
  Drawing(const Drawing&) = delete;
  Drawing& operator=(const Drawing&) = delete;

  Result generate(const Request& request);

  const bundle::Bundle& bundle() const { return bundle_; }
  const std::string& engine() const { return engine_; }
  const std::string& engine_reason() const { return engine_reason_; }
  std::int64_t pixel_multiple() const;
  std::vector<std::string> warnings() const { return components_->warnings(); }

 private:
  // Forgets components that this run needs no more, where memory is short.
  void done(const std::vector<std::string>& components);
  // Adds the pictures or videos that the latents of `result` are.
  void decode_to(Result& result, const Request& request, sampling::NoiseSource& source, const Pieces& pieces);

  const bundle::Bundle bundle_;
  const bool low_memory_;
  std::string engine_, engine_reason_;
  std::unique_ptr<Components> components_;
  std::unique_ptr<PromptReader> prompts_;  // where the bundle has text encoders
  std::unique_ptr<VaeMemory> vae_memory_;  // where there is a limit
};

}  // namespace dit_deploy::runtime
