#include "bundle/shapes.h"

#include <cstring>
#include <limits>

#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

TensorSpec latents() {
  TensorSpec spec;
  spec.name = "latents";
  spec.axes = {Axis{"batch", 1, 1, {}}, std::int64_t{4}, Axis{"patch_height", 2, 1, {}}, Axis{"patch_width", 2, 2, 64}};
  return spec;
}

std::string bound(const Shape& shape, Sizes sizes = {}, DType dtype = DType::float32) {
  std::map<std::string, std::string> owner{{"batch", "class_labels"}};
  return refusal<InputError>([&] { bind_axes(latents(), dtype, shape, sizes, owner); });
}

template <typename Element>
Tensor tensor(DType dtype, const std::vector<Element>& values) {
  Tensor made;
  made.dtype = dtype;
  made.shape = {static_cast<std::int64_t>(values.size())};
  made.data.resize(values.size() * sizeof(Element));
  if (!values.empty()) std::memcpy(made.data.data(), values.data(), made.data.size());
  return made;
}

TEST_CASE("shapes and sizes are each other's inverse") {
  Sizes sizes;
  std::map<std::string, std::string> owner;
  bind_axes(latents(), DType::float32, {2, 4, 32, 64}, sizes, owner);
  CHECK(sizes == Sizes{{"batch", 2}, {"patch_height", 16}, {"patch_width", 32}});
  CHECK(shape_of(latents(), sizes) == Shape{2, 4, 32, 64});
  CHECK(shape_text(latents()) == "[batch, 4, 2·patch_height, 2·patch_width]");
  CHECK(shape_text(Shape{1, 4}) == "(1, 4)");
  CHECK(shape_text(Shape{1}) == "(1,)");
}

TEST_CASE("shapes that are refused") {
  CHECK(bound({2, 4, 32, 64}, {}, DType::float16) == "latents: dtype is float16, expected float32");
  CHECK(bound({2, 4}) == "latents: shape is [2, 4] with 2 axes, expected 4: [batch, 4, 2·patch_height, 2·patch_width]");
  CHECK(bound({2, 3, 2, 4}) == "latents: axis 1 is 3, expected 4");
  CHECK(bound({2, 4, 3, 4}) == "latents: axis 2 is 3, expected a multiple of 2 (2 × patch_height)");
  CHECK(bound({2, 4, 2, 2}) == "latents: axis 3 is 2, expected 4 … 128 (2 × patch_width)");
  CHECK(bound({0, 4, 2, 4}) == "latents: axis 0 is 0, expected at least 1 (batch)");
  CHECK(bound({2, 4, 2, 4}, {{"batch", 3}}) == "latents: axis 0 is 2, so batch is 2, but class_labels says batch is 3");
}

TEST_CASE("sizes that are refused, however large") {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
  const auto refused = [](std::int64_t width) {
    return refusal<InputError>(
        [&] { shape_of(latents(), {{"batch", 1}, {"patch_height", 1}, {"patch_width", width}}); });
  };
  CHECK(has(refused(65), "latents: axis 3 would be 130, expected 4 … 128 (2 × patch_width)"));
  CHECK(has(refused(-1), "would be -2"));
  CHECK(has(refused(kLargest), "more than any tensor holds"));
  CHECK(has(refused(-kLargest), "more than any tensor holds"));
  CHECK(refusal<InputError>([&] { shape_of(latents(), {{"batch", 1}}); }) ==
        "latents: axis 2 needs the size patch_height; given are ['batch']");
  CHECK(elements({2, 3, 0}) == 0);
  CHECK(elements({}) == 1);
  CHECK(has(refusal<InputError>([] { elements({kLargest, 2}); }), "larger than any memory"));
  CHECK(has(refusal<InputError>([] { elements({-1}); }), "larger than any memory"));
}

TEST_CASE("an offset is part of every shape") {
  TensorSpec spec;
  spec.name = "images";
  Axis frames{"latent_frames", 4, 1, {}};
  frames.offset = -3;
  spec.axes = {frames};
  CHECK(shape_text(spec) == "[4·latent_frames-3]");
  CHECK(shape_of(spec, {{"latent_frames", 3}}) == Shape{9});
  const auto refused = [&](std::int64_t size) {
    return refusal<InputError>([&] {
      Sizes sizes;
      std::map<std::string, std::string> owner;
      bind_axes(spec, DType::float32, {size}, sizes, owner);
    });
  };
  CHECK(refused(8) == "images: axis 0 is 8, expected 1 more than a multiple of 4 (4 × latent_frames-3)");
  CHECK(refused(-3) == "images: axis 0 is -3, expected at least 1 (4 × latent_frames-3)");
  CHECK(has(refused(std::numeric_limits<std::int64_t>::max()), "1 more than a multiple of 4"));
  frames.minimum = 2;
  frames.maximum = 3;
  spec.axes = {frames};
  CHECK(refused(1) == "images: axis 0 is 1, expected 5 … 9 (4 × latent_frames-3)");
}

TEST_CASE("values in and out of the declared range, in every type") {
  TensorSpec spec;
  spec.name = "x";
  spec.minimum = 0;
  spec.maximum = 1000;
  const auto refused = [&](const Tensor& values) { return refusal<InputError>([&] { check_values(spec, values); }); };
  check_values(spec, tensor<std::int64_t>(DType::int64, {0, 1000}));
  check_values(spec, tensor<float>(DType::float32, {}));
  check_values(spec, tensor<std::uint16_t>(DType::float16, {0x3c00, 0x0001, 0x0000}));
  check_values(spec, tensor<std::uint16_t>(DType::bfloat16, {0x3f80}));
  check_values(spec, tensor<std::uint8_t>(DType::boolean, {1}));
  CHECK(refused(tensor<std::int64_t>(DType::int64, {5, 1001})) == "x: 1001 is outside 0 … 1000");
  CHECK(has(refused(tensor<std::int64_t>(DType::int64, {std::numeric_limits<std::int64_t>::min()})),
            "-9223372036854775808 is outside"));
  CHECK(refused(tensor<std::int32_t>(DType::int32, {-1})) == "x: -1 is outside 0 … 1000");
  CHECK(refused(tensor<float>(DType::float32, {0.5F, -0.25F})) == "x: -0.25 is outside 0 … 1000");
  CHECK(refused(tensor<std::uint16_t>(DType::float16, {0xbc00})) == "x: -1 is outside 0 … 1000");
  CHECK(refused(tensor<std::uint16_t>(DType::bfloat16, {0x4480})) == "x: 1024 is outside 0 … 1000");
  for (const int bits : {0x7c00, 0xfc00, 0x7e00})
    CHECK(has(refused(tensor<std::uint16_t>(DType::float16, {static_cast<std::uint16_t>(bits)})),
              "holds NaN or infinite values"));
  CHECK(has(refused(tensor<float>(DType::float32, {1, NAN})), "x: holds NaN or infinite values, expected finite ones"));
  spec.minimum.reset();
  CHECK(range_text(spec) == "−∞ … 1000");
  spec.maximum.reset();
  CHECK(range_text(spec) == "");
  check_values(spec, tensor<float>(DType::float32, {-1e30F}));
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
