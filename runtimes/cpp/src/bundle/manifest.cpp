#include "bundle/manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <set>
#include <tuple>

#include "bundle/fit.h"
#include "bundle/json.h"
#include "bundle/record.h"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kSmallest = std::numeric_limits<std::int64_t>::min();
constexpr char kFormat[] = "dit-deploy-bundle";
constexpr char kHow[] = "a bundle is a folder made by `dit-deploy export SOURCE BUNDLE`";

bool fits_class_index(std::string_view text) {
  if (text.empty() || text.size() > 9 || (text[0] == '0' && text.size() > 1)) return false;
  return std::all_of(text.begin(), text.end(), [](char one) { return one >= '0' && one <= '9'; });
}
const Pattern kClassIndex{"^(0|[1-9][0-9]{0,8})$", fits_class_index};

DType read_dtype(const std::string& name) {
  if (name == "float16") return DType::float16;
  if (name == "bfloat16") return DType::bfloat16;
  if (name == "int64") return DType::int64;
  if (name == "int32") return DType::int32;
  return name == "bool" ? DType::boolean : DType::float32;
}

Axis read_axis(const Json& value, const Place& where, Faults& faults) {
  const std::size_t before = faults.count();
  Axis axis;
  Fields fields(value, where, faults);
  fields.string("name", axis.name, kName);
  fields.integer("multiple", axis.multiple, 1, false);
  fields.integer("offset", axis.offset, kSmallest, false);
  fields.integer("minimum", axis.minimum, 1, false);
  fields.integer("maximum", axis.maximum, 1);
  fields.finish();
  if (faults.count() != before) return axis;
  if (axis.maximum && *axis.maximum < axis.minimum) {
    faults.add(where, "axis " + axis.name + ": maximum " + std::to_string(*axis.maximum) + " is below minimum " +
                          std::to_string(axis.minimum));
  } else if (axis.size(axis.minimum) < 1) {
    faults.add(where, "axis " + axis.name + ": its smallest size is " + std::to_string(axis.size(axis.minimum)) +
                          ", expected at least 1");
  }
  return axis;
}

AxisSpec read_axis_spec(const Json& value, const Place& where, Faults& faults) {
  const std::size_t before = faults.count();
  if (value.is_object()) return read_axis(value, where, faults);
  if (check_integer(value, where, faults, 1)) return value.get<std::int64_t>();
  if (faults.count() > before) faults.add(where, "input should be an object", value);
  return std::int64_t{1};
}

TensorSpec read_tensor(const Json& value, const Place& where, Faults& faults) {
  const std::size_t before = faults.count();
  TensorSpec tensor;
  std::string dtype;
  Fields fields(value, where, faults);
  fields.string("name", tensor.name, kName);
  fields.choice("dtype", dtype, {"float32", "float16", "bfloat16", "int64", "int32", "bool"});
  fields.list("axes", true, 0, [&](const Json& axis, const Place& place) {
    tensor.axes.push_back(read_axis_spec(axis, place, faults));
  });
  fields.string("unit", tensor.unit);
  fields.number("minimum", tensor.minimum);
  fields.number("maximum", tensor.maximum);
  fields.string("description", tensor.description, false);
  fields.finish();
  tensor.dtype = read_dtype(dtype);
  if (faults.count() == before && tensor.minimum && tensor.maximum && *tensor.maximum < *tensor.minimum)
    faults.add(where, tensor.name + ": maximum " + number_repr(*tensor.maximum) + " is below minimum " +
                          number_repr(*tensor.minimum));
  return tensor;
}

std::set<std::string> axis_names(const TensorSpec& tensor) {
  std::set<std::string> names;
  for (const AxisSpec& spec : tensor.axes) {
    if (const auto* axis = std::get_if<Axis>(&spec)) names.insert(axis->name);
  }
  return names;
}

