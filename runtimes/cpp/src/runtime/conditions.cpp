#include "runtime/conditions.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "bundle/shapes.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

constexpr std::int64_t kMostImages = 1 << 20;

bool is_condition(const bundle::TensorSpec& spec) { return spec.name != "latents" && spec.name != "timestep"; }

// Class labels in the type that the denoiser declares.
Tensor labels_tensor(const bundle::TensorSpec& spec, const std::vector<std::int64_t>& labels) {
  const std::vector<std::int64_t> shape{static_cast<std::int64_t>(labels.size())};
  Tensor wide = Tensor::of(shape, labels);
  bundle::TensorSpec as_int64 = spec;
  as_int64.dtype = DType::int64;
  bundle::check_values(as_int64, wide);  // before they are narrowed
  if (spec.dtype != DType::int32) return wide;
  return Tensor::of(shape, std::vector<std::int32_t>(labels.begin(), labels.end()));
}

// A tensor of `like`'s shape and type that holds `value` everywhere. Half types hold small whole numbers and halves
// exactly, which is all that a manifest's constants are.
Tensor filled(const Tensor& like, const bundle::Number& value) {
  const double number = std::visit([](auto one) { return static_cast<double>(one); }, value);
  Tensor tensor = like;
  const auto fill = [&](auto element) {
    for (std::size_t at = 0; at < tensor.data.size(); at += sizeof element) {
      std::memcpy(tensor.data.data() + at, &element, sizeof element);
    }
  };
  switch (like.dtype) {
    case DType::float32:
      fill(static_cast<float>(number));
      break;
    case DType::int64:
      fill(static_cast<std::int64_t>(number));
      break;
    case DType::int32:
      fill(static_cast<std::int32_t>(number));
      break;
    case DType::boolean:
      fill(static_cast<std::uint8_t>(number != 0));
      break;
    case DType::float16:
    case DType::bfloat16:
      if (number != 0)
        throw InputError("guidance.unconditional: only 0 is known in 16 bits; give the tensor in the request");
      fill(std::uint16_t{0});
      break;
  }
  return tensor;
}

// Each sample `times` times, beside each other.
Tensor repeated(const Tensor& tensor, std::int64_t times) {
  if (times == 1) return tensor;
  Tensor all{tensor.dtype, tensor.shape, {}};
  const auto each = tensor.data.size() / static_cast<std::size_t>(std::max<std::int64_t>(tensor.shape[0], 1));
  all.shape[0] *= times;
  for (auto sample = tensor.data.begin(); sample != tensor.data.end(); sample += static_cast<std::ptrdiff_t>(each)) {
    for (std::int64_t i = 0; i < times; ++i)
      all.data.insert(all.data.end(), sample, sample + static_cast<std::ptrdiff_t>(each));
  }
  return all;
}

// [texts, tokens, …] with zeros for the tokens of each text beyond its length.
void zero_beyond(Tensor& tensor, const std::vector<std::int64_t>& lengths) {
  const std::int64_t tokens = tensor.shape.at(1);
  const std::size_t each =
      tensor.data.size() / static_cast<std::size_t>(std::max<std::int64_t>(tensor.shape[0] * tokens, 1));
  for (std::size_t text = 0; text < lengths.size(); ++text) {
    const std::size_t begin = text * static_cast<std::size_t>(tokens);
    const auto kept = static_cast<std::size_t>(std::min(lengths[text], tokens));
    std::fill(tensor.data.begin() + static_cast<std::ptrdiff_t>((begin + kept) * each),
              tensor.data.begin() + static_cast<std::ptrdiff_t>((begin + static_cast<std::size_t>(tokens)) * each),
              std::byte{0});
  }
}

// The first `length` tokens of [1, tokens, …].
void cut_to(Tensor& tensor, std::int64_t length) {
  const std::int64_t tokens = std::max<std::int64_t>(tensor.shape.at(1), 1), kept = std::min(length, tokens);
  tensor.data.resize(tensor.data.size() / static_cast<std::size_t>(tokens) * static_cast<std::size_t>(kept));
  tensor.shape[1] = kept;
}

