// Manifest version 1, as read from manifest.json; dit_deploy/bundle/manifest.py is its declaration.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "dit_deploy/pipeline.hpp"

namespace dit_deploy::bundle {

// Free size → value: {"batch", 2}, {"patch_height", 16}, …
using Sizes = std::map<std::string, std::int64_t>;
using Shape = std::vector<std::int64_t>;

// A dynamic axis: `multiple` × the free size `name` + `offset`; the free size lies in `minimum` … `maximum`.
struct Axis {
  std::string name;
  std::int64_t multiple = 1;
  std::int64_t minimum = 1;
  std::optional<std::int64_t> maximum;
  std::int64_t offset = 0;

  // The axis's size for a free size; where that cannot be written, the nearest number that can.
  std::int64_t size(std::int64_t free) const;
  // The free size that gives `size`, within the bounds; nothing where there is none.
  std::optional<std::int64_t> free(std::int64_t size) const;

  bool operator==(const Axis& other) const;
  bool operator!=(const Axis& other) const { return !(*this == other); }
};

// A fixed size, or a dynamic axis.
using AxisSpec = std::variant<std::int64_t, Axis>;

// A JSON number that keeps whether it was an integer: guidance.unconditional holds both.
using Number = std::variant<std::int64_t, double>;

struct TensorSpec {
  std::string name;
  DType dtype = DType::float32;
  std::vector<AxisSpec> axes;
  std::optional<std::string> unit;
  std::optional<double> minimum;
  std::optional<double> maximum;
  std::string description;

  bool operator==(const TensorSpec& other) const;
};

struct Component {
  std::string path;
  DType weights = DType::float32;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  // nullptr where there is none of that name.
  const TensorSpec* input(std::string_view name) const;
  const TensorSpec* output(std::string_view name) const;
};

struct Latents {
  std::int64_t channels = 0, height = 0, width = 0, patch_size = 0, spatial_compression = 0;
  std::int64_t temporal_compression = 1;
  double scaling_factor = 1.0, shift_factor = 0.0;
  std::optional<std::int64_t> frames;  // latent frames at the usual size; nothing: the bundle draws pictures
  std::int64_t temporal_patch_size = 1;
  std::optional<double> frame_rate;            // pictures a second of playback
  std::string noise_axes = "channels_frames";  // the order in which noise is drawn; or frames_channels
};

struct Prediction {
  std::string type;                              // epsilon, v_prediction, sample, flow_prediction
  std::string timestep_unit = "training_index";  // or sigma
  bool learned_range_variance = false;
};

struct Guidance {
  std::string kind = "none";  // or classifier_free, embedded
  std::map<std::string, Number> unconditional;
  std::optional<std::int64_t> channels;
  double default_scale = 1.0;
  double scale_offset = 0.0;
  std::optional<std::string> input;        // the condition that embedded guidance feeds
  std::optional<std::string> normalise;    // "token"
  std::optional<std::string> skip_layers;  // the condition that leaves out blocks, int64 [batch, blocks]
  bool variance = false;                   // a learned variance is guided like the prediction
};

struct Scheduler {
  std::string path = "scheduler/scheduler_config.json";
  std::int64_t num_inference_steps = 50;
  std::string sigmas = "scheduler";       // or linspace, linspace_to_zero
  std::string strength = "rounded_down";  // or rounded_up
};

// How a prompt becomes the token ids of one text encoder.
struct PromptEncoder {
  std::string component, tokenizer;
  std::optional<std::string> negative_tokenizer;
  std::vector<std::string> cleaning;  // html_unescape, lowercase, strip, collapse_whitespace
  std::string prompt_template = "{}", negative_template = "{}";
};

struct Prompts {
  std::vector<PromptEncoder> encoders;
  std::optional<std::string> join;           // the component that makes conditions of what the encoders give
  std::optional<std::string> negative = "";  // where none is given; nothing: such a run is not guided
  std::string padding = "kept";              // or dropped
};

// A vision encoder that makes a condition of the given pictures, `size` pixels on a side.
struct ImageEncoder {
  std::string component;
  std::int64_t size = 0;
};

// How pictures that a video shall contain become conditions of the denoiser.
struct ImageConditions {
  std::string component;
  bool required = false, last_image = false;
  std::optional<std::string> kept, mask;  // outputs: what the latents are in the end where the mask is 1
  std::optional<ImageEncoder> encoder;
};

// A second denoiser for timesteps below `boundary` · num_train_timesteps.
struct Experts {
  std::string component;
  double boundary = 0;
  std::optional<double> default_scale;
};

// The pieces in which diffusers sends this model's latents through the VAE; lengths are in latents.
struct Tiling {
  std::int64_t tile_height = 0, tile_width = 0, stride_height = 0, stride_width = 0;
  std::optional<std::int64_t> tile_frames, stride_frames;
  bool always_in_time = false;
};

struct SourceRecord {
  std::string kind, name, sha256;
};

struct FileRecord {
  std::int64_t size = 0;
  std::string sha256;
};

struct Manifest {
  std::string created_by, family;
  SourceRecord source;
  Latents latents;
  std::vector<std::pair<std::string, Component>> components;  // in the file's order
  Prediction prediction;
  Guidance guidance;
  Scheduler scheduler;
  std::optional<Prompts> prompts;
  std::optional<ImageConditions> image_conditions;
  std::optional<Experts> experts;
  std::optional<Tiling> tiling;
  std::map<std::int64_t, std::string> labels;
  std::map<std::string, FileRecord> files;

  // nullptr where there is none of that name.
  const Component* component(std::string_view name) const;
};

// Returns the manifest that the bytes of manifest.json hold, with every check that Python makes. `name` is the file, for
// messages. Throws BundleError.
Manifest parse_manifest(std::string_view data, const std::string& name);

}  // namespace dit_deploy::bundle