// Names differ, and every free size of an output is one of an input: outputs are allocated before a run.
void check_component(const Component& component, const Place& where, Faults& faults) {
  for (const auto* tensors : {&component.inputs, &component.outputs}) {
    std::vector<std::string> names;
    for (const TensorSpec& tensor : *tensors) names.push_back(tensor.name);
    if (std::set<std::string>(names.begin(), names.end()).size() != names.size())
      return faults.add(where, component.path + ": tensor names repeat: " + list_text(names));
  }
  std::set<std::string> known;
  for (const TensorSpec& tensor : component.inputs) known.merge(axis_names(tensor));
  for (const TensorSpec& tensor : component.outputs) {
    std::vector<std::string> unknown;
    for (const std::string& name : axis_names(tensor)) {
      if (known.count(name) == 0) unknown.push_back(name);
    }
    if (!unknown.empty())
      return faults.add(where,
                        component.path + ": output " + tensor.name + " has axes of no input: " + list_text(unknown));
  }
}

Component read_component(const Json& value, const Place& where, Faults& faults) {
  const std::size_t before = faults.count();
  Component component;
  std::string weights;
  Fields fields(value, where, faults);
  fields.string("path", component.path);
  fields.choice("weights", weights, {"float32", "float16", "bfloat16"}, false);
  fields.list("inputs", true, 1, [&](const Json& tensor, const Place& place) {
    component.inputs.push_back(read_tensor(tensor, place, faults));
  });
  fields.list("outputs", true, 1, [&](const Json& tensor, const Place& place) {
    component.outputs.push_back(read_tensor(tensor, place, faults));
  });
  fields.finish();
  component.weights = read_dtype(weights);
  if (faults.count() == before) check_component(component, where, faults);
  return component;
}

// A number that is not above `limit` is a fault. `value` is the object that holds it.
void check_above(double number, int limit, const Json& value, const char* key, const Place& where, Faults& faults) {
  if (!(number > limit))
    faults.add(where.at(key), "input should be greater than " + std::to_string(limit), value.at(key));
}

Latents read_latents(const Json& value, const Place& where, Faults& faults) {
  Latents latents;
  Fields fields(value, where, faults);
  fields.integer("channels", latents.channels, 1);
  fields.integer("frames", latents.frames, 1);
  fields.integer("height", latents.height, 1);
  fields.integer("width", latents.width, 1);
  fields.integer("patch_size", latents.patch_size, 1);
  fields.integer("temporal_patch_size", latents.temporal_patch_size, 1, false);
  fields.integer("spatial_compression", latents.spatial_compression, 1);
  fields.integer("temporal_compression", latents.temporal_compression, 1, false);
  fields.number("scaling_factor", latents.scaling_factor);
  fields.number("shift_factor", latents.shift_factor);
  fields.number("frame_rate", latents.frame_rate);
  if (latents.frame_rate) check_above(*latents.frame_rate, 0, value, "frame_rate", where, faults);
  fields.choice("noise_axes", latents.noise_axes, {"channels_frames", "frames_channels"}, false);
  fields.finish();
  return latents;
}

Prediction read_prediction(const Json& value, const Place& where, Faults& faults) {
  Prediction prediction;
  Fields fields(value, where, faults);
  fields.choice("type", prediction.type, {"epsilon", "v_prediction", "sample", "flow_prediction"});
  fields.choice("timestep_unit", prediction.timestep_unit, {"training_index", "sigma"}, false);
  fields.boolean("learned_range_variance", prediction.learned_range_variance);
  fields.finish();
  return prediction;
}

Guidance read_guidance(const Json& value, const Place& where, Faults& faults) {
  Guidance guidance;
  Fields fields(value, where, faults);
  fields.choice("kind", guidance.kind, {"none", "classifier_free", "embedded"}, false);
  fields.each("unconditional", false, [&](const std::string& name, const Json& number, const Place& place) {
    check_key(name, place, faults, kName);
    if (!number.is_number()) {
      faults.add(place.at("int"), "input should be a valid integer", number, number.is_object());
      faults.add(place.at("float"), "input should be a valid number", number);
    } else if (number.is_number_float() || number.is_number_unsigned()) {
      guidance.unconditional[name] = number.get<double>();
    } else {
      guidance.unconditional[name] = number.get<std::int64_t>();
    }
  });
  fields.integer("channels", guidance.channels, 1);
  fields.number("default_scale", guidance.default_scale);
  fields.number("scale_offset", guidance.scale_offset);
  fields.string("input", guidance.input, &kName);
  fields.choice("normalise", guidance.normalise, {"token"});
  fields.string("skip_layers", guidance.skip_layers, &kName);
  fields.boolean("variance", guidance.variance);
  fields.finish();
  return guidance;
}

