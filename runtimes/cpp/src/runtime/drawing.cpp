#include "runtime/drawing.h"

#include <chrono>
#include <set>
#include <utility>

#include "bundle/shapes.h"
#include "runtime/arguments.h"
#include "runtime/autoencoder.h"
#include "runtime/choose.h"
#include "runtime/conditions.h"
#include "runtime/finite.h"
#include "runtime/frames.h"
#include "runtime/image_conditions.h"
#include "runtime/images.h"
#include "runtime/plan.h"
#include "runtime/run.h"
#include "runtime/windows.h"
#include "sampling/noise.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point started) { return std::chrono::duration<double>(Clock::now() - started).count(); }

// Classifier-free guidance as the family does it.
sampling::Guidance read_guidance(const bundle::Manifest& manifest, const Request& request) {
  const bundle::Guidance& own = manifest.guidance;
  sampling::Guidance guidance;
  guidance.scale = request.guidance_scale.value_or(own.default_scale);
  if (own.kind != "classifier_free") {
    guidance.check();  // a number that a denoiser can be fed
    guidance.scale = request.true_cfg_scale;
  } else if (request.true_cfg_scale != 1) {
    throw InputError("true_cfg_scale: this bundle's guidance is classifier-free; use guidance_scale");
  }
  guidance.channels = own.channels;
  if (request.guidance_channels) {
    guidance.channels = *request.guidance_channels == 0 ? std::nullopt : request.guidance_channels;
  }
  guidance.interval = request.guidance_interval;
  guidance.rescale = request.guidance_rescale;
  guidance.batched = request.guidance_batched;
  if (own.normalise) guidance.token = manifest.latents.patch_size;
  guidance.variance = own.variance;
  guidance.check();
  guidance.scale += own.scale_offset;
  guidance.check();
  if (request.skip_guidance_layers.empty()) return guidance;
  if (!(guidance.scale > 1)) {
    throw InputError("skip_guidance_layers: this run is not guided; use a guidance_scale above 1");
  }
  guidance.skip = {request.skip_guidance_layers, request.skip_layer_guidance_scale, request.skip_layer_guidance_start,
                   request.skip_layer_guidance_stop};
  guidance.skip->check();
  return guidance;
}

// The same of the second of two denoisers; nothing where there is one.
std::optional<sampling::Guidance> second_guidance(const bundle::Manifest& manifest, const Request& request,
                                                  const sampling::Guidance& first) {
  if (!manifest.experts) {
    if (request.guidance_scale_2)
      throw InputError("guidance_scale_2: this bundle has one denoiser; use guidance_scale");
    return std::nullopt;
  }
  const std::optional<double> wanted =
      request.guidance_scale_2 ? request.guidance_scale_2 : manifest.experts->default_scale;
  if (!wanted || !(first.scale > 1)) return first;
  sampling::Guidance second = first;
  second.scale = *wanted + manifest.guidance.scale_offset;
  second.any_scale = true;
  second.check();
  return second;
}

// A line on a scale that comes without the negative prompt it needs, or on a negative prompt in an unguided run; nothing where
// all has its effect.
std::optional<std::string> without_effect(const bundle::Manifest& manifest, const Request& request,
                                          const sampling::Guidance& guidance, bool negative) {
  const bundle::Guidance& own = manifest.guidance;
  const bool classifier_free = own.kind == "classifier_free";
  const std::string name = classifier_free ? "guidance_scale" : "true_cfg_scale";
  const std::optional<double> scale = classifier_free ? request.guidance_scale : request.true_cfg_scale;
  if (guidance.scale > 1 && !negative && scale) {
    return name + ": " + number_text(*scale) +
           " has no effect without a negative_prompt, which this model is guided away from";
  }
  if (!(guidance.scale > 1) && !request.negative_prompt.empty()) {
    return "negative_prompt: has no effect in a run that is not guided; use a " + name + " above " +
           number_text(1 - own.scale_offset);
  }
  return std::nullopt;
}

