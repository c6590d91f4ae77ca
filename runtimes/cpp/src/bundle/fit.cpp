#include "bundle/fit.h"

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
  if (first == nullptr || first->name != "batch" || first->multiple != 1)
    refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected batch as the first axis");
}

// Requires the last two of four axes to be `multiple` × UNIT_height and UNIT_width; videos have five.
void names_sizes(const std::string& whose, const TensorSpec& tensor, const std::string& unit, std::int64_t multiple) {
  if (tensor.axes.size() == 5) return;
  const auto is = [&](std::size_t index, const std::string& name) {
    const auto* axis = std::get_if<Axis>(&tensor.axes[index]);
    return axis != nullptr && axis->name == name && axis->multiple == multiple;
  };
  if (tensor.axes.size() == 4 && is(2, unit + "_height") && is(3, unit + "_width")) return;
  const std::string times = multiple == 1 ? "" : std::to_string(multiple) + "·";
  refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected [batch, channels, " + times + unit +
         "_height, " + times + unit + "_width]");
}

void same_axes(const std::string& whose, const TensorSpec& tensor, const TensorSpec& like) {
  if (tensor.axes != like.axes)
    refuse(whose + " " + tensor.name + " has " + shape_text(tensor) + ", expected the axes of " + like.name + ": " +
           shape_text(like));
}

void takes_value(const TensorSpec& tensor, const Number& number) {
  const auto* integer = std::get_if<std::int64_t>(&number);
  const double value = integer != nullptr ? static_cast<double>(*integer) : std::get<double>(number);
  const std::string said = "guidance.unconditional." + tensor.name + ": " +
                           (integer != nullptr ? std::to_string(*integer) : number_repr(value)) + " came, expected";
  if ((tensor.dtype == DType::int64 || tensor.dtype == DType::int32) && integer == nullptr)
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

void check_guidance(const Guidance& guidance, const Component& denoiser, const Latents& latents) {
  std::set<std::string> conditions = names(denoiser.inputs), unknown;
  conditions.erase("latents");
  conditions.erase("timestep");
  for (const auto& [name, value] : guidance.unconditional) {
    if (conditions.count(name) == 0) unknown.insert(name);
  }
  if (!unknown.empty()) refuse("guidance.unconditional names no condition of the denoiser: " + sorted(unknown));
  if (guidance.kind == "classifier_free" && guidance.unconditional.empty())
    refuse(
        "guidance.unconditional is empty, classifier_free needs the value of a condition there; the denoiser's "
        "conditions: " +
        sorted(conditions));
  for (const auto& [name, value] : guidance.unconditional) takes_value(*denoiser.input(name), value);
  if (guidance.channels && *guidance.channels > latents.channels)
    refuse("guidance.channels " + std::to_string(*guidance.channels) + " exceeds " + std::to_string(latents.channels) +
           " channels");
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
  if (small.axes.size() == 4 && small.axes[1] != AxisSpec(latents.channels))
    refuse(whose + " " + small.name + " has " + shape_text(small) + ", expected " + std::to_string(latents.channels) +
           " channels");
  const TensorSpec* deviation = encodes ? component.output("std") : nullptr;
  if (deviation != nullptr) same_axes(whose, *deviation, small);
}

}  // namespace

std::string misfit(const Manifest& manifest) {
  const Component& denoiser = *manifest.component("denoiser");
  const Component* encoder = manifest.component("vae_encoder");
  const Component* decoder = manifest.component("vae_decoder");
  try {
    check_denoiser(denoiser, manifest.latents, manifest.prediction);
    check_guidance(manifest.guidance, denoiser, manifest.latents);
    if (encoder != nullptr) check_autoencoder("vae_encoder", *encoder, "images", "mean", true, manifest.latents);
    if (decoder != nullptr) check_autoencoder("vae_decoder", *decoder, "latents", "images", false, manifest.latents);
  } catch (const Misfit& error) {
    return error.what;
  }
  return "";
}

}  // namespace dit_deploy::bundle