Scheduler read_scheduler(const Json& value, const Place& where, Faults& faults) {
  Scheduler scheduler;
  Fields fields(value, where, faults);
  fields.string("path", scheduler.path, false);
  fields.integer("num_inference_steps", scheduler.num_inference_steps, 1, false);
  fields.choice("sigmas", scheduler.sigmas, {"scheduler", "linspace", "linspace_to_zero"}, false);
  fields.choice("strength", scheduler.strength, {"rounded_down", "rounded_up"}, false);
  fields.finish();
  return scheduler;
}

// A template that has not one place for the prompt is a fault.
void check_template(const std::string& text, const char* key, const Place& where, Faults& faults) {
  const std::size_t place = text.find("{}");
  if (place == std::string::npos || text.find("{}", place + 2) != std::string::npos)
    faults.add(where.at(key), "template " + quoted(text, kNoLimit) + " must hold {} once, where the prompt goes");
}

PromptEncoder read_prompt_encoder(const Json& value, const Place& where, Faults& faults) {
  PromptEncoder encoder;
  Fields fields(value, where, faults);
  fields.string("component", encoder.component, kName);
  fields.string("tokenizer", encoder.tokenizer);
  fields.string("negative_tokenizer", encoder.negative_tokenizer);
  fields.list("cleaning", false, 0, [&](const Json& step, const Place& place) {
    if (check_choice(step, place, faults, {"html_unescape", "lowercase", "strip", "collapse_whitespace"}))
      encoder.cleaning.push_back(step.get<std::string>());
  });
  fields.string("prompt_template", encoder.prompt_template, false);
  check_template(encoder.prompt_template, "prompt_template", where, faults);
  fields.string("negative_template", encoder.negative_template, false);
  check_template(encoder.negative_template, "negative_template", where, faults);
  fields.finish();
  return encoder;
}

std::optional<Prompts> read_prompts(const Json& value, const Place& where, Faults& faults) {
  if (value.is_null()) return std::nullopt;
  const std::size_t before = faults.count();
  Prompts prompts;
  Fields fields(value, where, faults);
  fields.list("encoders", true, 1, [&](const Json& encoder, const Place& place) {
    prompts.encoders.push_back(read_prompt_encoder(encoder, place, faults));
  });
  fields.string("join", prompts.join, &kName);
  fields.string("negative", prompts.negative);
  fields.choice("padding", prompts.padding, {"kept", "dropped"}, false);
  fields.finish();
  if (faults.count() == before && prompts.padding == "dropped" && (prompts.encoders.size() > 1 || prompts.join))
    faults.add(where, "prompts.padding can be dropped of one encoder without join");
  return prompts;
}

std::optional<ImageEncoder> read_image_encoder(const Json& value, const Place& where, Faults& faults) {
  if (value.is_null()) return std::nullopt;
  ImageEncoder encoder;
  Fields fields(value, where, faults);
  fields.string("component", encoder.component, kName);
  fields.integer("size", encoder.size, 1);
  fields.finish();
  return encoder;
}

std::optional<ImageConditions> read_image_conditions(const Json& value, const Place& where, Faults& faults) {
  if (value.is_null()) return std::nullopt;
  const std::size_t before = faults.count();
  ImageConditions record;
  Fields fields(value, where, faults);
  fields.string("component", record.component, kName);
  fields.boolean("required", record.required);
  fields.boolean("last_image", record.last_image);
  fields.string("kept", record.kept, &kName);
  fields.string("mask", record.mask, &kName);
  if (const Json* encoder = fields.find("encoder", false))
    record.encoder = read_image_encoder(*encoder, where.at("encoder"), faults);
  fields.finish();
  if (faults.count() == before && record.kept.has_value() != record.mask.has_value())
    faults.add(where, "image_conditions: kept and mask go together");
  return record;
}

