#include "runtime/drawing.h"

#include <chrono>
#include <utility>

#include "bundle/shapes.h"
#include "runtime/arguments.h"
#include "runtime/autoencoder.h"
#include "runtime/choose.h"
#include "runtime/conditions.h"
#include "runtime/finite.h"
#include "runtime/images.h"
#include "runtime/plan.h"
#include "runtime/steps.h"
#include "sampling/noise.h"

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

// The pictures to start from, [batch or 1, channels, height, width] in 0 … 1.
Pixels read_start(const bundle::Manifest& manifest, const Request& request, std::int64_t multiple, std::int64_t batch) {
  const bundle::Component* encoder = manifest.component("vae_encoder");
  if (encoder == nullptr) throw InputError("image: this bundle has no VAE encoder; export with a VAE");
  const auto& axes = encoder->input("images")->axes;
  const auto* channels = std::get_if<std::int64_t>(&axes[1]);
  if (axes.size() != 4 || channels == nullptr || (*channels != 1 && *channels != 3)) {
    throw InputError("image: this bundle's VAE encoder takes no single grey or RGB pictures; give latents as noise");
  }
  const auto count = static_cast<std::int64_t>(request.image.size());
  if (count != 1 && count != batch) {
    throw InputError("image: " + std::to_string(count) + " pictures came, 1 or " + std::to_string(batch) +
                     " expected, as there are labels");
  }
  return read_images(request.image, multiple, *channels, request.height, request.width);
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

Drawing::Drawing(bundle::Bundle bundle, const Options& options, Runners runners) : bundle_(std::move(bundle)) {
  if (options.threads < 0) {
    throw InputError("threads: " + std::to_string(options.threads) + " came, expected 1 or more, or 0 for one a core");
  }
  Choice choice = choose_engine(bundle_, options.engine, options.provider_libraries);
  engine_ = std::move(choice.name);
  engine_reason_ = std::move(choice.reason);
  components_ = std::make_unique<Components>(bundle_, std::move(choice.engine), options, std::move(runners));
  if (bundle_.manifest().prompts) prompts_ = std::make_unique<PromptReader>(bundle_, *components_);
  components_->pool("denoiser");  // at once, so that errors come early
}

std::int64_t Drawing::pixel_multiple() const {
  const bundle::Latents& latents = bundle_.manifest().latents;
  return latents.patch_size * latents.spatial_compression;
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
  const std::optional<std::int64_t> tile = tile_of(request.vae_tile, manifest.latents.spatial_compression);
  sampling::Guidance guidance = read_guidance(manifest, request);
  const std::optional<Texts> texts = read_texts(manifest, request);
  Result result;
  const double scale = request.guidance_scale.value_or(manifest.guidance.default_scale);
  Conditions conditions =
      read_conditions(manifest, request, guidance, scale, texts,
                      [&](const auto& one, bool negative) { return prompts_->read(one, negative, result.warnings); });
  // Such a family guides towards a negative prompt only.
  if (texts && !texts->negatives && request.unconditional.empty()) guidance.scale = 1;

  Pixels pixels;
  std::optional<std::int64_t> height = request.height, width = request.width;
  if (!request.image.empty()) {
    pixels = read_start(manifest, request, pixel_multiple(), conditions.batch);
    height = pixels.shape[2];
    width = pixels.shape[3];
    check_limits(manifest, height, width);
  }
  const Shape shape = latents_shape(manifest, conditions.batch, height, width, request.num_frames);
  for (Sizes* sizes : {&conditions.sizes, &conditions.unguided_sizes}) {
    if (sizes->empty()) continue;
    std::map<std::string, std::string> owner;
    bundle::bind_axes(*bundle_.component("denoiser").input("latents"), DType::float32, shape, *sizes, owner);
  }
  const std::int64_t patch = manifest.latents.patch_size;
  const std::int64_t tokens = shape[shape.size() - 2] * shape[shape.size() - 1] / (patch * patch);
  const Plan plan = plan_steps(bundle_, request, tokens);
  const sampling::SolverTable& table = plan.table;
  if (request.noise) check_noise(*request.noise, shape);

  for (const auto& named : manifest.components) result.seconds[named.first] = 0.0;
  result.seed = read_seeds(request.seed, conditions.batch);
  sampling::NoiseSource source(result.seed);
  const auto batch = static_cast<std::size_t>(shape[0]);
  const auto size = static_cast<std::size_t>(bundle::elements(shape)), each = size / batch;

  std::vector<float> clean;
  if (!pixels.values.empty()) {
    clean = encode(components_->pool("vae_encoder"), pixels, shape, source, tile, result.seconds["vae_encoder"]);
  }
  std::vector<float> noise(size);
  if (request.noise) {
    noise = request.noise->values;
  } else {
    source.draw(noise.data(), batch, each);
  }
  const std::vector<float> start = first_sample(table, clean, noise);

  BindingPool& denoiser = components_->pool("denoiser");
  BindingPool* solver = denoiser.runner().device() == nullptr ? nullptr : components_->solver();
  const Run run{manifest, table, plan.timestep_scale, conditions.tensors,
                guidance, shape, conditions.sizes,    conditions.unguided_sizes};
  result.latents.shape = shape;
  {
    const auto steps = open_steps(denoiser, solver, run, start.data());
    for (std::size_t row = 0; row < table.rows.size(); ++row) {
      steps->predict(row);
      for (std::int64_t draw = 0; draw < table.rows[row].noise_draws; ++draw) source.draw(noise.data(), batch, each);
      steps->advance(row, noise.data());
      const std::int64_t step = table.rows[row].step;
      if (row + 1 < table.rows.size() && table.rows[row + 1].step == step) continue;
      steps->check(step);
      if (request.callback && !request.callback({step, table.num_steps, result.latents.shape, steps->latents()})) {
        throw Cancelled("the callback cancelled " + after_step(step, table.num_steps));
      }
    }
    const float* latents = steps->latents();
    result.latents.values.assign(latents, latents + size);
    result.seconds["denoiser"] = steps->seconds();
  }

  if (request.output_type != OutputType::latent) {
    const bool pictures = request.output_type == OutputType::picture;
    std::int64_t made = 0;
    decode(components_->pool("vae_decoder"), result.latents.values.data(), shape, manifest.latents.spatial_compression,
           tile, result.seconds["vae_decoder"],
           [&](const float* planes, std::int64_t channels, std::int64_t rows, std::int64_t columns) {
             if (pictures) {
               result.images.push_back(to_picture(planes, channels, rows, columns));
               return;
             }
             const std::int64_t area = rows * columns;
             for (std::int64_t i = 0; i < area; ++i) {
               for (std::int64_t c = 0; c < channels; ++c) result.array.values.push_back(planes[c * area + i]);
             }
             result.array.shape = {++made, rows, columns, channels};
           });
  }
  result.seconds["total"] = since(started);
  return result;
}

}  // namespace dit_deploy::runtime
