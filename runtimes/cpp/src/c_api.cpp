// The C interface: each function checks its pointers, calls the C++ one, and makes a status of what is thrown.
#include "dit_deploy.h"

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <new>
#include <string_view>

#include "bundle/shapes.h"
#include "dit_deploy/pipeline.hpp"
#include "text.h"

using namespace dit_deploy;

struct dit_deploy_options {
  Options value;
};
struct dit_deploy_pipeline {
  Pipeline value;
};
struct dit_deploy_request {
  Request value;
};
struct dit_deploy_result {
  Result value;
};

namespace {

char* copied(std::string_view text) noexcept {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) return nullptr;
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

dit_deploy_status failed(dit_deploy_status status, const char* message, char** error) noexcept {
  if (error != nullptr) *error = copied(message);
  return status;
}

// Runs `body`; whatever it throws becomes a status and a message.
template <typename Body>
dit_deploy_status guarded(char** error, Body&& body) noexcept {
  if (error != nullptr) *error = nullptr;
  try {
    body();
    return DIT_DEPLOY_OK;
  } catch (const InputError& caught) {
    return failed(DIT_DEPLOY_INPUT_ERROR, caught.what(), error);
  } catch (const IntegrityError& caught) {
    return failed(DIT_DEPLOY_INTEGRITY_ERROR, caught.what(), error);
  } catch (const BundleError& caught) {
    return failed(DIT_DEPLOY_BUNDLE_ERROR, caught.what(), error);
  } catch (const NotFiniteError& caught) {
    return failed(DIT_DEPLOY_NOT_FINITE_ERROR, caught.what(), error);
  } catch (const BackendError& caught) {
    return failed(DIT_DEPLOY_BACKEND_ERROR, caught.what(), error);
  } catch (const Cancelled& caught) {
    return failed(DIT_DEPLOY_CANCELLED, caught.what(), error);
  } catch (const std::bad_alloc&) {
    return failed(DIT_DEPLOY_ERROR, "out of memory", error);
  } catch (const std::exception& caught) {
    return failed(DIT_DEPLOY_ERROR, caught.what(), error);
  } catch (...) {  // a callback in C++ may throw anything
    return failed(DIT_DEPLOY_ERROR, "the callback threw something that is no exception", error);
  }
}

template <typename Object>
Object& checked(Object* pointer, const char* name) {
  if (pointer == nullptr) throw InputError(std::string(name) + ": NULL came");
  return *pointer;
}

std::string text_of(const char* text, const char* name) { return &checked(text, name); }

template <typename Value>
std::vector<Value> values_of(const Value* values, std::size_t count, const char* name) {
  if (count == 0) return {};
  checked(values, name);
  return {values, values + count};
}

[[noreturn]] void no_such_name(std::string_view name, const char* names) {
  throw InputError("name: " + quoted(name) + " came, expected " + names);
}

// Bytes that a shape holds. Throws InputError where it is none, or they are more than memory can be.
std::size_t bytes_of(const std::vector<std::int64_t>& shape, std::size_t element, const std::string& name) {
  std::size_t bytes = element;
  for (const std::int64_t size : shape) {
    if (size < 0 || (size > 0 && bytes > std::numeric_limits<std::size_t>::max() / static_cast<std::uint64_t>(size))) {
      throw InputError(name + ": " + bundle::shape_text(shape) + " came, which is no shape");
    }
    bytes *= static_cast<std::size_t>(size);
  }
  return bytes;
}

DType dtype_of(dit_deploy_dtype dtype, const std::string& name) {
  constexpr DType kDTypes[] = {DType::float32, DType::float16, DType::bfloat16,
                               DType::int64,   DType::int32,   DType::boolean};
  const auto place = static_cast<std::int64_t>(dtype);
  if (place < 0 || place >= static_cast<std::int64_t>(std::size(kDTypes))) {
    throw InputError(name + ": dtype " + std::to_string(place) + " came, expected one of dit_deploy_dtype");
  }
  return kDTypes[place];
}

dit_deploy_status set_tensor(dit_deploy_request* request, std::map<std::string, Tensor> Request::* field,
                             const char* name, dit_deploy_dtype dtype, const int64_t* shape, size_t rank,
                             const void* data, size_t size, char** error) {
  return guarded(error, [&] {
    Request& value = checked(request, "request").value;
    const std::string key = text_of(name, "name");
    const std::string shown = one_line(key);
    Tensor tensor;
    tensor.dtype = dtype_of(dtype, shown);
    tensor.shape = values_of(shape, rank, "shape");
    const std::size_t expected = bytes_of(tensor.shape, bundle::dtype_size(tensor.dtype), shown);
    if (size != expected) {
      throw InputError(shown + ": " + std::to_string(size) + " bytes came, expected " + std::to_string(expected) +
                       " for " + bundle::shape_text(tensor.shape) + " of " + bundle::dtype_name(tensor.dtype));
    }
    tensor.data = values_of(static_cast<const std::byte*>(data), size, "data");
    (value.*field)[key] = std::move(tensor);
  });
}

dit_deploy_status add_picture(dit_deploy_request* request, std::vector<Picture> Request::* field, int64_t height,
                              int64_t width, int64_t channels, const uint8_t* pixels, size_t size, char** error) {
  return guarded(error, [&] {
    Request& value = checked(request, "request").value;
    (value.*field).push_back({height, width, channels, values_of(pixels, size, "pixels")});
  });
}

// An item of a list, which holds `things`.
template <typename Item>
const Item& at(const std::vector<Item>& items, size_t place, const char* name, const char* things) {
  if (place < items.size()) return items[place];
  throw InputError(std::string(name) + ": " + std::to_string(place) + " came; there are " +
                   std::to_string(items.size()) + " " + things);
}

void give(const Picture& picture, const uint8_t** pixels, int64_t* height, int64_t* width, int64_t* channels) {
  checked(pixels, "pixels") = picture.pixels.data();
  checked(height, "height") = picture.height;
  checked(width, "width") = picture.width;
  checked(channels, "channels") = picture.channels;
}

std::vector<std::uint64_t> seeds_of(const std::int64_t* values, std::size_t count) {
  std::vector<std::uint64_t> seeds;
  for (const std::int64_t seed : values_of(values, count, "values")) {
    if (seed < 0) throw InputError("seed: " + std::to_string(seed) + " came, expected 0 or more");
    seeds.push_back(static_cast<std::uint64_t>(seed));
  }
  return seeds;
}

void set_integers(Request& request, const std::string& name, const std::int64_t* values, std::size_t count) {
  if (name == "class_labels") {
    request.class_labels = values_of(values, count, "values");
  } else if (name == "seed") {
    request.seed = seeds_of(values, count);
  } else if (name == "skip_guidance_layers") {
    request.skip_guidance_layers = values_of(values, count, "values");
  } else {
    no_such_name(name, "class_labels, seed or skip_guidance_layers");
  }
}

bool truth(const std::string& name, std::int64_t value) {
  if (value != 0 && value != 1) throw InputError(name + ": " + std::to_string(value) + " came, expected 0 or 1");
  return value == 1;
}

void set_integer(Request& request, const std::string& name, std::int64_t value) {
  if (name == "class_labels" || name == "seed" || name == "skip_guidance_layers") {
    set_integers(request, name, &value, 1);
  } else if (name == "num_inference_steps") {
    request.num_inference_steps = value;
  } else if (name == "num_images_per_prompt") {
    request.num_images_per_prompt = value;
  } else if (name == "guidance_channels") {
    request.guidance_channels = value;
  } else if (name == "guidance_batched") {
    request.guidance_batched = truth(name, value);
  } else if (name == "height") {
    request.height = value;
  } else if (name == "width") {
    request.width = value;
  } else if (name == "num_frames") {
    request.num_frames = value;
  } else if (name == "window_frames") {
    request.window_frames = value;
  } else if (name == "window_overlap") {
    request.window_overlap = value;
  } else if (name == "vae_tile") {
    request.vae_tile = value;
  } else if (name == "vae_tile_of_model") {
    request.vae_tile_of_model = truth(name, value);
  } else {
    no_such_name(name,
                 "class_labels, seed, num_images_per_prompt, num_inference_steps, guidance_channels, guidance_batched, "
                 "skip_guidance_layers, height, width, num_frames, window_frames, window_overlap, vae_tile or "
                 "vae_tile_of_model");
  }
}

void set_number(Request& request, const std::string& name, double value) {
  if (name == "guidance_scale") {
    request.guidance_scale = value;
  } else if (name == "guidance_scale_2") {
    request.guidance_scale_2 = value;
  } else if (name == "true_cfg_scale") {
    request.true_cfg_scale = value;
  } else if (name == "guidance_rescale") {
    request.guidance_rescale = value;
  } else if (name == "skip_layer_guidance_scale") {
    request.skip_layer_guidance_scale = value;
  } else if (name == "skip_layer_guidance_start") {
    request.skip_layer_guidance_start = value;
  } else if (name == "skip_layer_guidance_stop") {
    request.skip_layer_guidance_stop = value;
  } else if (name == "eta") {
    request.eta = value;
  } else if (name == "strength") {
    request.strength = value;
  } else if (name == "frame_rate") {
    request.frame_rate = value;
  } else if (name == "decode_timestep") {
    request.decode_timestep = value;
  } else if (name == "decode_noise_scale") {
    request.decode_noise_scale = value;
  } else {
    no_such_name(name,
                 "guidance_scale, guidance_scale_2, true_cfg_scale, guidance_rescale, skip_layer_guidance_scale, "
                 "skip_layer_guidance_start, skip_layer_guidance_stop, eta, strength, frame_rate, decode_timestep or "
                 "decode_noise_scale");
  }
}

constexpr char kPrompts[] = "prompt, negative_prompt, prompt_2, negative_prompt_2, prompt_3, negative_prompt_3";

// The list of texts of that name; nullptr where there is none.
std::vector<std::string>* texts_of(Request& request, const std::string& name) {
  const std::pair<const char*, std::vector<std::string>*> known[] = {
      {"prompt", &request.prompt},     {"negative_prompt", &request.negative_prompt},
      {"prompt_2", &request.prompt_2}, {"negative_prompt_2", &request.negative_prompt_2},
      {"prompt_3", &request.prompt_3}, {"negative_prompt_3", &request.negative_prompt_3}};
  for (const auto& [own, texts] : known) {
    if (name == own) return texts;
  }
  return nullptr;
}

void set_texts(Request& request, const std::string& name, std::vector<std::string> values) {
  std::vector<std::string>* texts = texts_of(request, name);
  if (texts == nullptr) no_such_name(name, kPrompts);
  *texts = std::move(values);
}

OutputType output_type(const std::string& name) {
  if (name == "picture") return OutputType::picture;
  if (name == "array") return OutputType::array;
  if (name == "latent") return OutputType::latent;
  throw InputError("output_type: " + quoted(name) + " came, expected picture, array or latent");
}

void set_text(Request& request, const std::string& name, std::string value) {
  if (name == "scheduler") {
    request.scheduler = std::move(value);
  } else if (name == "output_type") {
    request.output_type = output_type(value);
  } else if (std::vector<std::string>* texts = texts_of(request, name); texts != nullptr) {
    const bool own = name == "prompt" || name == "negative_prompt";
    *texts = value.empty() && !own ? std::vector<std::string>() : std::vector<std::string>{std::move(value)};
  } else {
    no_such_name(name, (std::string(kPrompts) + ", scheduler or output_type").c_str());
  }
}

}  // namespace