std::optional<Experts> read_experts(const Json& value, const Place& where, Faults& faults) {
  if (value.is_null()) return std::nullopt;
  Experts experts;
  Fields fields(value, where, faults);
  fields.string("component", experts.component, kName);
  if (const Json* boundary = fields.find("boundary", true);
      boundary != nullptr && check_number(*boundary, where.at("boundary"), faults)) {
    experts.boundary = boundary->get<double>();
    check_above(experts.boundary, 0, value, "boundary", where, faults);
    if (!(experts.boundary < 1)) faults.add(where.at("boundary"), "input should be less than 1", *boundary);
  }
  fields.number("default_scale", experts.default_scale);
  fields.finish();
  return experts;
}

// What of a tiling does not go together; empty where all does.
std::string wrong_tiling(const Tiling& tiling) {
  if (tiling.tile_frames.has_value() != tiling.stride_frames.has_value())
    return "tiling: tile_frames and stride_frames go together";
  const auto too_far = [](const char* side, std::int64_t tile, std::int64_t stride) {
    return stride <= tile ? ""
                          : std::string("tiling: stride_") + side + " " + std::to_string(stride) + " is above tile_" +
                                side + " " + std::to_string(tile);
  };
  std::string wrong = too_far("height", tiling.tile_height, tiling.stride_height);
  if (wrong.empty()) wrong = too_far("width", tiling.tile_width, tiling.stride_width);
  if (wrong.empty()) wrong = too_far("frames", tiling.tile_frames.value_or(0), tiling.stride_frames.value_or(0));
  if (wrong.empty() && tiling.always_in_time && !tiling.tile_frames) wrong = "tiling: always_in_time needs tile_frames";
  return wrong;
}

std::optional<Tiling> read_tiling(const Json& value, const Place& where, Faults& faults) {
  if (value.is_null()) return std::nullopt;
  const std::size_t before = faults.count();
  Tiling tiling;
  Fields fields(value, where, faults);
  fields.integer("tile_height", tiling.tile_height, 1);
  fields.integer("tile_width", tiling.tile_width, 1);
  fields.integer("stride_height", tiling.stride_height, 1);
  fields.integer("stride_width", tiling.stride_width, 1);
  fields.integer("tile_frames", tiling.tile_frames, 1);
  fields.integer("stride_frames", tiling.stride_frames, 1);
  fields.boolean("always_in_time", tiling.always_in_time);
  fields.finish();
  if (faults.count() != before) return tiling;
  if (const std::string wrong = wrong_tiling(tiling); !wrong.empty()) faults.add(where, wrong);
  return tiling;
}

SourceRecord read_source(const Json& value, const Place& where, Faults& faults) {
  SourceRecord source;
  Fields fields(value, where, faults);
  fields.string("kind", source.kind);
  fields.string("name", source.name);
  fields.string("sha256", source.sha256, kSha256);
  fields.finish();
  return source;
}

// Returns what is wrong with a path that the manifest records; empty for a good one.
std::string wrong_path(const std::string& path) {
  if (!is_plain_path(path)) return not_plain(path);
  const auto begins = [&](const char* folder) { return path.rfind(folder, 0) == 0; };
  if (path == "manifest.json" || path == "manifest.json.sha256" || begins("calibration/") || begins("engines/") ||
      begins("parity/"))
    return path + " has records of its own and does not belong under files";
  return "";
}

// What of the whole manifest does not fit together; empty where all does.
std::string wrong_as_a_whole(const Manifest& manifest) {
  const Component* denoiser = manifest.component("denoiser");
  if (denoiser == nullptr) {
    std::set<std::string> names;
    for (const auto& [name, component] : manifest.components) names.insert(name);
    return "components lack a denoiser: " + list_text({names.begin(), names.end()});
  }
  for (const auto& [name, component] : manifest.components) {
    if (manifest.files.count(component.path) == 0) return component.path + " is named but has no record under files";
  }
  if (manifest.files.count(manifest.scheduler.path) == 0)
    return manifest.scheduler.path + " is named but has no record under files";
  return misfit(manifest);
}

}  // namespace

std::int64_t Axis::size(std::int64_t free) const {
  std::int64_t size = 0;
  if (__builtin_mul_overflow(free, multiple, &size)) size = free < 0 ? kSmallest : kLargest;
  if (__builtin_add_overflow(size, offset, &size)) size = offset < 0 ? kSmallest : kLargest;
  return size;
}

