#include "runtime/image_conditions.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"

namespace dit_deploy::runtime {
namespace {

std::string size_text(std::int64_t width, std::int64_t height) {
  return std::to_string(width) + "×" + std::to_string(height);
}

void say_stretched(const std::string& name, const std::vector<Picture>& given, std::int64_t height, std::int64_t width,
                   std::vector<std::string>& warnings) {
  for (const Picture& picture : given) {
    const double wide = static_cast<double>(picture.width) * static_cast<double>(height);
    const double high = static_cast<double>(picture.height) * static_cast<double>(width);
    if (std::fabs(wide - high) <= std::max(wide, 1.0) / 100) continue;
    warnings.push_back(name + ": a picture of " + size_text(picture.width, picture.height) +
                       " pixels was stretched to " + size_text(width, height) +
                       "; cut it to that aspect before, or ask for another height and width");
  }
}

// What the vision encoder is given of each list of pictures, of which one may be for all samples.
Pixels crops_of(const std::vector<const std::vector<Picture>*>& several, std::int64_t size) {
  std::size_t most = 0;
  for (const auto* one : several) most = std::max(most, one->size());
  Pixels crops{{static_cast<std::int64_t>(most), static_cast<std::int64_t>(several.size()), 3, size, size}, {}};
  for (std::size_t sample = 0; sample < most; ++sample) {
    for (const auto* one : several) {
      const std::vector<float> middle = middle_of((*one)[one->size() == 1 ? 0 : sample], size);
      crops.values.insert(crops.values.end(), middle.begin(), middle.end());
    }
  }
  return crops;
}

// `pixels` [batch or 1, …] for each sample.
Tensor for_each(const Pixels& pixels, std::int64_t batch) {
  Shape shape = pixels.shape;
  const bool one = shape[0] != batch;
  shape[0] = batch;
  std::vector<float> values;
  for (std::int64_t sample = 0; sample < (one ? batch : 1); ++sample)
    values.insert(values.end(), pixels.values.begin(), pixels.values.end());
  return Tensor::of(std::move(shape), values);
}

void bind_sizes(const Component& component, const Tensors& tensors, Sizes& sizes) {
  std::map<std::string, std::string> owner;
  for (const bundle::TensorSpec& spec : component.inputs) {
    const auto found = tensors.find(spec.name);
    if (found != tensors.end()) bundle::bind_axes(spec, found->second.dtype, found->second.shape, sizes, owner);
  }
}

const float* floats_of(const Tensor& tensor, const std::string& name) {
  if (tensor.dtype != DType::float32) throw BackendError(name + ": the bundle declares a type other than float32");
  return reinterpret_cast<const float*>(tensor.data.data());
}

}  // namespace

std::optional<Pictures> read_pictures(const bundle::Manifest& manifest, const Request& request, std::int64_t batch,
                                      std::int64_t height, std::int64_t width, std::int64_t multiple,
                                      std::vector<std::string>& warnings) {
  const bool has_last = !request.last_image.empty();
  if (!manifest.image_conditions) {
    if (has_last) throw InputError("last_image: this bundle makes no video of pictures");
    return std::nullopt;
  }
  const bundle::ImageConditions& record = *manifest.image_conditions;
  if (request.image.empty()) {
    if (record.required) throw InputError("image: this bundle makes videos of a picture, and none came; give image");
    if (!has_last) return std::nullopt;
    throw InputError("last_image: came without an image; give image too");
  }
  if (has_last && !record.last_image) throw InputError("last_image: this model takes a first picture only");
  if (!has_last && record.encoder) {
    const auto& needed = manifest.component(record.encoder->component)->input("images")->axes[1];
    if (needed == bundle::AxisSpec(std::int64_t{2}))
      throw InputError("last_image: this model needs the last picture beside the first; give last_image too");
  }
  const auto read = [&](const std::string& name, const std::vector<Picture>& given) {
    say_stretched(name, given, height, width, warnings);
    Pixels pixels = read_images(given, multiple, 3, height, width, name);
    if (pixels.shape[0] != 1 && pixels.shape[0] != batch) {
      throw InputError(name + ": " + std::to_string(pixels.shape[0]) + " pictures came, 1 or " + std::to_string(batch) +
                       " expected, one for each prompt");
    }
    return pixels;
  };
  Pictures pictures{read("image", request.image), std::nullopt, std::nullopt};
  if (has_last) pictures.last = read("last_image", request.last_image);
  if (record.encoder) {
    std::vector<const std::vector<Picture>*> several{&request.image};
    if (has_last) several.push_back(&request.last_image);
    pictures.crops = crops_of(several, record.encoder->size);
  }
  return pictures;
}

ImageConditioner::ImageConditioner(const bundle::Manifest& manifest, Components& components)
    : manifest_(manifest), record_(*manifest.image_conditions), components_(components) {}

std::vector<std::string> ImageConditioner::components() const {
  std::vector<std::string> names{record_.component};
  if (record_.encoder) names.push_back(record_.encoder->component);
  return names;
}

std::set<std::string> ImageConditioner::names() const {
  std::set<std::string> names;
  for (const std::string& name : components()) {
    for (const bundle::TensorSpec& spec : manifest_.component(name)->outputs) names.insert(spec.name);
  }
  return names;
}

Tensors ImageConditioner::make(const std::optional<Pictures>& pictures, std::int64_t batch, std::int64_t frames,
                               std::int64_t height, std::int64_t width, sampling::NoiseSource& source,
                               double& seconds) const {
  const Component& component = *manifest_.component(record_.component);
  Tensors feeds;
  feeds["given"] = zeros(DType::int64, {batch, frames});
  feeds["images"] = {DType::float32, {batch, 3, frames, height, width}, {}};
  Sizes sizes;
  bind_sizes(component, feeds, sizes);
  Tensors made;
  if (!pictures) {
    for (const bundle::TensorSpec& spec : component.outputs)
      made[spec.name] = zeros(spec.dtype, bundle::shape_of(spec, sizes));
    return made;
  }
  Tensor& images = feeds["images"] = zeros(DType::float32, {batch, 3, frames, height, width});
  const std::size_t area = static_cast<std::size_t>(height * width) * sizeof(float);
  const auto put = [&](const Pixels& picture, std::int64_t frame) {
    const std::int64_t one = 1;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t c = 0; c < 3; ++c) {
        const std::int64_t from = (picture.shape[0] == 1 ? 0 : b) * 3 + c;
        std::memcpy(images.data.data() + static_cast<std::size_t>((b * 3 + c) * frames + frame) * area,
                    reinterpret_cast<const std::byte*>(picture.values.data()) + static_cast<std::size_t>(from) * area,
                    area);
      }
      std::memcpy(feeds["given"].data.data() + static_cast<std::size_t>(b * frames + frame) * sizeof one, &one,
                  sizeof one);
    }
  };
  put(pictures->first, 0);
  if (pictures->last) put(*pictures->last, frames - 1);
  if (const bundle::TensorSpec* spec = component.input("noise")) {
    // One draw a picture, as diffusers encodes it, or a sample where these have seeds of their own.
    Shape shape = bundle::shape_of(*spec, sizes);
    if (shape.empty()) throw BackendError("noise: the graph declares no axes; export the bundle again");
    shape[0] = source.shared() ? pictures->first.shape[0] : batch;
    Pixels noise{shape, std::vector<float>(static_cast<std::size_t>(bundle::elements(shape)))};
    const auto count = static_cast<std::size_t>(shape[0]);
    source.draw(noise.values.data(), count, noise.values.size() / count);
    feeds["noise"] = for_each(noise, batch);
  }
  made = call(*components_.pool(record_.component), record_.component, sizes, feeds, &seconds);
  if (record_.encoder) {
    const std::string& name = record_.encoder->component;
    const Tensors crops{{"images", for_each(*pictures->crops, batch)}};
    Sizes own;
    bind_sizes(*manifest_.component(name), crops, own);
    made.merge(call(*components_.pool(name), name, own, crops, &seconds));
  }
  return made;
}