// What a run starts from, [batch or 1, channels, (frames,) height, width] in 0 … 1; nothing: noise. In a bundle that makes
// videos of pictures, `image` is no such thing.
std::optional<Pixels> read_start(const bundle::Manifest& manifest, const Request& request, std::int64_t multiple,
                                 std::int64_t batch) {
  const bool pictures = !request.image.empty() && !manifest.image_conditions, video = !request.video.empty();
  if (!pictures && !video) return std::nullopt;
  if (pictures && video) throw InputError("image and video: both came; give the one to start from");
  const std::string name = video ? "video" : "image";
  if (is_video(manifest) != video) {
    throw InputError(name + ": this bundle " + (video ? "draws pictures; give image" : "makes videos; give video"));
  }
  const bundle::Component* encoder = manifest.component("vae_encoder");
  if (encoder == nullptr) throw InputError(name + ": this bundle has no VAE encoder; export with a VAE");
  const auto* channels = std::get_if<std::int64_t>(&encoder->input("images")->axes[1]);
  if (channels == nullptr || (*channels != 1 && *channels != 3)) {
    throw InputError(name + ": this bundle's VAE encoder takes no grey or RGB pictures; give latents as noise");
  }
  if (video) return read_video(request.video, multiple, *channels, request.num_frames, request.height, request.width);
  const auto count = static_cast<std::int64_t>(request.image.size());
  if (count != 1 && count != batch) {
    throw InputError("image: " + std::to_string(count) + " pictures came, 1 or " + std::to_string(batch) +
                     " expected, as there are labels");
  }
  return read_images(request.image, multiple, *channels, request.height, request.width);
}

// The latent frames of a video of so many pictures that a caller brought.
std::int64_t frames_of_video(const bundle::Manifest& manifest, std::int64_t count) {
  try {
    return *latent_frames(manifest, count, "video");
  } catch (const InputError& error) {
    throw InputError(std::string(error.what()) + "; cut it to one of these");
  }
}

// The first sample: scaled noise, or `clean` latents with noise on top.
std::vector<float> first_sample(const sampling::SolverTable& table, const std::vector<float>& clean,
                                std::vector<float> noise) {
  if (clean.empty()) {
    const auto scale = static_cast<float>(table.initial_noise_scale);
    for (float& value : noise) value *= scale;
    return noise;
  }
  const auto signal = static_cast<float>(table.start.first), deviation = static_cast<float>(table.start.second);
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = signal * clean[i] + deviation * noise[i];
  return noise;
}

}  // namespace

Drawing::Drawing(bundle::Bundle bundle, const Options& options, Runners runners)
    : bundle_(std::move(bundle)), low_memory_(options.low_memory) {
  if (options.threads < 0) {
    throw InputError("threads: " + std::to_string(options.threads) + " came, expected 1 or more, or 0 for one a core");
  }
  if (options.vae_memory) vae_memory_ = std::make_unique<VaeMemory>(bundle_, read_bytes(*options.vae_memory));
  Choice choice = choose_engine(bundle_, options.engine, options.provider_libraries);
  engine_ = std::move(choice.name);
  engine_reason_ = std::move(choice.reason);
  components_ = std::make_unique<Components>(bundle_, std::move(choice.engine), options, std::move(runners));
  if (bundle_.manifest().prompts) prompts_ = std::make_unique<PromptReader>(bundle_, *components_);
  if (!low_memory_) components_->pool("denoiser");  // at once, so that errors come early
}

std::int64_t Drawing::pixel_multiple() const {
  const bundle::Latents& latents = bundle_.manifest().latents;
  return latents.patch_size * latents.spatial_compression;
}

void Drawing::done(const std::vector<std::string>& components) {
  if (!low_memory_) return;
  for (const std::string& name : components) components_->release(name);
}

