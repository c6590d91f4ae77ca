#include "runtime/frames.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::runtime {
namespace {

// How far the next numbers of frames that a bundle takes are looked for; beyond it a message names none.
constexpr std::int64_t kFar = 256;
// More is a mistake, whose bytes would not fit into 64 bits at last.
constexpr std::int64_t kMostFrames = 1 << 20;

// The axes of frames of the pictures and of the latents, which share their free size.
std::pair<bundle::Axis, bundle::Axis> frames_axes(const bundle::Manifest& manifest) {
  const bundle::Component* decoder = manifest.component("vae_decoder");
  if (decoder != nullptr && decoder->input("latents")->axes.size() == 5) {
    return {std::get<bundle::Axis>(decoder->output("images")->axes[2]),  // the manifest was held against this
            std::get<bundle::Axis>(decoder->input("latents")->axes[2])};
  }
  const std::int64_t compression = decoder != nullptr ? 1 : manifest.latents.temporal_compression;
  bundle::Axis pictures{"latent_frames", compression, 1, {}}, latents{"latent_frames", 1, 1, {}};
  pictures.offset = 1 - compression;
  return {pictures, latents};
}

std::optional<std::int64_t> latents_of(const bundle::Manifest& manifest, std::int64_t num_frames) {
  const auto [pictures, latents] = frames_axes(manifest);
  const auto free = pictures.free(num_frames);
  if (!free) return std::nullopt;
  const std::int64_t frames = latents.size(*free);
  const auto* axis = std::get_if<bundle::Axis>(&manifest.component("denoiser")->input("latents")->axes[2]);
  if (!latents.free(frames) || axis == nullptr || !axis->free(frames)) return std::nullopt;
  return frames;
}

// " (expected 1 more than a multiple of 4)"
std::string rule(const bundle::Manifest& manifest) {
  const bundle::Axis pictures = frames_axes(manifest).first;
  if (pictures.multiple == 1) return "";
  const std::int64_t more = (pictures.offset % pictures.multiple + pictures.multiple) % pictures.multiple;
  return " (expected " + std::to_string(more) + " more than a multiple of " + std::to_string(pictures.multiple) + ")";
}

// "; the nearest are 5 and 9"
std::string nearest(const bundle::Manifest& manifest, std::int64_t num_frames) {
  std::vector<std::int64_t> near;
  for (std::int64_t distance = 1; distance < kFar && near.size() < 2; ++distance) {
    for (const std::int64_t sign : {-1, 1}) {
      std::int64_t number = 0;
      if (__builtin_add_overflow(num_frames, sign * distance, &number) || number <= 0) continue;
      if (near.size() < 2 && latents_of(manifest, number)) near.push_back(number);
    }
  }
  std::sort(near.begin(), near.end());
  std::string text;
  for (const std::int64_t number : near)
    text += (text.empty() ? "; the nearest are " : " and ") + std::to_string(number);
  return text;
}

}  // namespace

bool is_video(const bundle::Manifest& manifest) { return manifest.latents.frames.has_value(); }

std::int64_t pixel_frames(const bundle::Manifest& manifest, std::int64_t frames) {
  const auto [pictures, latents] = frames_axes(manifest);
  const auto free = latents.free(frames);
  if (!free) throw InputError("the VAE decoder takes no " + std::to_string(frames) + " latent frames");
  return pictures.size(*free);
}

std::optional<std::int64_t> latent_frames(const bundle::Manifest& manifest, std::optional<std::int64_t> num_frames,
                                          const std::string& name) {
  if (!num_frames) return manifest.latents.frames;
  const std::string came = name + ": " + std::to_string(*num_frames) + " came, ";
  if (!is_video(manifest)) throw InputError(came + "but this bundle draws pictures; leave it out");
  const auto found = latents_of(manifest, *num_frames);
  if (!found)
    throw InputError(came + "which does not fit this model" + rule(manifest) + nearest(manifest, *num_frames));
  if (*num_frames > kMostFrames) throw InputError(came + "expected at most " + std::to_string(kMostFrames) + " frames");
  return found;
}

}  // namespace dit_deploy::runtime
