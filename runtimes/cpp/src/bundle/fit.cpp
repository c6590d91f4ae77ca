#include "bundle/fit.h"

#include <algorithm>
#include <map>
#include <set>

#include "bundle/record.h"
#include "bundle/shapes.h"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

// Thrown and caught in this file alone.
struct Misfit {
  std::string what;
};

[[noreturn]] void refuse(std::string what) { throw Misfit{std::move(what)}; }

std::set<std::string> names(const std::vector<TensorSpec>& tensors) {
  std::set<std::string> found;
  for (const TensorSpec& tensor : tensors) found.insert(tensor.name);
  return found;
}

std::string sorted(const std::set<std::string>& found) { return list_text({found.begin(), found.end()}); }

void begins_with_batch(const std::string& whose, const TensorSpec& tensor) {
  const auto* first = tensor.axes.empty() ? nullptr : std::get_if<Axis>(&tensor.axes[0]);
  if (first == nullptr || first->name != "batch" || first->multiple != 1 || first->offset != 0)
    refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected batch as the first axis");
}

// Requires the last two of four or five axes to be `multiple` × UNIT_height and UNIT_width.
void names_sizes(const std::string& whose, const TensorSpec& tensor, const std::string& unit, std::int64_t multiple) {
  const std::size_t count = tensor.axes.size();
  const auto is = [&](std::size_t index, const std::string& name) {
    const auto* axis = std::get_if<Axis>(&tensor.axes[index]);
    return axis != nullptr && axis->name == name && axis->multiple == multiple && axis->offset == 0;
  };
  if ((count == 4 || count == 5) && is(count - 2, unit + "_height") && is(count - 1, unit + "_width")) return;
  const std::string times = multiple == 1 ? "" : std::to_string(multiple) + "·";
  refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected [batch, channels, " +
         (count == 5 ? "frames, " : "") + times + unit + "_height, " + times + unit + "_width]");
}

void same_axes(const std::string& whose, const TensorSpec& tensor, const TensorSpec& like) {
  if (tensor.axes != like.axes)
    refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected the axes of " + like.name + ": " +
           shape_text(like));
}

bool is_integer(DType dtype) { return dtype == DType::int64 || dtype == DType::int32; }

void takes_value(const TensorSpec& tensor, const Number& number) {
  const auto* integer = std::get_if<std::int64_t>(&number);
  const double value = integer != nullptr ? static_cast<double>(*integer) : std::get<double>(number);
  const std::string said = "guidance.unconditional." + tensor.name + ": " +
                           (integer != nullptr ? std::to_string(*integer) : number_repr(value)) + " came, expected";
  if (is_integer(tensor.dtype) && integer == nullptr)
    refuse(said + " an integer, as the input is " + dtype_name(tensor.dtype));
  if (tensor.dtype == DType::boolean && value != 0 && value != 1) refuse(said + " 0 or 1, as the input is bool");
  if ((tensor.minimum && value < *tensor.minimum) || (tensor.maximum && value > *tensor.maximum))
    refuse(said + " a value of the input's " + range_text(tensor));
}

void check_denoiser(const Component& denoiser, const Latents& latents, const Prediction& prediction) {
  std::set<std::string> missing;
  for (const char* name : {"latents", "timestep"}) {
    if (denoiser.input(name) == nullptr) missing.insert(name);
  }
  if (denoiser.output("prediction") == nullptr) missing.insert("prediction");
  if (!missing.empty()) refuse("the denoiser lacks " + sorted(missing) + " among its inputs and outputs");
  const TensorSpec& input = *denoiser.input("latents");
  const std::size_t count = input.axes.size();
  if ((count != 4 && count != 5) || input.axes[1] != AxisSpec(latents.channels))
    refuse("the denoiser's latents have no [batch, " + std::to_string(latents.channels) + ", …, height, width]");
  if (prediction.learned_range_variance != (denoiser.output("variance") != nullptr))
    refuse("learned_range_variance and the denoiser's output variance go together");
  for (const TensorSpec& tensor : denoiser.inputs) begins_with_batch("the denoiser's", tensor);
  names_sizes("the denoiser's", input, "patch", latents.patch_size);
  for (const char* name : {"prediction", "variance"}) {
    const TensorSpec* output = denoiser.output(name);
    if (output != nullptr) same_axes("the denoiser's", *output, input);
  }
}