// What prompts of `lengths` tokens and their negatives made, as padding "dropped" has them.
void drop_padding(Tensors& made, Tensors& negative, const std::vector<std::int64_t>& lengths,
                  std::int64_t images_each) {
  const bool several = static_cast<std::int64_t>(lengths.size()) * images_each > 1;
  for (auto& one : made) several ? zero_beyond(one.second, lengths) : cut_to(one.second, lengths[0]);
  for (auto& one : negative) {
    if (!several) cut_to(one.second, lengths[0]);
  }
}

void check_tensor(const bundle::TensorSpec& spec, const Tensor& tensor, Sizes& sizes,
                  std::map<std::string, std::string>& owner) {
  bundle::bind_axes(spec, tensor.dtype, tensor.shape, sizes, owner);
  const auto expected = static_cast<std::size_t>(bundle::elements(tensor.shape)) * bundle::dtype_size(tensor.dtype);
  if (tensor.data.size() != expected) {
    throw InputError(spec.name + ": " + std::to_string(tensor.data.size()) + " bytes came, expected " +
                     std::to_string(expected) + " for shape " + bundle::shape_text(tensor.shape));
  }
  bundle::check_values(spec, tensor);
}

// A name in the request that the denoiser does not have.
void refuse_unknown(const bundle::Component& denoiser, const Tensors& given, const char* field) {
  for (const auto& one : given) {
    const bundle::TensorSpec* spec = denoiser.input(one.first);
    if (spec != nullptr && is_condition(*spec)) continue;
    std::vector<std::string> known;
    for (const auto& input : denoiser.inputs) {
      if (is_condition(input)) known.push_back(input.name);
    }
    throw InputError(std::string(field) + ": " + quoted(one.first) + " came, this bundle's denoiser takes " +
                     (known.empty() ? "no conditions" : join(known)));
  }
}

std::int64_t blocks_of(const bundle::TensorSpec& spec) {
  return std::get<std::int64_t>(spec.axes[1]);  // the manifest was held against this
}

// The input that leaves out `layers`, [batch, blocks].
Tensor skipping(const bundle::TensorSpec* spec, const std::vector<std::int64_t>& layers, std::int64_t batch) {
  if (spec == nullptr) throw InputError("skip_guidance_layers: no blocks of this bundle's denoiser can be left out");
  const std::int64_t blocks = blocks_of(*spec);
  Tensor skipped = zeros(DType::int64, {batch, blocks});
  const std::int64_t one = 1;
  for (const std::int64_t layer : layers) {
    if (layer >= blocks) {
      throw InputError("skip_guidance_layers: " + std::to_string(layer) +
                       " came, this bundle's denoiser has blocks 0 … " + std::to_string(blocks - 1));
    }
    for (std::int64_t sample = 0; sample < batch; ++sample) {
      std::memcpy(skipped.data.data() + static_cast<std::size_t>(sample * blocks + layer) * sizeof one, &one,
                  sizeof one);
    }
  }
  return skipped;
}

// What is given for each half: by the caller, by prompts, by labels; what both have beside is filled in.
struct Given {
  Tensors conditional, unconditional;

  std::int64_t batch(const Request& request) const {
    for (const auto& one : conditional) {
      if (!one.second.shape.empty()) return one.second.shape[0];
    }
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(request.seed.size()));
  }
};

Given read_given(const bundle::Manifest& manifest, const Request& request, bool guided,
                 const std::optional<Texts>& texts, const EncodePrompts& prompts) {
  const bundle::Component& denoiser = *manifest.component("denoiser");
  refuse_unknown(denoiser, request.conditions, "conditions");
  refuse_unknown(denoiser, request.unconditional, "unconditional");
  const bundle::TensorSpec* takes_labels = denoiser.input("class_labels");
  if (!request.class_labels.empty() && (takes_labels == nullptr || request.conditions.count("class_labels") != 0)) {
    throw InputError(takes_labels == nullptr ? "class_labels: this bundle's denoiser takes none"
                                             : "class_labels: came twice, among the conditions too; leave one out");
  }
  Given given{request.conditions, request.unconditional};
  if (texts) {
    Tensors made = prompts.encode(texts->prompts, false, texts->others), negative;
    if (guided && texts->negatives) negative = prompts.encode(*texts->negatives, true, texts->negative_others);
    if (manifest.prompts->padding == "dropped")
      drop_padding(made, negative, prompts.lengths(texts->prompts), texts->images_each);
    for (const auto& [name, tensor] : made) given.conditional.emplace(name, repeated(tensor, texts->images_each));
    for (const auto& [name, tensor] : negative) given.unconditional.emplace(name, repeated(tensor, texts->images_each));
  }
  if (!request.class_labels.empty()) {
    given.conditional["class_labels"] = labels_tensor(*takes_labels, request.class_labels);
  }
  return given;
}