const char* dit_deploy_version(void) { return version(); }

void dit_deploy_string_free(char* string) { std::free(string); }

dit_deploy_options* dit_deploy_options_create(void) { return new (std::nothrow) dit_deploy_options; }

void dit_deploy_options_free(dit_deploy_options* options) { delete options; }

dit_deploy_status dit_deploy_options_set_engine(dit_deploy_options* options, const char* engine, char** error) {
  return guarded(error, [&] { checked(options, "options").value.engine = text_of(engine, "engine"); });
}

dit_deploy_status dit_deploy_options_set_threads(dit_deploy_options* options, int threads, char** error) {
  return guarded(error, [&] { checked(options, "options").value.threads = threads; });
}

dit_deploy_status dit_deploy_options_set_low_memory(dit_deploy_options* options, int low_memory, char** error) {
  return guarded(error, [&] { checked(options, "options").value.low_memory = truth("low_memory", low_memory); });
}

dit_deploy_status dit_deploy_options_set_vae_memory(dit_deploy_options* options, const char* bytes, char** error) {
  return guarded(error, [&] {
    checked(options, "options").value.vae_memory = bytes == nullptr ? std::nullopt : std::optional<std::string>(bytes);
  });
}

dit_deploy_status dit_deploy_options_set_provider_library(dit_deploy_options* options, const char* provider,
                                                          const char* path, char** error) {
  return guarded(error, [&] {
    checked(options, "options").value.provider_libraries[text_of(provider, "provider")] = text_of(path, "path");
  });
}

