// Make a video of a prompt from a bundle; the twin of text_to_video.py. Its pictures stand beside each other.
//
// text_to_video BUNDLE OUT.png PROMPT [--frames N] [--seed N]
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include <dit_deploy/pipeline.hpp>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

int main(int argc, char** argv) try {
  if (argc < 4) {
    return std::fprintf(stderr, "usage: text_to_video BUNDLE OUT.png PROMPT [--frames N] [--seed N]\n"), 2;
  }
  dit_deploy::Request request;
  request.prompt = {argv[3]};
  request.seed = {0};
  for (int index = 4; index + 1 < argc; index += 2) {
    if (std::strcmp(argv[index], "--frames") == 0) request.num_frames = std::stoll(argv[index + 1]);
    if (std::strcmp(argv[index], "--seed") == 0) request.seed = {std::stoull(argv[index + 1])};
  }
  request.callback = [](const dit_deploy::Step& step) {
    const bool last = step.index + 1 == step.count;
    std::fprintf(stderr, "\rstep %d of %d%s", int(step.index + 1), int(step.count), last ? "\n" : "");
    return true;
  };

  const auto pipeline = dit_deploy::Pipeline::open(argv[1]);
  const dit_deploy::Result out = pipeline.generate(request);
  if (out.frames.empty()) throw std::runtime_error(std::string(argv[1]) + " draws pictures");

  // All pictures are of one size, so a row of them is line after line of each.
  const auto& frames = out.frames[0];
  const int height = int(frames[0].height), channels = int(frames[0].channels);
  const int line = int(frames[0].width) * channels, count = int(frames.size());
  std::string row;
  for (int y = 0; y < height; ++y) {
    for (const auto& frame : frames)
      row.append(reinterpret_cast<const char*>(&frame.pixels[std::size_t(y * line)]), std::size_t(line));
  }
  if (!stbi_write_png(argv[2], line / channels * count, height, channels, row.data(), 0))
    throw std::runtime_error(std::string(argv[2]) + " cannot be written");
  std::printf("%s: %d frames in %.2f s\n", argv[2], count, out.seconds.at("total"));
  return 0;
} catch (const std::exception& error) {
  return std::fprintf(stderr, "text_to_video: %s\n", error.what()), 2;
}