void ImageConditioner::keep(std::vector<float>& latents, const Shape& shape,
                            const std::vector<Condition>& conditions) const {
  if (!record_.kept || !record_.mask) return;
  const auto find = [&](const std::string& name) -> const Tensor& {
    return std::find_if(conditions.begin(), conditions.end(), [&](const Condition& one) { return one.name == name; })
        ->conditional;
  };
  const Tensor &kept = find(*record_.kept), &mask = find(*record_.mask);
  const float *values = floats_of(kept, *record_.kept), *marks = floats_of(mask, *record_.mask);
  bool spreads = mask.shape.size() == shape.size() && kept.shape == shape;
  for (std::size_t axis = 0; spreads && axis < shape.size(); ++axis)
    spreads = mask.shape[axis] == shape[axis] || mask.shape[axis] == 1;
  if (!spreads) {
    throw BackendError("image_conditions: what is kept is " + bundle::shape_text(kept.shape) + ", its mask " +
                       bundle::shape_text(mask.shape) + ", the latents are " + bundle::shape_text(shape) +
                       "; export the bundle again");
  }
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t index = 0; index < latents.size(); ++index) {
    std::int64_t place = 0;
    for (std::size_t axis = 0; axis < shape.size(); ++axis)
      place = place * mask.shape[axis] + (mask.shape[axis] == 1 ? 0 : at[axis]);
    if (marks[place] != 0) latents[index] = values[index];
    for (std::size_t axis = shape.size(); axis-- > 0 && ++at[axis] == shape[axis];) at[axis] = 0;
  }
}

}  // namespace dit_deploy::runtime