dit_deploy_status dit_deploy_options_set_provider_option(dit_deploy_options* options, const char* name,
                                                         const char* value, char** error) {
  return guarded(error, [&] {
    checked(options, "options").value.provider_options[text_of(name, "name")] = text_of(value, "value");
  });
}

dit_deploy_status dit_deploy_open(const char* path, const dit_deploy_options* options, dit_deploy_pipeline** pipeline,
                                  char** error) {
  if (pipeline != nullptr) *pipeline = nullptr;
  return guarded(error, [&] {
    auto& out = checked(pipeline, "pipeline");
    const auto folder = std::filesystem::u8path(text_of(path, "path"));
    out = new dit_deploy_pipeline{Pipeline::open(folder, options == nullptr ? Options{} : options->value)};
  });
}

void dit_deploy_close(dit_deploy_pipeline* pipeline) { delete pipeline; }

const char* dit_deploy_engine(const dit_deploy_pipeline* pipeline) {
  return pipeline == nullptr ? nullptr : pipeline->value.engine().c_str();
}

const char* dit_deploy_engine_reason(const dit_deploy_pipeline* pipeline) {
  return pipeline == nullptr ? nullptr : pipeline->value.engine_reason().c_str();
}

int64_t dit_deploy_pixel_multiple(const dit_deploy_pipeline* pipeline) {
  return pipeline == nullptr ? 0 : pipeline->value.pixel_multiple();
}