void check_text_encoder(const PromptEncoder& encoder, const Manifest& manifest) {
  const Component* component = manifest.component(encoder.component);
  if (component == nullptr) refuse("prompts name the component " + encoder.component + ", which there is none of");
  for (const std::string& tokenizer : {encoder.tokenizer, encoder.negative_tokenizer.value_or("")}) {
    if (!tokenizer.empty() && manifest.files.count(tokenizer) == 0)
      refuse(tokenizer + " is named but has no record under files");
  }
  std::set<std::string> others = names(component->inputs);
  others.erase("input_ids");
  others.erase("attention_mask");
  if (component->input("input_ids") == nullptr || !others.empty())
    refuse("the " + encoder.component + " takes " + sorted(names(component->inputs)) +
           ", expected input_ids and perhaps attention_mask");
  for (const TensorSpec& tensor : component->inputs) {
    begins_with_batch("the " + encoder.component + "'s", tensor);
    if (!is_integer(tensor.dtype) || tensor.axes.size() != 2)
      refuse("the " + encoder.component + "'s " + tensor.name + " is no integer [batch, tokens]");
  }
}

using Made = std::map<std::string, const TensorSpec*>;  // by name

// The denoiser's conditions that prompts make.
Made check_prompts(const Prompts& prompts, const Manifest& manifest) {
  Made made;
  for (const PromptEncoder& encoder : prompts.encoders) {
    check_text_encoder(encoder, manifest);
    for (const TensorSpec& tensor : manifest.component(encoder.component)->outputs) {
      if (!made.emplace(tensor.name, &tensor).second)
        refuse("two text encoders make " + tensor.name + "; names of their outputs must differ");
    }
  }
  if (prompts.join) {
    const Component* joined = manifest.component(*prompts.join);
    if (joined == nullptr) refuse("prompts.join names the component " + *prompts.join + ", which there is none of");
    std::set<std::string> missing;
    for (const TensorSpec& tensor : joined->inputs) {
      if (made.count(tensor.name) == 0) missing.insert(tensor.name);
    }
    if (!missing.empty())
      refuse("the " + *prompts.join + " takes " + sorted(missing) + ", which no text encoder makes");
    made.clear();
    for (const TensorSpec& tensor : joined->outputs) made.emplace(tensor.name, &tensor);
  }
  const Component& denoiser = *manifest.component("denoiser");
  std::set<std::string> unknown;
  for (const auto& [name, tensor] : made) {
    if (denoiser.input(name) == nullptr || name == "latents" || name == "timestep") unknown.insert(name);
  }
  if (!unknown.empty()) refuse("prompts make " + sorted(unknown) + ", which are no conditions of the denoiser");
  for (const auto& [name, tensor] : made) {
    const TensorSpec& taken = *denoiser.input(name);
    if (tensor->dtype != taken.dtype || tensor->axes.size() != taken.axes.size())
      refuse("prompts make " + name + " as " + dtype_name(tensor->dtype) + " " + shape_text(*tensor) +
             ", the denoiser takes " + dtype_name(taken.dtype) + " " + shape_text(taken));
  }
  return made;
}

