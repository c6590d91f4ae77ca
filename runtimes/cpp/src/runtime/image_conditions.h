// Pictures that a video shall contain → conditions of the denoiser, by the bundle's own graphs (image to video);
// runtimes/image_conditions.py.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runtime/calls.h"
#include "runtime/components.h"
#include "runtime/images.h"
#include "runtime/steps.h"
#include "sampling/noise.h"

namespace dit_deploy::runtime {

// The pictures of a run, checked, fitted to the video's size: [batch or 1, 3, height, width] in 0 … 1.
struct Pictures {
  Pixels first;
  std::optional<Pixels> last;
  // What the vision encoder is given, [batch or 1, pictures, 3, size, size] in 0 … 1, where there is one.
  std::optional<Pixels> crops;
};

// The pictures of a request for a video of `height` × `width` pixels; nothing where it has none. Pictures of another size are
// resized by Lanczos, as the pipelines of diffusers do; where that changes their aspect, a line in `warnings` says so.
// Throws InputError where the bundle takes none, needs one, or there are neither one nor `batch`.
std::optional<Pictures> read_pictures(const bundle::Manifest& manifest, const Request& request, std::int64_t batch,
                                      std::int64_t height, std::int64_t width, std::int64_t multiple,
                                      std::vector<std::string>& warnings);

// Turns pictures into conditions.
class ImageConditioner {
 public:
  // `manifest` has image_conditions; both outlive it.
  ImageConditioner(const bundle::Manifest& manifest, Components& components);

  // All graphs that are run, first the one that makes conditions of the video.
  std::vector<std::string> components() const;
  // The denoiser's conditions that are made here.
  std::set<std::string> names() const;
  // The conditions by name, [batch, …], of a video of `frames` pictures. Without pictures, zeros are made, and no graph is
  // run. `source` gives one draw where the graph takes noise. Adds the time to `seconds`.
  Tensors make(const std::optional<Pictures>& pictures, std::int64_t batch, std::int64_t frames, std::int64_t height,
               std::int64_t width, sampling::NoiseSource& source, double& seconds) const;
  // Puts into latents of `shape` what is known of them from the pictures, where the family keeps it.
  void keep(std::vector<float>& latents, const Shape& shape, const std::vector<Condition>& conditions) const;

 private:
  const bundle::Manifest& manifest_;
  const bundle::ImageConditions& record_;
  Components& components_;
};

}  // namespace dit_deploy::runtime