Result Drawing::generate(const Request& request) {
  const auto started = Clock::now();
  const bundle::Manifest& manifest = bundle_.manifest();
  if (request.output_type != OutputType::latent && !components_->has("vae_decoder")) {
    throw InputError("this bundle has no VAE decoder; ask for output_type latent, or export with a VAE");
  }
  check_size("height", request.height, pixel_multiple());
  check_size("width", request.width, pixel_multiple());
  check_limits(manifest, request.height, request.width);
  std::optional<std::int64_t> frames = latent_frames(manifest, request.num_frames);
  Pieces pieces = pieces_of(manifest, request);
  sampling::Guidance guidance = read_guidance(manifest, request);
  const auto second = second_guidance(manifest, request, guidance);
  Course course;
  course.second_guidance = second.value_or(guidance);
  course.alone = low_memory_;
  const std::optional<Texts> texts = read_texts(manifest, request);
  std::optional<ImageConditioner> conditioner;
  if (manifest.image_conditions) conditioner.emplace(manifest, *components_);
  Result result;
  result.frame_rate = read_frame_rate(manifest, request.frame_rate);
  const double scale = request.guidance_scale.value_or(manifest.guidance.default_scale);
  const EncodePrompts prompts{[&](const auto& one, bool negative, const OtherTexts& others) {
                                return prompts_->read(one, negative, others, result.warnings);
                              },
                              [&](const auto& one) { return prompts_->lengths(one); }};
  Conditions conditions = read_conditions(manifest, request, guidance, scale, result.frame_rate, texts, prompts,
                                          conditioner ? conditioner->names() : std::set<std::string>{});
  if (texts) {
    const bool negative = texts->negatives || !request.unconditional.empty();
    if (auto line = without_effect(manifest, request, guidance, negative)) result.warnings.push_back(std::move(*line));
  }
  if (texts && !texts->negatives && request.unconditional.empty()) {
    // Such a family guides towards a negative prompt only.
    guidance.scale = course.second_guidance.scale = 1;
    course.second_guidance.any_scale = false;
  }
  if (texts) {
    for (const bundle::PromptEncoder& encoder : manifest.prompts->encoders) done({encoder.component});
    if (manifest.prompts->join) done({*manifest.prompts->join});
  }

  std::optional<std::int64_t> height = request.height, width = request.width;
  const std::optional<Pixels> pixels = read_start(manifest, request, pixel_multiple(), conditions.batch);
  if (pixels) {
    height = pixels->shape[pixels->shape.size() - 2];
    width = pixels->shape.back();
    check_limits(manifest, height, width);
    if (!request.video.empty()) frames = frames_of_video(manifest, pixels->shape[2]);
  }
  const Shape shape = latents_shape(manifest.latents, conditions.batch, height, width, frames);
  const bool sized = request.vae_tile || request.vae_tile_of_model;  // by the caller
  if (vae_memory_ && !sized && (request.output_type != OutputType::latent || pixels)) {
    const std::int64_t encoded = pixels ? pixels->shape[0] : 0;
    pieces = vae_memory_->pieces_within(Shape(shape.begin() + 2, shape.end()), pieces, encoded);
  }
  const std::int64_t rows = shape[shape.size() - 2] * manifest.latents.spatial_compression;
  const std::int64_t columns = shape.back() * manifest.latents.spatial_compression;
  const auto pictures =
      read_pictures(manifest, request, conditions.batch, rows, columns, pixel_multiple(), result.warnings);
  course.windows = read_windows(manifest, frames, request);
  const bundle::Component& component = bundle_.component("denoiser");
  Shape seen = shape;
  if (!course.windows.empty()) seen[2] = course.windows.front().size();
  std::int64_t tokens = 1;
  for (const auto& one : patch_grid(component, seen)) tokens *= one.second;
  const Plan plan = plan_steps(bundle_, request, pixels.has_value(), tokens);
  const sampling::SolverTable& table = plan.table;
  course.num_train_timesteps = plan.num_train_timesteps;
  if (request.noise) check_noise(*request.noise, shape);
  if (request.output_type != OutputType::latent) check_decoder_numbers(bundle_.component("vae_decoder"), request);

  for (const auto& named : manifest.components) result.seconds[named.first] = 0.0;
  result.seed = read_seeds(request.seed, conditions.batch);
  sampling::NoiseSource source(result.seed);
  const auto size = static_cast<std::size_t>(bundle::elements(shape));
  const Compression compression = Compression::of(manifest.latents);

  std::vector<float> clean;
  if (pixels) {
    clean = encode(*components_->pool("vae_encoder"), *pixels, shape, source, pieces, compression,
                   result.seconds["vae_encoder"]);
    done({"vae_encoder"});
  }
  if (conditioner) {
    join_conditions(conditions, component,
                    conditioner->make(pictures, conditions.batch, pixel_frames(manifest, shape.at(2)), rows, columns,
                                      source, result.seconds[conditioner->components().front()]));
    done(conditioner->components());
  }
  for (Sizes* sizes : {&conditions.sizes, &conditions.unguided_sizes}) {
    if (sizes->empty()) continue;
    std::map<std::string, std::string> owner;
    for (const auto& one : *sizes) owner.emplace(one.first, "another condition");
    bundle::bind_axes(*component.input("latents"), DType::float32, shape, *sizes, owner);
  }
  LatentsNoise latents_noise(source, shape, manifest.latents);
  std::vector<float> noise(size);
  if (request.noise) {
    noise = request.noise->values;
  } else {
    latents_noise.draw(noise.data());
  }
  const std::vector<float> start = first_sample(table, clean, noise);

  const Run run{manifest, table, plan.timestep_scale, conditions.tensors,
                guidance, shape, conditions.sizes,    conditions.unguided_sizes};
  result.latents.shape = shape;
  {
    const auto steps = open_steps(*components_, run, course, start.data());
    for (std::size_t row = 0; row < table.rows.size(); ++row) {
      steps->predict(row);
      for (std::int64_t draw = 0; draw < table.rows[row].noise_draws; ++draw) latents_noise.draw(noise.data());
      steps->advance(row, noise.data());
      const std::int64_t step = table.rows[row].step;
      if (row + 1 < table.rows.size() && table.rows[row + 1].step == step) continue;
      steps->check(step);
      if (request.progress) request.progress("denoising", step + 1, table.num_steps);
      if (request.callback && !request.callback({step, table.num_steps, result.latents.shape, steps->latents()})) {
        throw Cancelled("the callback cancelled " + after_step(step, table.num_steps));
      }
    }
    const float* latents = steps->latents();
    result.latents.values.assign(latents, latents + size);
    result.seconds["denoiser"] = steps->seconds();
  }
  done({"denoiser"});
  if (manifest.experts) done({manifest.experts->component});
  if (conditioner) conditioner->keep(result.latents.values, shape, conditions.tensors);
  if (request.output_type != OutputType::latent) decode_to(result, request, source, pieces);
  result.seconds["total"] = since(started);
  return result;
}

