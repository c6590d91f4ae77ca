// The denoiser's conditions for both halves of guidance, from labels, prompts and tensors, checked before a run;
// runtimes/conditions.py.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/steps.h"

namespace dit_deploy::runtime {

// Prompts, one a sample or one for several, with their negatives; none where a run has no negative.
struct Texts {
  std::vector<std::string> prompts;
  std::optional<std::vector<std::string>> negatives;
  std::int64_t images_each = 1;
};

// The prompts of a request, checked; nothing where there are none. Throws InputError.
std::optional<Texts> read_texts(const bundle::Manifest& manifest, const Request& request);

using Tensors = std::map<std::string, Tensor>;  // by name
// (texts, whether they are negative prompts) → conditions, [texts, …]
using EncodePrompts = std::function<Tensors(const std::vector<std::string>& texts, bool negative)>;

struct Conditions {
  std::vector<Condition> tensors;
  Sizes sizes;           // free sizes that they fix, "batch" among them
  Sizes unguided_sizes;  // the same in the unguided half where tensors have other shapes there, else empty
  std::int64_t batch = 1;
};

// The conditions of a request, held against the denoiser's declaration. `scale` is what a denoiser with embedded guidance
// is fed; `encode` turns `texts` into conditions. Throws InputError where one is missing, unknown, of another type or
// shape, or out of the declared range.
Conditions read_conditions(const bundle::Manifest& manifest, const Request& request, const sampling::Guidance& guidance,
                           double scale, const std::optional<Texts>& texts, const EncodePrompts& encode);

}  // namespace dit_deploy::runtime
