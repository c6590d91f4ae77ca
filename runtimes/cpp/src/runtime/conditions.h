// The denoiser's conditions for both halves of guidance, from labels, prompts and tensors, checked before a run;
// runtimes/conditions.py.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/calls.h"
#include "runtime/steps.h"

namespace dit_deploy::runtime {

// What later text encoders read instead, by their place among all: 1 is the second.
using OtherTexts = std::map<std::size_t, std::vector<std::string>>;

// Prompts, one a sample or one for several, with their negatives; none where a run has no negative.
struct Texts {
  std::vector<std::string> prompts;
  std::optional<std::vector<std::string>> negatives;
  std::int64_t images_each = 1;
  OtherTexts others, negative_others;
};

// The prompts of a request, checked; nothing where there are none. Throws InputError.
std::optional<Texts> read_texts(const bundle::Manifest& manifest, const Request& request);

// Makes conditions of prompts.
struct EncodePrompts {
  // (texts, whether they are negative prompts, what later encoders read instead) → conditions, [texts, …]
  std::function<Tensors(const std::vector<std::string>& texts, bool negative, const OtherTexts& others)> encode;
  // How many tokens of each text are no padding.
  std::function<std::vector<std::int64_t>(const std::vector<std::string>& texts)> lengths;
};

struct Conditions {
  std::vector<Condition> tensors;
  Sizes sizes;           // free sizes that they fix, "batch" among them
  Sizes unguided_sizes;  // the same in the unguided half where tensors have other shapes there, else empty
  std::int64_t batch = 1;
};

// The conditions of a request, held against the denoiser's declaration. `scale` is what a denoiser with embedded guidance
// is fed, `frame_rate` what one that knows of it is; `prompts` turns `texts` into conditions. Those in `later` are not
// missed: join_conditions() brings them. Throws InputError where one is missing, unknown, of another type or shape, or out
// of the declared range.
Conditions read_conditions(const bundle::Manifest& manifest, const Request& request, const sampling::Guidance& guidance,
                           double scale, std::optional<double> frame_rate, const std::optional<Texts>& texts,
                           const EncodePrompts& prompts, const std::set<std::string>& later);

// Adds `more`, which both halves have alike; what is there already stays. Throws InputError where sizes disagree.
void join_conditions(Conditions& conditions, const Component& denoiser, Tensors more);

}  // namespace dit_deploy::runtime