int64_t dit_deploy_num_frames(const dit_deploy_pipeline* pipeline) {
  return pipeline == nullptr ? 0 : pipeline->value.num_frames();
}

int dit_deploy_takes_prompts(const dit_deploy_pipeline* pipeline) {
  return pipeline != nullptr && pipeline->value.takes_prompts() ? 1 : 0;
}

size_t dit_deploy_label_count(const dit_deploy_pipeline* pipeline) {
  return pipeline == nullptr ? 0 : pipeline->value.labels().size();
}

dit_deploy_status dit_deploy_label(const dit_deploy_pipeline* pipeline, size_t position, int64_t* class_index,
                                   const char** name, char** error) {
  return guarded(error, [&] {
    const auto& labels = checked(pipeline, "pipeline").value.labels();
    if (position >= labels.size()) {
      throw InputError("position: " + std::to_string(position) + " came; " + std::to_string(labels.size()) +
                       " classes have names");
    }
    const auto found = std::next(labels.begin(), static_cast<std::ptrdiff_t>(position));
    checked(class_index, "class_index") = found->first;
    checked(name, "name") = found->second.c_str();
  });
}

dit_deploy_request* dit_deploy_request_create(void) { return new (std::nothrow) dit_deploy_request; }

void dit_deploy_request_free(dit_deploy_request* request) { delete request; }

dit_deploy_status dit_deploy_request_set_integer(dit_deploy_request* request, const char* name, int64_t value,
                                                 char** error) {
  return guarded(error, [&] { set_integer(checked(request, "request").value, text_of(name, "name"), value); });
}

dit_deploy_status dit_deploy_request_set_integers(dit_deploy_request* request, const char* name, const int64_t* values,
                                                  size_t count, char** error) {
  return guarded(error, [&] { set_integers(checked(request, "request").value, text_of(name, "name"), values, count); });
}

dit_deploy_status dit_deploy_request_set_seeds(dit_deploy_request* request, const uint64_t* seeds, size_t count,
                                               char** error) {
  return guarded(error, [&] { checked(request, "request").value.seed = values_of(seeds, count, "seeds"); });
}

dit_deploy_status dit_deploy_request_set_number(dit_deploy_request* request, const char* name, double value,
                                                char** error) {
  return guarded(error, [&] { set_number(checked(request, "request").value, text_of(name, "name"), value); });
}