// A negative of each prompt.
std::vector<std::string> negatives_of(std::vector<std::string> negatives, std::size_t count) {
  if (negatives.size() == 1) negatives.resize(count, negatives.front());
  if (negatives.size() == count) return negatives;
  throw InputError("negative_prompt: " + std::to_string(negatives.size()) + " came for " + std::to_string(count) +
                   " prompts; give one, or one for each");
}

// The prompts for the second text encoder, and for the third, each with its negatives.
struct Later {
  const std::vector<std::string>&prompts, &negatives;
};
std::array<Later, 2> later_of(const Request& request) {
  return {{{request.prompt_2, request.negative_prompt_2}, {request.prompt_3, request.negative_prompt_3}}};
}

// The texts of the text encoder at `place`, one for each of `count` prompts.
std::vector<std::string> later_texts(const bundle::Prompts& prompts, const std::string& name,
                                     std::vector<std::string> texts, std::size_t place, std::size_t count) {
  if (place >= prompts.encoders.size()) {
    throw InputError(name + ": came, but this bundle has no text encoder " + std::to_string(place + 1) +
                     "; leave it out");
  }
  if (texts.size() == 1) texts.resize(count, texts.front());
  if (texts.size() == count) return texts;
  throw InputError(name + ": " + std::to_string(texts.size()) + " came for " + std::to_string(count) +
                   " prompts; give one, or one for each");
}

OtherTexts read_later(const bundle::Prompts& prompts, const Request& request, bool negative, std::size_t count) {
  OtherTexts found;
  std::size_t place = 0;
  for (const Later& later : later_of(request)) {
    ++place;
    const std::vector<std::string>& texts = negative ? later.negatives : later.prompts;
    if (texts.empty()) continue;
    const std::string name = (negative ? "negative_prompt_" : "prompt_") + std::to_string(place + 1);
    found[place] = later_texts(prompts, name, texts, place, count);
  }
  return found;
}

// Refuses what belongs to a prompt where there is none.
void refuse_without_prompt(const Request& request) {
  std::size_t place = 1;
  for (const Later& later : later_of(request)) {
    ++place;
    if (later.prompts.empty() && later.negatives.empty()) continue;
    throw InputError("prompt_" + std::to_string(place) + ": came without a prompt; give prompt too, or leave it out");
  }
  if (!request.negative_prompt.empty()) {
    throw InputError("negative_prompt: came without a prompt; give prompt too, or leave it out");
  }
  if (request.num_images_per_prompt != 1) {
    throw InputError("num_images_per_prompt: " + std::to_string(request.num_images_per_prompt) +
                     " came without a prompt; repeat the conditions instead");
  }
}

}  // namespace

std::optional<Texts> read_texts(const bundle::Manifest& manifest, const Request& request) {
  const std::int64_t images = request.num_images_per_prompt;
  if (images < 1) {
    throw InputError("num_images_per_prompt: " + std::to_string(images) +
                     " came, an integer of 1 or more was expected");
  }
  if (request.prompt.empty()) {
    refuse_without_prompt(request);
    return std::nullopt;
  }
  if (!manifest.prompts) {
    throw InputError("prompt: this bundle has no text encoder; give its conditions as tensors");
  }
  if (images > kMostImages) {
    throw InputError("num_images_per_prompt: " + std::to_string(images) + " came, at most " +
                     std::to_string(kMostImages) + " are drawn at once");
  }
  Texts texts{request.prompt, std::nullopt, images, {}, {}};
  texts.others = read_later(*manifest.prompts, request, false, texts.prompts.size());
  texts.negative_others = read_later(*manifest.prompts, request, true, texts.prompts.size());
  if (!request.negative_prompt.empty()) {
    texts.negatives = negatives_of(request.negative_prompt, texts.prompts.size());
  } else if (manifest.prompts->negative) {
    texts.negatives = negatives_of({*manifest.prompts->negative}, texts.prompts.size());
  }
  return texts;
}

