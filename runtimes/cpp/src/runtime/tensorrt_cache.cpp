#include "runtime/tensorrt_cache.h"

#include <exception>
#include <fstream>
#include <iterator>
#include <random>
#include <system_error>
#include <utility>

namespace dit_deploy::runtime {
namespace {

namespace fs = std::filesystem;

// Letters, digits and points; what lies between them becomes one hyphen.
std::string plain(const std::string& text) {
  std::string out;
  bool between = false;
  for (const char one : text) {
    const bool kept =
        (one >= 'A' && one <= 'Z') || (one >= 'a' && one <= 'z') || (one >= '0' && one <= '9') || one == '.';
    if (kept) {
      if (between && !out.empty()) out += '-';
      out += one;
    }
    between = !kept;
  }
  return out;
}

// Replaces a file: whoever reads it meanwhile gets the one before or this one.
void replace_file(const fs::path& path, const std::vector<std::byte>& data) {
  fs::path beside = path;
  beside += "." + std::to_string(std::random_device{}()) + ".part";
  std::ofstream file(beside, std::ios::binary);
  file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  file.close();
  std::error_code error;
  if (file) fs::rename(beside, path, error);
  if (!file || error) {
    fs::remove(beside, error);
    throw std::system_error(std::make_error_code(std::errc::io_error));
  }
}

}  // namespace

fs::path tensorrt_cache_path(const fs::path& folder, const fs::path& engine, const std::string& version,
                             const std::string& gpu) {
  std::string name = "rtx";
  for (const std::string& part : {version, gpu, engine.parent_path().filename().u8string(), engine.stem().u8string()}) {
    name += "-" + plain(part);
  }
  return folder / (name + ".cache");
}

TensorRTCache::TensorRTCache(TensorRTEngine& engine, fs::path path) : engine_(engine), path_(std::move(path)) {}

void TensorRTCache::load() {
  std::ifstream file(path_, std::ios::binary);
  if (!file) return;
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::vector<std::byte> data(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) data[i] = static_cast<std::byte>(text[i]);
  if (!data.empty() && engine_.load_cache(data)) kept_ = std::move(data);
}

void TensorRTCache::save() noexcept {
  try {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto data = engine_.save_cache();
    if (data.empty() || data == kept_) return;
    replace_file(path_, data);
    kept_ = std::move(data);
  } catch (const std::exception&) {  // a folder without permission, a full disk
  }
}

}  // namespace dit_deploy::runtime
