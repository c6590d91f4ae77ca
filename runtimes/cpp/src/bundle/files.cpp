#include "bundle/files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <list>

#include "bundle/sha256.h"
#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::bundle {

namespace fs = std::filesystem;

namespace {

constexpr int kLinks = 40;  // as many as Linux follows
constexpr std::size_t kChunk = std::size_t{1} << 20;

// Reads a file in chunks into take(data, size) until it ends or `take` says no.
template <typename Take>
void read_chunks(const fs::path& path, std::error_code& error, Take&& take) {
  error.clear();
  errno = 0;
  const auto failed = [&] { error = std::error_code(errno != 0 ? errno : EIO, std::generic_category()); };
  std::ifstream stream;
  stream.rdbuf()->pubsetbuf(nullptr, 0);  // the chunks are large enough
  stream.open(path, std::ios::binary);
  if (!stream) return failed();
  std::vector<char> chunk(kChunk);
  while (true) {
    stream.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    if (stream.bad()) return failed();
    const auto count = static_cast<std::size_t>(stream.gcount());
    if (count == 0 || !take(chunk.data(), count) || !stream) return;
  }
}

}  // namespace

std::string shown(const fs::path& path) { return printable(path.u8string()); }

fs::path below(const fs::path& root, std::string_view relative) { return root / fs::u8path(relative); }

fs::path file_inside(const fs::path& root, const std::string& relative, const std::string& what,
                     const std::string& mend) {
  const fs::path path = below(root, relative);
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  const fs::path real_root = error ? fs::path() : fs::canonical(root, error);
  const fs::file_status status = error ? fs::file_status() : fs::status(real, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory)
    throw IntegrityError(shown(path) + " is missing; " + mend);
  if (error) throw BundleError(shown(path) + " cannot be read: " + error.message());
  if (!is_below(real, real_root))
    throw BundleError(shown(path) + " is a link that leaves the " + what + ", to " + shown(real) +
                      "; put the file itself there");
  if (!fs::is_regular_file(status)) throw BundleError(shown(path) + " is no regular file");
  return path;
}

fs::path resolve(const fs::path& path) {
  std::error_code error;
  const fs::path whole = fs::absolute(path, error);
  fs::path done = whole.root_path();
  std::list<fs::path> rest;
  const fs::path relative = whole.relative_path();
  rest.assign(relative.begin(), relative.end());
  for (int links = 0; !rest.empty();) {
    const fs::path part = rest.front();
    rest.pop_front();
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      done = done.parent_path();
      continue;
    }
    const fs::path next = done / part;
    const bool link = fs::is_symlink(fs::symlink_status(next, error));
    const fs::path target = link && links < kLinks ? fs::read_symlink(next, error) : fs::path();
    if (target.empty()) {
      done = next;
      continue;
    }
    ++links;
    if (target.is_absolute()) done = target.root_path();
    const fs::path parts = target.relative_path();
    rest.insert(rest.begin(), parts.begin(), parts.end());
  }
  return done;
}

bool is_below(const fs::path& real, const fs::path& real_root) {
  std::string root = real_root.generic_u8string();
  while (!root.empty() && root.back() == '/') root.pop_back();
  return real.generic_u8string().rfind(root + "/", 0) == 0;
}

bool exists_itself(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

std::vector<std::string> names_in(const fs::path& folder, std::error_code& error) {
  std::vector<std::string> names;
  fs::directory_iterator entries(folder, error);
  while (!error && entries != fs::directory_iterator()) {
    names.push_back(entries->path().filename().u8string());
    entries.increment(error);
  }
  std::sort(names.begin(), names.end());
  return names;
}

void walk(const fs::path& root, const std::function<void(const std::string&, const fs::path&, bool)>& visit,
          std::error_code& error, fs::path& failed) {
  std::vector<std::string> pending{""};
  while (!pending.empty()) {
    const std::string folder = pending.back();
    pending.pop_back();
    failed = folder.empty() ? root : below(root, folder);
    const std::vector<std::string> names = names_in(failed, error);
    if (error == std::errc::no_such_file_or_directory && !folder.empty()) {
      error.clear();  // renamed or removed meanwhile, as an engine that is being built is
      continue;
    }
    if (error) return;
    for (const std::string& name : names) {
      const std::string relative = folder.empty() ? name : folder + "/" + name;
      const fs::path path = below(root, relative);
      std::error_code ignored;
      const fs::file_status status = fs::symlink_status(path, ignored);
      if (fs::is_directory(status)) {
        pending.push_back(relative);
      } else {
        visit(relative, path, fs::is_symlink(status));
      }
    }
  }
}

std::string read_limited(const fs::path& path, std::uint64_t limit) {
  std::string data;
  std::error_code error;
  read_chunks(path, error, [&](const char* bytes, std::size_t count) {
    data.append(bytes, count);
    return data.size() <= limit;
  });
  if (error) throw BundleError(shown(path) + " cannot be read: " + error.message());
  if (data.size() > limit)
    throw BundleError(shown(path) + " is larger than " + human_size(limit) + ", the most that is read of it");
  return data;
}

std::int64_t size_of(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw BundleError(shown(path) + " cannot be read: " + error.message());
  return static_cast<std::int64_t>(size);
}

std::pair<std::int64_t, std::string> sha256_of(const fs::path& path, std::error_code& error) {
  Sha256 digest;
  std::int64_t size = 0;
  read_chunks(path, error, [&](const char* bytes, std::size_t count) {
    digest.update(bytes, count);
    size += static_cast<std::int64_t>(count);
    return true;
  });
  return {size, digest.hex()};
}

State state_of(const fs::path& path) {
#if defined(_WIN32)
  std::error_code error;
  const std::uintmax_t size = fs::is_directory(path, error) ? 0 : fs::file_size(path, error);
  const auto time = fs::last_write_time(path, error).time_since_epoch().count();
  return error ? State() : State(0, 0, size, time, time);
#else
  struct stat found = {};
  if (::stat(path.c_str(), &found) != 0) return {};
#if defined(__APPLE__)
  const struct timespec written = found.st_mtimespec, changed = found.st_ctimespec;
#else
  const struct timespec written = found.st_mtim, changed = found.st_ctim;
#endif
  const auto nanoseconds = [](const struct timespec& time) {
    return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::int64_t>(time.tv_nsec);
  };
  return {static_cast<std::uint64_t>(found.st_dev), static_cast<std::uint64_t>(found.st_ino),
          static_cast<std::uint64_t>(found.st_size), nanoseconds(written), nanoseconds(changed)};
#endif
}

}  // namespace dit_deploy::bundle
