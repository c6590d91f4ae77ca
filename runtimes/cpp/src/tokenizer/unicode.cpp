#include "tokenizer/unicode.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::tokenizer {
namespace {

#include "tokenizer/unicode.inc"

constexpr std::uint32_t kCharacter = (1U << 21) - 1, kCompatible = 1U << 21, kNeverComposed = 1U << 22;

// The run of `size` numbers whose first is the last one not above `code`; nullptr where there is none.
template <std::size_t Count>
const std::uint32_t* run_of(const std::uint32_t (&table)[Count], std::size_t size, char32_t code) {
  std::size_t low = 0, high = Count / size;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (table[middle * size] <= code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low == 0 ? nullptr : table + (low - 1) * size;
}

template <std::size_t Count>
bool is_within(const std::uint32_t (&table)[Count], char32_t code) {
  const std::uint32_t* run = run_of(table, 2, code);
  return run != nullptr && code <= run[1];
}

int combining_class(char32_t code) {
  if (code < 0x300) return 0;
  const std::uint32_t* run = run_of(kClasses, 3, code);
  return run != nullptr && code <= run[1] ? static_cast<int>(run[2]) : 0;
}

// Hangul syllables are computed (The Unicode Standard, section 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

struct Decomposition {
  bool compatible = false;
  std::u32string characters;
};

struct Tables {
  std::unordered_map<char32_t, Decomposition> decompositions;  // by one step
  std::unordered_map<std::uint64_t, char32_t> compositions;    // two characters → one

  Tables() {
    for (const std::uint32_t* run = std::begin(kSingles); run != std::end(kSingles); run += 3) {
      for (std::uint32_t i = 0; i < run[1]; ++i) {
        decompositions[(run[0] & kCharacter) + i] = {(run[0] & kCompatible) != 0, std::u32string(1, run[2] + i)};
      }
    }
    for (const std::uint32_t* entry = std::begin(kDecompositions); entry != std::end(kDecompositions);
         entry += 2 + entry[1]) {
      const char32_t code = entry[0] & kCharacter;
      decompositions[code] = {(entry[0] & kCompatible) != 0, std::u32string(entry + 2, entry + 2 + entry[1])};
      if (entry[1] == 2 && (entry[0] & (kCompatible | kNeverComposed)) == 0) {
        compositions[std::uint64_t{entry[2]} << 32 | entry[3]] = code;
      }
    }
  }
};

const Tables& tables() {
  static const Tables built;
  return built;
}

void decompose(char32_t code, bool compatible, std::u32string& out) {
  if (code >= kSyllable && code < kSyllable + kSyllables) {
    const char32_t index = code - kSyllable, tail = index % kTails;
    out += kLead + index / (kVowels * kTails);
    out += kVowel + index % (kVowels * kTails) / kTails;
    if (tail != 0) out += kTail + tail;
    return;
  }
  const auto found = code < 0xA0 ? tables().decompositions.end() : tables().decompositions.find(code);
  if (found == tables().decompositions.end() || (found->second.compatible && !compatible)) {
    out += code;
    return;
  }
  for (const char32_t one : found->second.characters) decompose(one, compatible, out);
}

// 0 where the two make none.
char32_t composed(char32_t first, char32_t second) {
  if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels) {
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTails;
  }
  const bool without_tail = first >= kSyllable && first < kSyllable + kSyllables && (first - kSyllable) % kTails == 0;
  if (without_tail && second > kTail && second < kTail + kTails) return first + (second - kTail);
  const auto found = tables().compositions.find(std::uint64_t{first} << 32 | second);
  return found == tables().compositions.end() ? 0 : found->second;
}

Text recomposed(const Text& text) {
  Text out;
  std::size_t starter = 0;  // its place in `out`
  bool has_starter = false;
  int before = 0;  // the class of the character before, among those behind the starter
  for (const Letter& letter : text) {
    const int own = combining_class(letter.code);
    const bool adjacent = has_starter && out.size() == starter + 1;
    if (has_starter && (adjacent || (before != 0 && before < own))) {
      if (const char32_t made = composed(out[starter].code, letter.code); made != 0) {
        out[starter].code = made;  // its place stays that of the first, as in the tokenizers library
        continue;
      }
    }
    if (own == 0) {
      starter = out.size();
      has_starter = true;
    }
    before = own;
    out.push_back(letter);
  }
  return out;
}

}  // namespace

Category category(char32_t code) {
  std::size_t low = 0, high = std::size(kCategories);
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (kCategories[middle] >> 5 <= code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return static_cast<Category>(kCategories[low - 1] & 31U);
}

bool is_white_space(char32_t code) {
  return (code >= 0x9 && code <= 0xD) || code == 0x20 || code == 0x85 || (code >= 0xA0 && is_in(code, kSeparator));
}

bool is_ascii_punctuation(char32_t code) {
  return (code >= 0x21 && code <= 0x2F) || (code >= 0x3A && code <= 0x40) || (code >= 0x5B && code <= 0x60) ||
         (code >= 0x7B && code <= 0x7E);
}

std::u32string lowercase(char32_t code) {
  if (code < 0x80) return std::u32string(1, code >= U'A' && code <= U'Z' ? code + 32 : code);
  if (code == 0x130) return U"i\u0307";
  const std::uint32_t* run = run_of(kLowercase, 4, code);
  const bool inside = run != nullptr && code <= run[1] && (code - run[0]) % run[2] == 0;
  return std::u32string(1, inside ? static_cast<char32_t>(code + run[3]) : code);
}

bool is_cased(char32_t code) { return is_within(kCased, code); }
bool is_case_ignorable(char32_t code) { return is_within(kIgnorable, code); }

Text to_text(std::string_view utf8) {
  Text text;
  for (std::size_t at = 0; at < utf8.size();) {
    const Character one = character_at(utf8, at);
    const auto place = static_cast<std::uint32_t>(text.size());
    text.push_back({one.valid ? one.code : U'\uFFFD', place, place + 1});
    at += one.length;
  }
  return text;
}

std::u32string to_characters(std::string_view utf8) {
  std::u32string characters;
  for (const Letter& letter : to_text(utf8)) characters += letter.code;
  return characters;
}

void append_utf8(std::string& out, char32_t code) { append_character(out, code); }

std::string to_utf8(const Text& text) {
  std::string out;
  for (const Letter& letter : text) append_utf8(out, letter.code);
  return out;
}

void check_length(const Text& text) {
  constexpr std::size_t kLongest = std::size_t{1} << 24;
  if (text.size() > kLongest) throw BundleError("a text becomes too long while it is made ready for tokens");
}

Text normalized(const Text& text, Form form) {
  const bool compatible = form == Form::nfkc || form == Form::nfkd;
  Text out;
  std::u32string parts;
  for (const Letter& letter : text) {
    parts.clear();
    decompose(letter.code, compatible, parts);
    for (const char32_t part : parts) out.push_back({part, letter.begin, letter.end});
  }
  // Marks in the order of their classes, between characters of class 0.
  for (auto first = out.begin(); first != out.end();) {
    const auto is_starter = [](const Letter& letter) { return combining_class(letter.code) == 0; };
    first = std::find_if_not(first, out.end(), is_starter);
    const auto last = std::find_if(first, out.end(), is_starter);
    std::stable_sort(first, last, [](const Letter& one, const Letter& other) {
      return combining_class(one.code) < combining_class(other.code);
    });
    first = last;
  }
  return form == Form::nfc || form == Form::nfkc ? recomposed(out) : out;
}

}  // namespace dit_deploy::tokenizer
