// Redraw a picture as another class, a little and a lot; the twin of image_to_image.py.
//
// image_to_image BUNDLE PICTURE CLASS OUT.png [--strength X …]
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <dit_deploy/pipeline.hpp>

#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

int main(int argc, char** argv) try {
  if (argc < 5) return std::fprintf(stderr, "usage: image_to_image BUNDLE PICTURE CLASS OUT.png [--strength X …]\n"), 2;
  std::vector<double> strengths = {0.3, 0.5, 0.7, 0.9};
  if (argc > 6 && std::string(argv[5]) == "--strength") {
    strengths.clear();
    for (int index = 6; index < argc; ++index) strengths.push_back(std::stod(argv[index]));
  }
  int width = 0, height = 0, channels = 0;
  stbi_uc* pixels = stbi_load(argv[2], &width, &height, &channels, 0);
  if (pixels == nullptr) throw std::runtime_error(std::string(argv[2]) + ": " + stbi_failure_reason());
  const std::size_t size = std::size_t(width) * std::size_t(height) * std::size_t(channels);

  const auto pipeline = dit_deploy::Pipeline::open(argv[1]);
  dit_deploy::Request request;
  request.class_labels = {std::stoll(argv[3])};
  request.image = {{height, width, channels, {pixels, pixels + size}}};
  request.seed = {0};
  std::vector<dit_deploy::Picture> pictures;
  for (const double strength : strengths) {
    request.strength = strength;
    pictures.push_back(pipeline.generate(request).images[0]);
  }
  stbi_image_free(pixels);

  // All pictures are of one size, so a row of them is line after line of each.
  const dit_deploy::Picture& first = pictures[0];
  const auto line = std::ptrdiff_t(first.width * first.channels);
  std::vector<std::uint8_t> row;
  for (std::ptrdiff_t y = 0; y < first.height; ++y) {
    for (const auto& one : pictures)
      row.insert(row.end(), one.pixels.begin() + y * line, one.pixels.begin() + (y + 1) * line);
  }
  const int wide = int(first.width) * int(pictures.size());
  if (!stbi_write_png(argv[4], wide, int(first.height), int(first.channels), row.data(), 0))
    throw std::runtime_error(std::string(argv[4]) + " cannot be written");
  std::printf("%s: %zu strengths\n", argv[4], strengths.size());
  return 0;
} catch (const std::exception& error) {
  return std::fprintf(stderr, "image_to_image: %s\n", error.what()), 2;
}