// `from_prompts` are the conditions that have a value of their own for the unguided half.
void check_guidance(const Guidance& guidance, const Component& denoiser, const Latents& latents,
                    const Made& from_prompts) {
  std::set<std::string> conditions = names(denoiser.inputs), unknown;
  conditions.erase("latents");
  conditions.erase("timestep");
  for (const auto& [name, value] : guidance.unconditional) {
    if (conditions.count(name) == 0) unknown.insert(name);
  }
  if (!unknown.empty()) refuse("guidance.unconditional names no condition of the denoiser: " + sorted(unknown));
  if (guidance.kind == "classifier_free" && guidance.unconditional.empty() && from_prompts.empty())
    refuse(
        "guidance.unconditional is empty, classifier_free needs the value of a condition there; the denoiser's "
        "conditions: " +
        sorted(conditions));
  for (const auto& [name, value] : guidance.unconditional) takes_value(*denoiser.input(name), value);
  if (guidance.channels && *guidance.channels > latents.channels)
    refuse("guidance.channels " + std::to_string(*guidance.channels) + " exceeds " + std::to_string(latents.channels) +
           " channels");
  if ((guidance.kind == "embedded") != guidance.input.has_value())
    refuse("guidance.input is the condition that embedded guidance feeds; one needs the other");
  if (guidance.input && conditions.count(*guidance.input) == 0)
    refuse("guidance.input " + *guidance.input + " is no condition of the denoiser: " + sorted(conditions));
  if (!guidance.skip_layers) return;
  const std::string& skip = *guidance.skip_layers;
  if (conditions.count(skip) == 0)
    refuse("guidance.skip_layers " + skip + " is no condition of the denoiser: " + sorted(conditions));
  const TensorSpec& spec = *denoiser.input(skip);
  if (spec.dtype != DType::int64 || spec.axes.size() != 2 || !std::holds_alternative<std::int64_t>(spec.axes[1]))
    refuse("guidance.skip_layers " + skip + " is " + dtype_name(spec.dtype) + " " + shape_text(spec) +
           ", expected int64 [batch, number of blocks]");
}

void check_autoencoder(const std::string& name, const Component& component, const char* given, const char* made,
                       bool encodes, const Latents& latents) {
  const TensorSpec* input = component.input(given);
  const TensorSpec* output = component.output(made);
  if (input == nullptr || output == nullptr)
    refuse("the " + name + " takes " + sorted(names(component.inputs)) + " and gives " +
           sorted(names(component.outputs)) + ", expected '" + given + "' and '" + made + "' among them");
  const TensorSpec& images = encodes ? *input : *output;
  const TensorSpec& small = encodes ? *output : *input;
  const std::string whose = "the " + name + "'s";
  begins_with_batch(whose, images);
  begins_with_batch(whose, small);
  names_sizes(whose, images, "latent", latents.spatial_compression);
  names_sizes(whose, small, "latent", 1);
  if (small.axes[1] != AxisSpec(latents.channels))
    refuse(whose + " " + small.name + " has " + shape_text(small) + ", expected " + std::to_string(latents.channels) +
           " channels");
  const TensorSpec* deviation = encodes ? component.output("std") : nullptr;
  if (deviation != nullptr) same_axes(whose, *deviation, small);
}

const Component& component_of(const Manifest& manifest, const std::string& name) {
  const Component* found = manifest.component(name);
  if (found == nullptr) refuse("the manifest names the component " + name + ", which there is none of");
  return *found;
}

// Requires every output of `maker` to be a condition of the denoiser.
void makes_conditions(const std::string& maker, const Component& component, const Component& denoiser) {
  for (const TensorSpec& tensor : component.outputs) {
    const TensorSpec* taken = denoiser.input(tensor.name);
    if (taken == nullptr || tensor.name == "latents" || tensor.name == "timestep")
      refuse("the " + maker + " makes " + tensor.name + ", which is no condition of the denoiser");
    if (tensor.dtype != taken->dtype || tensor.axes.size() != taken->axes.size())
      refuse("the " + maker + " makes " + tensor.name + " as " + dtype_name(tensor.dtype) + " " + shape_text(tensor) +
             ", the denoiser takes " + dtype_name(taken->dtype) + " " + shape_text(*taken));
  }
}

void check_image_encoder(const ImageEncoder& encoder, const Component& component) {
  const TensorSpec* images = component.input("images");
  const std::vector<AxisSpec> expected{std::int64_t{3}, encoder.size, encoder.size};
  if (images == nullptr || component.inputs.size() != 1 || images->axes.size() != 5 ||
      !std::equal(expected.begin(), expected.end(), images->axes.begin() + 2)) {
    const std::string size = std::to_string(encoder.size);
    refuse("the " + encoder.component + " takes no images [batch, pictures, 3, " + size + ", " + size + "] alone");
  }
}

