#include "dit_deploy/pipeline.hpp"

#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "bundle/bundle.h"
#include "runtime/drawing.h"
#include "runtime/frames.h"

namespace dit_deploy {
namespace {

template <typename Value>
Tensor tensor_of(DType dtype, std::vector<std::int64_t> shape, const std::vector<Value>& values) {
  Tensor tensor{dtype, std::move(shape), std::vector<std::byte>(values.size() * sizeof(Value))};
  if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
  return tensor;
}

// Runs `call`; memory that cannot be had is the one failure that may come from anywhere.
template <typename Call>
auto guarded(const char* what, Call&& call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {}
  throw BackendError(std::string("out of memory while ") + what +
                     "; use a smaller size or batch, or guidance in two calls");
}

}  // namespace

Tensor Tensor::of(std::vector<std::int64_t> shape, const std::vector<float>& values) {
  return tensor_of(DType::float32, std::move(shape), values);
}

Tensor Tensor::of(std::vector<std::int64_t> shape, const std::vector<std::int64_t>& values) {
  return tensor_of(DType::int64, std::move(shape), values);
}

Tensor Tensor::of(std::vector<std::int64_t> shape, const std::vector<std::int32_t>& values) {
  return tensor_of(DType::int32, std::move(shape), values);
}

struct Pipeline::Impl {
  Impl(const std::filesystem::path& path, const Options& options) : drawing(bundle::Bundle::open(path), options) {}
  runtime::Drawing drawing;
};

Pipeline Pipeline::open(const std::filesystem::path& path, const Options& options) {
  return guarded("opening the bundle", [&] { return Pipeline(std::make_unique<Impl>(path, options)); });
}

Pipeline::Pipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;
Pipeline::~Pipeline() = default;

Result Pipeline::generate(const Request& request) const {
  return guarded("drawing", [&] { return impl_->drawing.generate(request); });
}

const std::string& Pipeline::engine() const { return impl_->drawing.engine(); }
const std::string& Pipeline::engine_reason() const { return impl_->drawing.engine_reason(); }
std::int64_t Pipeline::pixel_multiple() const { return impl_->drawing.pixel_multiple(); }

bool Pipeline::makes_videos() const { return impl_->drawing.bundle().manifest().latents.frames.has_value(); }

std::int64_t Pipeline::num_frames() const {
  const bundle::Manifest& manifest = impl_->drawing.bundle().manifest();
  return manifest.latents.frames ? runtime::pixel_frames(manifest, *manifest.latents.frames) : 0;
}

bool Pipeline::takes_prompts() const { return impl_->drawing.bundle().manifest().prompts.has_value(); }

const std::map<std::int64_t, std::string>& Pipeline::labels() const {
  return impl_->drawing.bundle().manifest().labels;
}

std::vector<std::string> Pipeline::warnings() const { return impl_->drawing.warnings(); }

std::vector<std::string> verify(const std::filesystem::path& path) {
  return guarded("verifying the bundle", [&] { return bundle::verify(path); });
}

const char* version() { return DIT_DEPLOY_VERSION; }

}  // namespace dit_deploy