void Drawing::decode_to(Result& result, const Request& request, sampling::NoiseSource& source, const Pieces& pieces) {
  const bundle::Manifest& manifest = bundle_.manifest();
  const Shape& shape = result.latents.shape;
  const bool as_pictures = request.output_type == OutputType::picture;
  const std::int64_t frames = is_video(manifest) ? pixel_frames(manifest, shape[2]) : 1;
  std::int64_t made = 0;
  Array& array = result.array;
  const auto take = [&](const float* planes, std::int64_t channels, std::int64_t rows, std::int64_t columns) {
    if (as_pictures) {
      const bool first = made++ % frames == 0;
      if (is_video(manifest) && first) result.frames.emplace_back();
      (is_video(manifest) ? result.frames.back() : result.images)
          .push_back(to_picture(planes, channels, rows, columns));
      return;
    }
    const std::int64_t area = rows * columns;
    for (std::int64_t i = 0; i < area; ++i) {
      for (std::int64_t c = 0; c < channels; ++c) array.values.push_back(planes[c * area + i]);
    }
    array.shape = {shape[0], rows, columns, channels};
    if (is_video(manifest)) array.shape.insert(array.shape.begin() + 1, frames);
  };
  const auto decoder = components_->pool("vae_decoder");
  const DecoderInputs inputs = decoder_inputs(bundle_.component("vae_decoder"), shape, source, request);
  Advance advance;
  if (request.progress)
    advance = [&](std::int64_t done, std::int64_t total) { request.progress("decoding", done, total); };
  decode(*decoder, result.latents.values.data(), shape, Compression::of(manifest.latents), pieces, inputs,
         result.seconds["vae_decoder"], advance, take);
  done({"vae_decoder"});
}

}  // namespace dit_deploy::runtime
