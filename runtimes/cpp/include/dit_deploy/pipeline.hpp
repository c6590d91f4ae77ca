// Draws pictures or videos from a dit-deploy bundle: VAE encode → sampling loop → VAE decode, without Python.
//
//   #include <dit_deploy/pipeline.hpp>
//
//   auto pipeline = dit_deploy::Pipeline::open("my-model");
//   dit_deploy::Request request;
//   request.class_labels = {207, 360};
//   request.seed = {0};
//   dit_deploy::Result result = pipeline.generate(request);
//   // result.images[0].pixels: height × width × 3 bytes
//
// The same seed draws the same picture as the Python runtime and as diffusers. Names are those of the Python package.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dit_deploy/errors.hpp"
#include "dit_deploy/export.hpp"

namespace dit_deploy {

enum class DType { float32, float16, bfloat16, int64, int32, boolean };

// Numbers in row-major order: float32 unless said otherwise.
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

// A tensor of any type that a bundle may declare; `data` holds the elements, row-major, as the machine stores them.
struct DIT_DEPLOY_API Tensor {
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;

  static Tensor of(std::vector<std::int64_t> shape, const std::vector<float>& values);
  static Tensor of(std::vector<std::int64_t> shape, const std::vector<std::int64_t>& values);
  static Tensor of(std::vector<std::int64_t> shape, const std::vector<std::int32_t>& values);
};

// A picture in 8 bits, row by row from the top, channels interleaved.
struct Picture {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 3;
  std::vector<std::uint8_t> pixels;
};

// What the callback is told after each step.
struct Step {
  std::int64_t index = 0;  // 0 … count - 1
  std::int64_t count = 0;
  const std::vector<std::int64_t>& shape;  // of the latents
  const float* latents;                    // valid during the call
};

// Called after each step; returning false stops the run, which then throws Cancelled.
using Callback = std::function<bool(const Step&)>;

// Called after each step, and after each piece of latents that went through the VAE decoder: what is being done
// ("denoising", "decoding"), how many steps or pieces of it are done, and of how many. What it throws ends the run.
using Progress = std::function<void(const char* what, std::int64_t done, std::int64_t total)>;

enum class OutputType {
  picture,  // Result::images, or Result::frames of a bundle of videos
  array,    // Result::array
  latent,   // neither: latents only, the VAE decoder is not needed
};

// One request draws one picture or video a sample. An empty optional or vector means the default.
struct Request {
  // Class indices; the null class draws without a class.
  std::vector<std::int64_t> class_labels;
  // For bundles with text encoders, UTF-8; what the unguided half is given is one text for all, or one a prompt.
  std::vector<std::string> prompt;
  std::vector<std::string> negative_prompt;
  // What the second and third text encoder read instead, where the bundle has them (Stable Diffusion 3, FLUX): one for all
  // prompts, or one a prompt.
  std::vector<std::string> prompt_2, negative_prompt_2;
  std::vector<std::string> prompt_3, negative_prompt_3;
  // Pictures of the same prompt stand beside each other.
  std::int64_t num_images_per_prompt = 1;
  // Other inputs of the denoiser by name, [batch, …], held against the manifest; for the unguided half, too, where it is
  // not a constant of the manifest.
  std::map<std::string, Tensor> conditions;
  std::map<std::string, Tensor> unconditional;

  // Denoising steps, at least 1; the manifest's usual number by default.
  std::optional<std::int64_t> num_inference_steps;
  // A diffusers scheduler's name or short name, or its config as JSON; the bundle's own by default.
  std::string scheduler;
  // DDIM's stochasticity, 0 … 1.
  double eta = 0.0;

  // The family's main knob; the manifest's by default. Classifier-free guidance (Ho & Salimans 2022), on above 1; what
  // the denoiser is fed where the guidance is embedded in it.
  std::optional<double> guidance_scale;
  // Of the second of two denoisers (Wan 2.2); that of the first by default.
  std::optional<double> guidance_scale_2;
  // Classifier-free guidance of a denoiser that has its guidance embedded, or none (FLUX.1 schnell, where guidance_scale
  // has no effect); on above 1.
  double true_cfg_scale = 1.0;
  // How many leading latent channels are guided, 0 for all; the model's own by default.
  std::optional<std::int64_t> guidance_channels;
  // Guide only in this part of the steps, as fractions (Kynkäänniemi et al. 2024).
  std::pair<double, double> guidance_interval{0.0, 1.0};
  // 0 … 1, pull the guided prediction back to its former deviation (Lin et al. 2023).
  double guidance_rescale = 0.0;
  // Both halves in one call of the denoiser, or in two with half the memory.
  bool guidance_batched = true;
  // Blocks of the denoiser that a third call leaves out in some steps, to guide away from it (SD 3.5 Medium: 7, 8, 9),
  // where the run is guided; how strongly; between which fractions of the steps, both ends left out.
  std::vector<std::int64_t> skip_guidance_layers;
  double skip_layer_guidance_scale = 2.8;
  double skip_layer_guidance_start = 0.01;
  double skip_layer_guidance_stop = 0.2;

  // One for all (picture i goes on with the generator's stream) or one a picture; random by default.
  std::vector<std::uint64_t> seed;
  // float32 of the latents' shape, instead of the seed's first draw.
  std::optional<Array> noise;

