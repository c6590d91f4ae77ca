#include "runtime/arguments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "bundle/shapes.h"
#include "runtime/finite.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// More is a mistake, whose bytes would not fit into 64 bits at last.
constexpr std::int64_t kLargestSide = 1 << 20;

// Python's round(): halves go to the even neighbour.
std::int64_t nearest(std::int64_t size, std::int64_t multiple) {
  const double whole = std::nearbyint(static_cast<double>(size) / static_cast<double>(multiple));
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(whole)) * multiple;
}

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
void refuse_unknown(const bundle::Component& denoiser, const std::map<std::string, Tensor>& given, const char* field) {
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

std::string list_text(const Shape& shape) {
  std::vector<std::string> parts;
  for (const std::int64_t size : shape) parts.push_back(std::to_string(size));
  return "[" + join(parts) + "]";
}

}  // namespace

void check_size(const char* name, std::optional<std::int64_t> size, std::int64_t multiple) {
  if (!size) return;
  if (*size > kLargestSide) {
    throw InputError(std::string(name) + ": " + std::to_string(*size) + " came, expected at most " +
                     std::to_string(kLargestSide) + " pixels");
  }
  if (*size >= 1 && *size % multiple == 0) return;
  throw InputError(std::string(name) + ": " + std::to_string(*size) + " came, expected a multiple of " +
                   std::to_string(multiple) + " pixels; the nearest is " + std::to_string(nearest(*size, multiple)));
}

Conditions read_conditions(const bundle::Manifest& manifest, const Request& request) {
  const bundle::Component& denoiser = *manifest.component("denoiser");
  if (!request.prompt.empty() || !request.negative_prompt.empty()) {
    const bool negative = request.prompt.empty();
    throw InputError(std::string(negative ? "negative_prompt" : "prompt") +
                     ": this bundle has no text encoder; give its conditions as tensors");
  }
  refuse_unknown(denoiser, request.conditions, "conditions");
  refuse_unknown(denoiser, request.unconditional, "unconditional");
  const bundle::TensorSpec* takes_labels = denoiser.input("class_labels");
  if (!request.class_labels.empty() && (takes_labels == nullptr || request.conditions.count("class_labels") != 0)) {
    throw InputError(takes_labels == nullptr ? "class_labels: this bundle's denoiser takes none"
                                             : "class_labels: came twice, among the conditions too; leave one out");
  }

  Conditions read;
  std::map<std::string, std::string> owner;
  for (const bundle::TensorSpec& spec : denoiser.inputs) {
    if (!is_condition(spec)) continue;
    Condition condition;
    condition.name = spec.name;
    if (const auto given = request.conditions.find(spec.name); given != request.conditions.end()) {
      condition.conditional = given->second;
    } else if (spec.name == "class_labels" && !request.class_labels.empty()) {
      condition.conditional = labels_tensor(spec, request.class_labels);
    } else {
      throw InputError(spec.name + ": this bundle needs it, and none came");
    }
    check_tensor(spec, condition.conditional, read.sizes, owner);
    if (const auto given = request.unconditional.find(spec.name); given != request.unconditional.end()) {
      check_tensor(spec, given->second, read.sizes, owner);
      condition.unconditional = given->second;
    } else if (const auto value = manifest.guidance.unconditional.find(spec.name);
               value != manifest.guidance.unconditional.end()) {
      condition.unconditional = filled(condition.conditional, value->second);
    } else {
      condition.unconditional = condition.conditional;
    }
    read.tensors.push_back(std::move(condition));
  }
  if (const auto batch = read.sizes.find("batch"); batch != read.sizes.end()) {
    read.batch = batch->second;
  } else {
    read.batch = std::max<std::int64_t>(1, static_cast<std::int64_t>(request.seed.size()));
  }
  return read;
}

Shape latents_shape(const bundle::Manifest& manifest, std::int64_t batch, std::optional<std::int64_t> height,
                    std::optional<std::int64_t> width, std::optional<std::int64_t> num_frames) {
  const bundle::Latents& latents = manifest.latents;
  Shape shape{batch, latents.channels};
  const bool video = manifest.component("denoiser")->input("latents")->axes.size() == 5;
  if (video) {
    const std::int64_t frames = num_frames.value_or(0), stride = latents.temporal_compression;
    // Causal video autoencoders keep the first frame by itself; with a compression of 1 that is every frame.
    if (frames < 1 || (frames - 1) % stride != 0) {
      throw InputError("num_frames: " + (num_frames ? std::to_string(frames) : std::string("none")) +
                       " came, expected 1 more than a multiple of " + std::to_string(stride) + "; the nearest is " +
                       std::to_string(nearest(std::max<std::int64_t>(frames - 1, 1), stride) + 1));
    }
    shape.push_back((frames - 1) / stride + 1);
  } else if (num_frames) {
    throw InputError("num_frames: " + std::to_string(*num_frames) +
                     " came, but this bundle makes pictures; leave it out");
  }
  shape.push_back(height ? *height / latents.spatial_compression : latents.height);
  shape.push_back(width ? *width / latents.spatial_compression : latents.width);
  return shape;
}

std::vector<std::uint64_t> read_seeds(const std::vector<std::uint64_t>& seed, std::int64_t batch) {
  if (seed.empty()) return {std::random_device{}() & 0xFFFFFFFFu};
  if (seed.size() != 1 && static_cast<std::int64_t>(seed.size()) != batch) {
    throw InputError("seed: " + std::to_string(seed.size()) + " seeds came for " + std::to_string(batch) +
                     " pictures; give one, or one for each");
  }
  return seed;
}

void check_noise(const Array& noise, const Shape& shape) {
  if (noise.shape != shape) {
    throw InputError("noise: float32" + list_text(noise.shape) +
                     " came, expected a float32 array of the latents' shape " + list_text(shape));
  }
  if (noise.values.size() != static_cast<std::size_t>(bundle::elements(shape))) {
    throw InputError("noise: " + std::to_string(noise.values.size()) + " values came, expected " +
                     std::to_string(bundle::elements(shape)) + " for the shape " + list_text(shape));
  }
  if (!all_finite(noise.values.data(), noise.values.size())) {
    throw InputError("noise: holds NaN or infinite values, expected finite ones");
  }
}

}  // namespace dit_deploy::runtime