dit_deploy_status dit_deploy_request_set_guidance_interval(dit_deploy_request* request, double begin, double end,
                                                           char** error) {
  return guarded(error, [&] { checked(request, "request").value.guidance_interval = {begin, end}; });
}

dit_deploy_status dit_deploy_request_set_text(dit_deploy_request* request, const char* name, const char* value,
                                              char** error) {
  return guarded(error,
                 [&] { set_text(checked(request, "request").value, text_of(name, "name"), text_of(value, "value")); });
}

dit_deploy_status dit_deploy_request_set_texts(dit_deploy_request* request, const char* name, const char* const* values,
                                               size_t count, char** error) {
  return guarded(error, [&] {
    std::vector<std::string> texts;
    for (const char* value : values_of(values, count, "values")) texts.push_back(text_of(value, "values"));
    set_texts(checked(request, "request").value, text_of(name, "name"), std::move(texts));
  });
}

dit_deploy_status dit_deploy_request_set_condition(dit_deploy_request* request, const char* name,
                                                   dit_deploy_dtype dtype, const int64_t* shape, size_t rank,
                                                   const void* data, size_t size, char** error) {
  return set_tensor(request, &Request::conditions, name, dtype, shape, rank, data, size, error);
}

dit_deploy_status dit_deploy_request_set_unconditional(dit_deploy_request* request, const char* name,
                                                       dit_deploy_dtype dtype, const int64_t* shape, size_t rank,
                                                       const void* data, size_t size, char** error) {
  return set_tensor(request, &Request::unconditional, name, dtype, shape, rank, data, size, error);
}

dit_deploy_status dit_deploy_request_set_noise(dit_deploy_request* request, const int64_t* shape, size_t rank,
                                               const float* values, size_t count, char** error) {
  return guarded(error, [&] {
    Request& value = checked(request, "request").value;
    Array noise{values_of(shape, rank, "shape"), {}};
    const std::size_t expected = bytes_of(noise.shape, sizeof(float), "noise") / sizeof(float);
    if (count != expected) {
      throw InputError("noise: " + std::to_string(count) + " values came, expected " + std::to_string(expected) +
                       " for " + bundle::shape_text(noise.shape));
    }
    noise.values = values_of(values, count, "values");
    value.noise = std::move(noise);
  });
}

dit_deploy_status dit_deploy_request_add_image(dit_deploy_request* request, int64_t height, int64_t width,
                                               int64_t channels, const uint8_t* pixels, size_t size, char** error) {
  return add_picture(request, &Request::image, height, width, channels, pixels, size, error);
}

dit_deploy_status dit_deploy_request_add_last_image(dit_deploy_request* request, int64_t height, int64_t width,
                                                    int64_t channels, const uint8_t* pixels, size_t size,
                                                    char** error) {
  return add_picture(request, &Request::last_image, height, width, channels, pixels, size, error);
}

dit_deploy_status dit_deploy_request_add_video_frame(dit_deploy_request* request, int64_t height, int64_t width,
                                                     int64_t channels, const uint8_t* pixels, size_t size,
                                                     char** error) {
  return add_picture(request, &Request::video, height, width, channels, pixels, size, error);
}

dit_deploy_status dit_deploy_request_set_callback(dit_deploy_request* request, dit_deploy_callback callback, void* user,
                                                  char** error) {
  return guarded(error, [&] {
    Callback& own = checked(request, "request").value.callback;
    if (callback == nullptr) {
      own = nullptr;
      return;
    }
    own = [callback, user](const Step& step) {
      return callback(step.index, step.count, step.latents, step.shape.data(), step.shape.size(), user) != 0;
    };
  });
}

dit_deploy_status dit_deploy_request_set_progress(dit_deploy_request* request, dit_deploy_progress progress, void* user,
                                                  char** error) {
  return guarded(error, [&] {
    Progress& own = checked(request, "request").value.progress;
    if (progress == nullptr) {
      own = nullptr;
      return;
    }
    own = [progress, user](const char* what, std::int64_t done, std::int64_t total) {
      progress(what, done, total, user);
    };
  });
}

