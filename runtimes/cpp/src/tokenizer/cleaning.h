// What a manifest's "cleaning" does to a prompt: Python's html.unescape, str.lower, str.strip, and white space collapsed.
#pragma once

#include <string>
#include <string_view>

namespace dit_deploy::tokenizer {

// Of UTF-8; `step` is one of the manifest's words.
std::string cleaned(std::string_view text, const std::string& step);

// `text` without white space at its ends, as Python counts it.
std::u32string stripped(std::u32string_view text);

}  // namespace dit_deploy::tokenizer
