// Where pictures go: one file, a numbered folder or one contact sheet, each written whole or not at all;
// dit_deploy/cli/_pictures.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "dit_deploy/pipeline.hpp"

namespace dit_deploy::run {

// The file of each picture (one for a contact sheet), checked before any work is done. `out` is a file (.png, .jpg) or,
// without a suffix or where it is a folder already, a folder of 0000.png, 0001.png, … which is made when the pictures
// are there. Throws InputError: several pictures for one file, another suffix, a file that exists, no folder around.
std::vector<std::filesystem::path> plan_files(const std::filesystem::path& out, std::size_t count, bool grid,
                                              bool overwrite);

// The same of videos, whose pictures go into a folder, or with `grid` onto one contact sheet.
std::vector<std::filesystem::path> plan_frames(const std::filesystem::path& out, std::size_t videos, std::size_t frames,
                                               bool grid, bool overwrite);

// Writes each picture to its file: all are written beside first, then each is put in place in one step. Throws InputError
// where a file has come into being since it was planned, or cannot be written.
void write_pictures(const std::vector<Picture>& pictures, const std::vector<std::filesystem::path>& files,
                    bool overwrite);

// ASCII letters in lower case.
std::string lower(std::string text);

}  // namespace dit_deploy::run
