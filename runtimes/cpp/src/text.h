// Text for messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dit_deploy {

// `text` on one line, cut to `limit` characters (not bytes) with an ellipsis; control characters become spaces.
std::string one_line(std::string_view text, std::size_t limit = 100);
// 'text' in quotes, on one line and cut: what came, for a message.
std::string quoted(std::string_view text, std::size_t limit = 100);
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");
// As printf("%g") writes it, whatever the locale.
std::string number_text(double value);
// "999 B", "1.5 kB", "2.7 GB" (powers of 1000).
std::string human_size(std::uint64_t size);

}  // namespace dit_deploy
