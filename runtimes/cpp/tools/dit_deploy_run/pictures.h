// Pictures from files and into bytes, by stb; runtimes/images.py reads them, dit_deploy/cli/_pictures.py lays them out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "dit_deploy/pipeline.hpp"

namespace dit_deploy::run {

// A .png or .jpg file, upright, in 8 bits a channel, with its transparency. Throws InputError.
Picture read_picture(const std::filesystem::path& path);

// The pictures in a folder, in the order of their names. Throws InputError.
std::vector<Picture> read_frames(const std::filesystem::path& folder);

// The bytes of a file of this suffix, .png, .jpg or .jpeg in either case. Throws InputError where stb cannot.
std::string encoded(const Picture& picture, const std::string& suffix);

// One picture of all, row by row, `columns` wide (nearly square by default), two white pixels apart.
Picture contact_sheet(const std::vector<Picture>& pictures, std::optional<std::int64_t> columns);

}  // namespace dit_deploy::run