dit_deploy_status dit_deploy_generate(const dit_deploy_pipeline* pipeline, const dit_deploy_request* request,
                                      dit_deploy_result** result, char** error) {
  if (result != nullptr) *result = nullptr;
  return guarded(error, [&] {
    auto& out = checked(result, "result");
    out = new dit_deploy_result{checked(pipeline, "pipeline").value.generate(checked(request, "request").value)};
  });
}

void dit_deploy_result_free(dit_deploy_result* result) { delete result; }

size_t dit_deploy_result_image_count(const dit_deploy_result* result) {
  return result == nullptr ? 0 : result->value.images.size();
}

dit_deploy_status dit_deploy_result_image(const dit_deploy_result* result, size_t index, const uint8_t** pixels,
                                          int64_t* height, int64_t* width, int64_t* channels, char** error) {
  return guarded(error, [&] {
    const auto& images = checked(result, "result").value.images;
    give(at(images, index, "index", "pictures"), pixels, height, width, channels);
  });
}

size_t dit_deploy_result_video_count(const dit_deploy_result* result) {
  return result == nullptr ? 0 : result->value.frames.size();
}

size_t dit_deploy_result_frame_count(const dit_deploy_result* result, size_t index) {
  return result == nullptr || index >= result->value.frames.size() ? 0 : result->value.frames[index].size();
}

dit_deploy_status dit_deploy_result_frame(const dit_deploy_result* result, size_t index, size_t frame,
                                          const uint8_t** pixels, int64_t* height, int64_t* width, int64_t* channels,
                                          char** error) {
  return guarded(error, [&] {
    const auto& video = at(checked(result, "result").value.frames, index, "index", "videos");
    give(at(video, frame, "frame", "frames"), pixels, height, width, channels);
  });
}

double dit_deploy_result_frame_rate(const dit_deploy_result* result) {
  return result == nullptr ? 0 : result->value.frame_rate.value_or(0);
}

dit_deploy_status dit_deploy_result_array(const dit_deploy_result* result, const char* name, const float** values,
                                          const int64_t** shape, size_t* rank, char** error) {
  return guarded(error, [&] {
    const Result& value = checked(result, "result").value;
    const std::string asked = text_of(name, "name");
    if (asked != "latents" && asked != "array") no_such_name(asked, "latents or array");
    const Array& array = asked == "latents" ? value.latents : value.array;
    checked(values, "values") = array.values.data();
    checked(shape, "shape") = array.shape.data();
    checked(rank, "rank") = array.shape.size();
  });
}

dit_deploy_status dit_deploy_result_seeds(const dit_deploy_result* result, const uint64_t** seeds, size_t* count,
                                          char** error) {
  return guarded(error, [&] {
    const auto& drawn = checked(result, "result").value.seed;
    checked(seeds, "seeds") = drawn.data();
    checked(count, "count") = drawn.size();
  });
}

dit_deploy_status dit_deploy_result_seconds(const dit_deploy_result* result, const char* name, double* seconds,
                                            char** error) {
  return guarded(error, [&] {
    const auto& measured = checked(result, "result").value.seconds;
    const std::string asked = text_of(name, "name");
    const auto found = measured.find(asked);
    if (found == measured.end()) {
      std::vector<std::string> names;
      for (const auto& one : measured) names.push_back(one.first);
      no_such_name(asked, ("one of " + join(names)).c_str());
    }
    checked(seconds, "seconds") = found->second;
  });
}

size_t dit_deploy_result_warning_count(const dit_deploy_result* result) {
  return result == nullptr ? 0 : result->value.warnings.size();
}

dit_deploy_status dit_deploy_result_warning(const dit_deploy_result* result, size_t index, const char** warning,
                                            char** error) {
  return guarded(error, [&] {
    const auto& warnings = checked(result, "result").value.warnings;
    if (index >= warnings.size()) {
      throw InputError("index: " + std::to_string(index) + " came; there are " + std::to_string(warnings.size()) +
                       " warnings");
    }
    checked(warning, "warning") = warnings[index].c_str();
  });
}

dit_deploy_status dit_deploy_verify(const char* path, char** report, char** error) {
  if (report != nullptr) *report = nullptr;
  return guarded(error, [&] {
    auto& out = checked(report, "report");
    out = copied(join(verify(std::filesystem::u8path(text_of(path, "path"))), "\n"));
    if (out == nullptr) throw std::bad_alloc();
  });
}