std::optional<std::int64_t> Axis::free(std::int64_t size) const {
  std::int64_t whole = 0;
  if (__builtin_sub_overflow(size, offset, &whole) || whole % multiple != 0) return std::nullopt;
  const std::int64_t free = whole / multiple;
  const bool outside = free < minimum || (maximum && free > *maximum);
  return outside ? std::nullopt : std::optional<std::int64_t>(free);
}

bool Axis::operator==(const Axis& other) const {
  const auto all = [](const Axis& one) {
    return std::tie(one.name, one.multiple, one.offset, one.minimum, one.maximum);
  };
  return all(*this) == all(other);
}

bool TensorSpec::operator==(const TensorSpec& other) const {
  const auto all = [](const TensorSpec& one) {
    return std::tie(one.name, one.dtype, one.axes, one.unit, one.minimum, one.maximum, one.description);
  };
  return all(*this) == all(other);
}

const TensorSpec* Component::input(std::string_view name) const {
  const auto found = std::find_if(inputs.begin(), inputs.end(), [&](const auto& one) { return one.name == name; });
  return found == inputs.end() ? nullptr : &*found;
}

const TensorSpec* Component::output(std::string_view name) const {
  const auto found = std::find_if(outputs.begin(), outputs.end(), [&](const auto& one) { return one.name == name; });
  return found == outputs.end() ? nullptr : &*found;
}

const Component* Manifest::component(std::string_view name) const {
  for (const auto& [key, component] : components) {
    if (key == name) return &component;
  }
  return nullptr;
}

FileRecord read_file_record(const Json& value, const Place& where, Faults& faults) {
  FileRecord record;
  Fields fields(value, where, faults);
  fields.integer("size", record.size, 0);
  fields.string("sha256", record.sha256, kSha256);
  fields.finish();
  return record;
}

Manifest parse_manifest(std::string_view data, const std::string& name) {
  const Json document = read_ordered_object(data, name);
  check_version(document, name, kFormat, "manifest of a bundle", kHow, "bundle");
  Manifest manifest;
  Faults faults;
  const Place root;
  Fields fields(document, root, faults);
  fields.find("format", false);
  fields.find("version", false);
  fields.string("created_by", manifest.created_by);
  fields.string("family", manifest.family, kName);
  const auto part = [&](const char* key, bool required, auto read, auto& out) {
    if (const Json* value = fields.find(key, required)) out = read(*value, root.at(key), faults);
  };
  part("source", true, read_source, manifest.source);
  part("latents", true, read_latents, manifest.latents);
  fields.each("components", true, [&](const std::string& key, const Json& value, const Place& place) {
    check_key(key, place, faults, kName);
    manifest.components.emplace_back(key, read_component(value, place, faults));
  });
  part("prediction", true, read_prediction, manifest.prediction);
  part("guidance", false, read_guidance, manifest.guidance);
  part("scheduler", false, read_scheduler, manifest.scheduler);
  part("prompts", false, read_prompts, manifest.prompts);
  part("image_conditions", false, read_image_conditions, manifest.image_conditions);
  part("experts", false, read_experts, manifest.experts);
  part("tiling", false, read_tiling, manifest.tiling);
  fields.each("labels", false, [&](const std::string& key, const Json& value, const Place& place) {
    check_key(key, place, faults, kClassIndex);
    std::int64_t index = 0;
    std::from_chars(key.data(), key.data() + key.size(), index);
    if (check_string(value, place, faults)) manifest.labels[index] = value.get<std::string>();
  });
  const std::size_t before = faults.count();
  std::string wrong;  // the first path that is
  fields.each("files", true, [&](const std::string& path, const Json& value, const Place& place) {
    manifest.files[path] = read_file_record(value, place, faults);
    if (wrong.empty()) wrong = wrong_path(path);
  });
  if (faults.count() == before && !wrong.empty()) faults.add(root.at("files"), wrong);
  fields.finish();
  if (faults.count() == 0) {
    const std::string misfits = wrong_as_a_whole(manifest);
    if (!misfits.empty()) faults.add(root, misfits);
  }
  faults.raise(name, "manifest");
  return manifest;
}

}  // namespace dit_deploy::bundle