// Pictures become the denoiser's conditions as the manifest says; dit_deploy/bundle/_fit_video.py.
void check_image_conditions(const Manifest& manifest) {
  if (!manifest.image_conditions) return;
  const ImageConditions& record = *manifest.image_conditions;
  const Component& denoiser = *manifest.component("denoiser");
  const Component& component = component_of(manifest, record.component);
  std::set<std::string> others = names(component.inputs);
  const bool missing = others.erase("images") + others.erase("given") != 2;
  others.erase("noise");
  if (missing || !others.empty())
    refuse("the " + record.component + " takes " + sorted(names(component.inputs)) +
           ", expected images, given, and perhaps noise");
  const TensorSpec& given = *component.input("given");
  if (component.input("images")->axes.size() != 5 || given.dtype != DType::int64 || given.axes.size() != 2)
    refuse("the " + record.component + " takes no images of five axes and int64 given [batch, frames]");
  const Component* encoder = record.encoder ? &component_of(manifest, record.encoder->component) : nullptr;
  if (encoder != nullptr) check_image_encoder(*record.encoder, *encoder);
  makes_conditions(record.component, component, denoiser);
  if (encoder != nullptr) makes_conditions(record.encoder->component, *encoder, denoiser);
  for (const auto& [what, output] : {std::pair("kept", record.kept), std::pair("mask", record.mask)}) {
    if (output && component.output(*output) == nullptr)
      refuse(std::string("image_conditions.") + what + " " + *output + " is no output of the " + record.component);
  }
}

void check_experts(const Manifest& manifest) {
  if (!manifest.experts) return;
  const Component& first = *manifest.component("denoiser");
  const Component& second = component_of(manifest, manifest.experts->component);
  if (!(first.inputs == second.inputs && first.outputs == second.outputs))
    refuse("the " + manifest.experts->component + " has other inputs or outputs than the denoiser");
}

void has_frames(const std::string& whose, const TensorSpec& tensor, const std::string& frames) {
  const auto* axis = std::get_if<Axis>(&tensor.axes[2]);
  if (axis == nullptr || axis->name != frames)
    refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected " + frames + " as the third axis");
}

// Frames of the latents, of the denoiser and of the VAE go together. A denoiser of videos may have a VAE of pictures,
// which then takes frame by frame.
void check_frames(const Manifest& manifest) {
  const TensorSpec& latents = *manifest.component("denoiser")->input("latents");
  const bool video = latents.axes.size() == 5;
  if (video != manifest.latents.frames.has_value())
    refuse("latents.frames and a denoiser with latents of five axes go together");
  if (video) {
    has_frames("the denoiser's", latents, "patch_frames");
    const std::int64_t multiple = std::get<Axis>(latents.axes[2]).multiple;
    if (multiple != manifest.latents.temporal_patch_size)
      refuse("the denoiser's latents have " + std::to_string(multiple) +
             "·patch_frames, latents.temporal_patch_size is " + std::to_string(manifest.latents.temporal_patch_size));
  }
  const auto check_half = [&](const std::string& name, const char* given, const char* made) {
    const Component* component = manifest.component(name);
    if (component == nullptr) return;
    const TensorSpec &in = *component->input(given), &out = *component->output(made);
    if (in.axes.size() == 4 && out.axes.size() == 4) return;
    if (in.axes.size() != 5 || out.axes.size() != 5 || !video)
      refuse("the " + name + " is for videos, and not all of the bundle is");
    for (const TensorSpec* tensor : {&in, &out}) has_frames("the " + name + "'s", *tensor, "latent_frames");
  };
  check_half("vae_encoder", "images", "mean");
  check_half("vae_decoder", "latents", "images");
}

}  // namespace

std::string misfit(const Manifest& manifest) {
  const Component& denoiser = *manifest.component("denoiser");
  const Component* encoder = manifest.component("vae_encoder");
  const Component* decoder = manifest.component("vae_decoder");
  try {
    check_denoiser(denoiser, manifest.latents, manifest.prediction);
    const Made made = manifest.prompts ? check_prompts(*manifest.prompts, manifest) : Made{};
    check_guidance(manifest.guidance, denoiser, manifest.latents, made);
    check_image_conditions(manifest);
    check_experts(manifest);
    if (encoder != nullptr) check_autoencoder("vae_encoder", *encoder, "images", "mean", true, manifest.latents);
    if (decoder != nullptr) check_autoencoder("vae_decoder", *decoder, "latents", "images", false, manifest.latents);
    check_frames(manifest);
  } catch (const Misfit& error) {
    return error.what;
  }
  return "";
}

}  // namespace dit_deploy::bundle