Conditions read_conditions(const bundle::Manifest& manifest, const Request& request, const sampling::Guidance& guidance,
                           double scale, std::optional<double> frame_rate, const std::optional<Texts>& texts,
                           const EncodePrompts& prompts, const std::set<std::string>& later) {
  const bundle::Component& denoiser = *manifest.component("denoiser");
  const bundle::Guidance& own = manifest.guidance;
  Given given = read_given(manifest, request, guidance.scale > 1, texts, prompts);
  const std::int64_t batch = given.batch(request);
  if (own.input) given.conditional[*own.input] = filled(zeros(denoiser.input(*own.input)->dtype, {batch}), scale);
  const bundle::TensorSpec* skip = own.skip_layers ? denoiser.input(*own.skip_layers) : nullptr;
  if (skip != nullptr) given.conditional.emplace(skip->name, zeros(DType::int64, {batch, blocks_of(*skip)}));
  if (const bundle::TensorSpec* rate = denoiser.input("frame_rate"); rate != nullptr && frame_rate)
    given.conditional.emplace(rate->name, filled(zeros(rate->dtype, {batch}), *frame_rate));
  std::optional<Tensor> skipped;
  if (guidance.skip) skipped = skipping(skip, guidance.skip->layers, batch);

  Conditions read;
  std::map<std::string, std::string> owner, unguided_owner;
  bool same_shapes = true;
  for (const bundle::TensorSpec& spec : denoiser.inputs) {
    if (!is_condition(spec)) continue;
    const auto found = given.conditional.find(spec.name);
    if (found == given.conditional.end()) {
      if (later.count(spec.name) != 0) continue;
      const bool by_prompt = manifest.prompts && spec.name != "class_labels";
      throw InputError(spec.name + ": this bundle needs it, and none came" + (by_prompt ? "; give a prompt" : ""));
    }
    Condition condition{spec.name, std::move(found->second), {}, std::nullopt};
    check_tensor(spec, condition.conditional, read.sizes, owner);
    if (const auto size = read.sizes.find("batch"); size != read.sizes.end()) {  // both halves have as many samples
      read.unguided_sizes.insert(*size);
      unguided_owner.emplace("batch", owner["batch"]);
    }
    if (const auto other = given.unconditional.find(spec.name); other != given.unconditional.end()) {
      condition.unconditional = std::move(other->second);
    } else if (const auto value = own.unconditional.find(spec.name); value != own.unconditional.end()) {
      condition.unconditional = filled(condition.conditional, value->second);
    } else {
      condition.unconditional = condition.conditional;
    }
    check_tensor(spec, condition.unconditional, read.unguided_sizes, unguided_owner);
    same_shapes = same_shapes && condition.unconditional.shape == condition.conditional.shape;
    if (&spec == skip) condition.skipping = skipped;
    read.tensors.push_back(std::move(condition));
  }
  read.batch = read.sizes.emplace("batch", batch).first->second;
  if (same_shapes) read.unguided_sizes.clear();
  return read;
}

void join_conditions(Conditions& conditions, const Component& denoiser, Tensors more) {
  std::map<std::string, std::string> owner;
  for (const auto& one : conditions.sizes) owner.emplace(one.first, "another condition");
  for (auto& [name, tensor] : more) {
    const auto there = [&, key = name](const Condition& one) { return one.name == key; };
    if (std::any_of(conditions.tensors.begin(), conditions.tensors.end(), there)) continue;
    const bundle::TensorSpec& spec = *denoiser.input(name);  // the manifest was held against this
    for (Sizes* sizes : {&conditions.sizes, &conditions.unguided_sizes}) {
      if (!sizes->empty()) bundle::bind_axes(spec, tensor.dtype, tensor.shape, *sizes, owner);
    }
    conditions.tensors.push_back({name, tensor, std::move(tensor)});
  }
}

}  // namespace dit_deploy::runtime
