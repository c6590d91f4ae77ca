// Draw one picture a class from a bundle; the twin of class_to_image.py.
//
// class_to_image BUNDLE OUT.png [CLASS …] [--seed N]
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include <dit_deploy/pipeline.hpp>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

int main(int argc, char** argv) try {
  if (argc < 3) return std::fprintf(stderr, "usage: class_to_image BUNDLE OUT.png [CLASS …] [--seed N]\n"), 2;
  dit_deploy::Request request;
  request.seed = {0};
  for (int index = 3; index < argc; ++index) {
    const bool seed = std::strcmp(argv[index], "--seed") == 0 && index + 1 < argc;
    if (seed)
      request.seed = {std::stoull(argv[++index])};
    else
      request.class_labels.push_back(std::stoll(argv[index]));
  }
  if (request.class_labels.empty()) request.class_labels = {0};
  request.callback = [](const dit_deploy::Step& step) {
    const bool last = step.index + 1 == step.count;
    std::fprintf(stderr, "\rstep %d of %d%s", int(step.index + 1), int(step.count), last ? "\n" : "");
    return true;
  };

  const auto pipeline = dit_deploy::Pipeline::open(argv[1]);
  const dit_deploy::Result out = pipeline.generate(request);

  // All pictures are of one size, so a row of them is line after line of each.
  const int height = int(out.images[0].height), channels = int(out.images[0].channels);
  const int line = int(out.images[0].width) * channels, count = int(out.images.size());
  std::string row;
  for (int y = 0; y < height; ++y) {
    for (const auto& image : out.images)
      row.append(reinterpret_cast<const char*>(&image.pixels[std::size_t(y * line)]), std::size_t(line));
  }
  if (!stbi_write_png(argv[2], line / channels * count, height, channels, row.data(), 0))
    throw std::runtime_error(std::string(argv[2]) + " cannot be written");
  std::printf("%s: %d pictures in %.2f s\n", argv[2], count, out.seconds.at("total"));
  return 0;
} catch (const std::exception& error) {
  return std::fprintf(stderr, "class_to_image: %s\n", error.what()), 2;
}
