// Files of a bundle: find them without leaving the folder, read and hash them; dit_deploy/bundle/_files.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <vector>

namespace dit_deploy::bundle {

inline constexpr char kMendBundle[] = "copy the bundle again, or export it again";

// A path for a message.
std::string shown(const std::filesystem::path& path);
// `root` / `relative`, a path in UTF-8 with slashes.
std::filesystem::path below(const std::filesystem::path& root, std::string_view relative);

// The path of a regular file in `root`. `what` and `mend` are for the messages. Throws IntegrityError where it is
// missing, BundleError where it is no regular file, or where a symbolic link leads out of `root`.
std::filesystem::path file_inside(const std::filesystem::path& root, const std::string& relative,
                                  const std::string& what = "bundle", const std::string& mend = kMendBundle);

// `path` with every symbolic link followed, as far as there is something to follow. Throws nothing.
std::filesystem::path resolve(const std::filesystem::path& path);
// Whether one resolved path lies below another.
bool is_below(const std::filesystem::path& real, const std::filesystem::path& real_root);
// Whether something has this name, be it a link to nothing.
bool exists_itself(const std::filesystem::path& path);

// The names in a folder, sorted.
std::vector<std::string> names_in(const std::filesystem::path& folder, std::error_code& error);
// Calls visit(relative, path, whether it is a link) for everything below `root` that is no folder; links are not
// followed. `failed` gets the folder that cannot be listed.
void walk(const std::filesystem::path& root,
          const std::function<void(const std::string&, const std::filesystem::path&, bool)>& visit,
          std::error_code& error, std::filesystem::path& failed);

// A whole file of at most `limit` bytes. Throws BundleError where it is larger or unreadable.
std::string read_limited(const std::filesystem::path& path, std::uint64_t limit);
// The size of a regular file; BundleError where it cannot be known.
std::int64_t size_of(const std::filesystem::path& path);
// Size and SHA-256 of a file, read in chunks.
std::pair<std::int64_t, std::string> sha256_of(const std::filesystem::path& path, std::error_code& error);

// What tells one state of a file or folder from another: device, inode, size, time of the last write, and of the last
// change to its name or content; nanoseconds. All zero where there is nothing.
using State = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::int64_t, std::int64_t>;
State state_of(const std::filesystem::path& path);

}  // namespace dit_deploy::bundle