  // Pixels, multiples of Pipeline::pixel_multiple(); the training size by default.
  std::optional<std::int64_t> height;
  std::optional<std::int64_t> width;
  // Of videos: how many pictures, and how many a second, which some models are fed (LTX-Video); the usual numbers by
  // default. One picture alone is drawn where the model can.
  std::optional<std::int64_t> num_frames;
  std::optional<double> frame_rate;

  // One picture, or one a sample, to start from; resized by Lanczos where the size is another. Of a bundle that makes
  // videos of pictures: what the video begins with, and ends with, where the model takes such a one.
  std::vector<Picture> image;
  std::vector<Picture> last_image;
  // The pictures of a video to start from.
  std::vector<Picture> video;
  // 0 … 1, how much of `image` or `video` is redrawn; 0.8 by default.
  std::optional<double> strength;
  // Pictures that the denoiser sees at a time of a longer video, and how many of them neighbouring windows share, about a
  // quarter by default; their predictions are averaged at each step.
  std::optional<std::int64_t> window_frames;
  std::optional<std::int64_t> window_overlap;
  // Pixels on a side of the pieces in which larger pictures go through the VAE, blended where they overlap; its memory
  // is then that of one piece. A multiple of four latent pixels; in one piece by default.
  std::optional<std::int64_t> vae_tile;
  // Instead: in the pieces that diffusers has for this model, which may be cut in time too.
  bool vae_tile_of_model = false;
  // 0 … 1, for a VAE decoder that removes noise itself (LTX-Video 0.9.1); 0 by default, and the timestep.
  std::optional<double> decode_timestep;
  std::optional<double> decode_noise_scale;

  OutputType output_type = OutputType::picture;
  Callback callback;
  Progress progress;
};

struct Result {
  std::vector<Picture> images;  // for OutputType::picture
  // For OutputType::picture, of a bundle of videos: the pictures of each; and what they are to be played at.
  std::vector<std::vector<Picture>> frames;
  std::optional<double> frame_rate;
  Array array;                      // for OutputType::array: [batch, (frames,) height, width, channels] in 0 … 1
  Array latents;                    // [batch, channels, (frames,) height, width], before decoding
  std::vector<std::uint64_t> seed;  // what was asked for, or the random seed that was drawn
  // Wall time of "vae_encoder", "denoiser", "vae_decoder" and "total".
  std::map<std::string, double> seconds;
  // What a person would want to know of this request, a line each: what of a prompt was left out, as it is too long.
  std::vector<std::string> warnings;
};

struct Options {
  // "onnx" for the plain graphs, an engine's name, or "auto" for the best that this machine runs.
  std::string engine = "auto";
  // Threads within an operator; 0 is one a core.
  int threads = 0;
  // Loads a component when it is used and forgets it after, so that one of them is in memory at a time.
  bool low_memory = false;
  // Bytes that the VAE may take beside its weights, such as "2G" or "512M"; no limit by default. Larger pictures go through it
  // in pieces, the largest with which it keeps to that by an estimate for plain graphs on a CPU; a request's vae_tile has the
  // last word.
  std::optional<std::string> vae_memory;
  // Libraries of ONNX Runtime's plugin execution providers: provider's name → path of its library.
  std::map<std::string, std::string> provider_libraries;
  // For all providers of the chosen engine: option → value, as ONNX Runtime takes them.
  std::map<std::string, std::string> provider_options;
};

// An opened bundle with its denoiser loaded. May be used from several threads at once.
class DIT_DEPLOY_API Pipeline {
 public:
  // Opens a bundle: checks the manifest, paths and sizes of all files, and the SHA-256 of those that are loaded.
  // Throws BundleError (IntegrityError for files that were altered), InputError for an engine that is not there or does
  // not fit this machine, BackendError where a backend is missing or refuses a graph.
  static Pipeline open(const std::filesystem::path& path, const Options& options = {});

  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline();

  // Throws InputError for an argument out of range or of the wrong shape, Cancelled where the callback returned false,
  // BundleError for a VAE whose files were altered, BackendError (NotFiniteError) where the backend failed.
  Result generate(const Request& request) const;

  // The name of what runs ("onnx" for the plain graphs), and in one line why.
  const std::string& engine() const;
  const std::string& engine_reason() const;

  // Heights and widths are multiples of this many pixels.
  std::int64_t pixel_multiple() const;
  // Whether it makes videos; how many pictures one has where none are asked for, 0 for a bundle of pictures.
  bool makes_videos() const;
  std::int64_t num_frames() const;
  // Whether it draws from prompts.
  bool takes_prompts() const;
  // Class index → its name, where the source has names.
  const std::map<std::int64_t, std::string>& labels() const;
  // What a person would want to know and no run fails for, a line each: that there is no CUDA graph, and why.
  std::vector<std::string> warnings() const;

 private:
  struct Impl;
  explicit Pipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Hashes every recorded file of a bundle and its engines and returns what is wrong, one line each; empty: all is well.
DIT_DEPLOY_API std::vector<std::string> verify(const std::filesystem::path& path);

// Of this library: "0.1.0".
DIT_DEPLOY_API const char* version();

}  // namespace dit_deploy
