// How many latent frames a number of pictures is, and the other way: the VAE decoder's axes say it; runtimes/frames.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "bundle/manifest.h"

namespace dit_deploy::runtime {

// Whether the bundle's latents have frames.
bool is_video(const bundle::Manifest& manifest);

// How many pictures so many latent frames are. Throws InputError.
std::int64_t pixel_frames(const bundle::Manifest& manifest, std::int64_t frames);

// How many latent frames so many pictures are, where none are asked for the usual number; nothing for a bundle of pictures.
// Throws InputError where it is no number that the VAE and the denoiser take; the message names the nearest. `name` is that
// of the argument.
std::optional<std::int64_t> latent_frames(const bundle::Manifest& manifest, std::optional<std::int64_t> num_frames,
                                          const std::string& name = "num_frames");

}  // namespace dit_deploy::runtime
