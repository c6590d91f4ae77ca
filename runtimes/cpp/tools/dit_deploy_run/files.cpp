#include "dit_deploy_run/files.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <system_error>

#include "dit_deploy_run/pictures.h"

namespace dit_deploy::run {

namespace fs = std::filesystem;

namespace {

// Whether there is something of this name, a dangling link too.
bool taken(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() > fs::file_type::not_found;
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

InputError already_there(const fs::path& file) {
  return InputError(file.string() + " exists; give another name, or --overwrite");
}

fs::path part_of(const fs::path& file) {
  std::random_device random;
  char tail[16];
  std::snprintf(tail, sizeof tail, ".%08x.part", static_cast<unsigned>(random()));
  return file.parent_path() / ("." + file.filename().string() + tail);
}

// Files that are removed with this, whatever happens.
class Parts {
 public:
  Parts() = default;
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;
  ~Parts() {
    std::error_code ignored;
    for (const fs::path& part : paths_) fs::remove(part, ignored);
  }

  void write(const fs::path& file, const std::string& data) {
    paths_.push_back(part_of(file));
    const auto close = [](std::FILE* stream) { std::fclose(stream); };
    const std::unique_ptr<std::FILE, decltype(close)> stream(std::fopen(paths_.back().c_str(), "wbx"), close);
    if (!stream) throw fs::filesystem_error("", std::error_code(errno, std::generic_category()));
    errno = 0;
    if (std::fwrite(data.data(), 1, data.size(), stream.get()) != data.size() || std::fflush(stream.get()) != 0) {
      throw fs::filesystem_error("", std::error_code(errno, std::generic_category()));
    }
  }

  const std::vector<fs::path>& paths() const { return paths_; }

 private:
  std::vector<fs::path> paths_;
};

// Renames without replacing; a file system that has no links gets the check and the rename in two steps.
void place(const fs::path& part, const fs::path& file) {
  std::error_code failed;
  fs::create_hard_link(part, file, failed);
  if (!failed) return;
  if (taken(file)) throw already_there(file);
  fs::rename(part, file);
}

}  // namespace

std::string lower(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

std::vector<fs::path> plan_files(const fs::path& given, std::size_t count, bool grid, bool overwrite) {
  // "pictures/" is the folder "pictures".
  const fs::path out = given.has_filename() ? given : given.parent_path();
  const std::string suffix = lower(out.extension().string()), name = out.string();
  const bool as_folder = is_folder(out) || suffix.empty();
  const std::string wanted = "give a .png or .jpg file";
  if (!as_folder && suffix != ".png" && suffix != ".jpg" && suffix != ".jpeg") {
    throw InputError(name + ": " + suffix + " is not written; " + wanted + ", or a folder");
  }
  if (grid && as_folder) throw InputError(name + ": --grid makes one picture; " + wanted);
  if (count > 1 && !as_folder && !grid) {
    throw InputError(name + ": " + std::to_string(count) +
                     " pictures do not fit into one file; give a folder, or add --grid");
  }
  const fs::path around = fs::absolute(out).parent_path();
  if (!is_folder(around)) throw InputError(name + ": there is no folder " + around.string() + "; make it first");
  if (as_folder && taken(out) && !is_folder(out)) {
    throw InputError(name + ": is a file; give a folder, or a name that ends in what is to be written");
  }
  const fs::path written = is_folder(out) ? out : around;
  if (access(written.c_str(), W_OK) != 0) {
    throw InputError(name + ": cannot be written; the folder " + written.string() + " does not permit it");
  }
  std::vector<fs::path> files;
  for (std::size_t index = 0; as_folder && index < count; ++index) {
    char number[32];
    std::snprintf(number, sizeof number, "%04zu.png", index);
    files.push_back(out / number);
  }
  if (!as_folder) files.push_back(out);
  for (const fs::path& file : files) {
    if (is_folder(file)) throw InputError(file.string() + ": is a folder; give another name");
    if (taken(file) && !overwrite) throw already_there(file);
  }
  return files;
}

std::vector<fs::path> plan_frames(const fs::path& out, std::size_t videos, std::size_t frames, bool grid,
                                  bool overwrite) {
  if (grid) return plan_files(out, 1, true, overwrite);
  const std::string suffix = lower(out.extension().string()), name = out.string();
  if (!suffix.empty() && !is_folder(out)) {
    throw InputError(name + ": " + suffix +
                     " is not written; give a folder for the frames of a video, or --grid with a "
                     ".png or .jpg file");
  }
  if (videos > 1) {
    throw InputError(name + ": " + std::to_string(videos) +
                     " videos do not fit into one folder of frames; draw one at a time, or add --grid");
  }
  return plan_files(out, frames, false, overwrite);
}

void write_pictures(const std::vector<Picture>& pictures, const std::vector<fs::path>& files, bool overwrite) {
  const fs::path folder = files.front().parent_path();
  try {
    if (!folder.empty() && !is_folder(folder)) fs::create_directory(folder);
    Parts parts;
    for (std::size_t index = 0; index < files.size(); ++index) {
      parts.write(files[index], encoded(pictures[index], files[index].extension().string()));
    }
    for (std::size_t index = 0; index < files.size(); ++index) {
      if (overwrite) {
        fs::rename(parts.paths()[index], files[index]);
      } else {
        place(parts.paths()[index], files[index]);
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw InputError((folder.empty() ? "." : folder.string()) +
                     ": pictures cannot be written: " + error.code().message());
  }
}

}  // namespace dit_deploy::run
