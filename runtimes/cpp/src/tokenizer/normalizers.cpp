#include "tokenizer/normalizers.h"

#include <algorithm>
#include <memory>

#include "text.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/fields.h"
#include "tokenizer/splitting.h"

namespace dit_deploy::tokenizer {
namespace {

template <typename Drop>
Text without(Text text, Drop drop) {
  text.erase(std::remove_if(text.begin(), text.end(), [&](const Letter& one) { return drop(one.code); }), text.end());
  return text;
}

Text lowercased(const Text& text) {
  Text out;
  for (const Letter& letter : text) {
    for (const char32_t code : lowercase(letter.code)) out.push_back({code, letter.begin, letter.end});
  }
  return out;
}

bool is_chinese(char32_t code) {
  constexpr char32_t kRanges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                                     {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [&](const auto& range) { return range[0] <= code && code <= range[1]; });
}

Text cleaned(Text text) {
  text = without(std::move(text), [](char32_t code) {
    if (code == U'\t' || code == U'\n' || code == U'\r') return false;
    return code == 0 || code == 0xFFFD || is_in(code, kOther & ~bit(Category::Cn));
  });
  for (Letter& letter : text) {
    if (is_white_space(letter.code)) letter.code = U' ';
  }
  return text;
}

Text with_spaces_around_chinese(const Text& text) {
  Text out;
  for (const Letter& letter : text) {
    const bool chinese = is_chinese(letter.code);
    if (chinese) out.push_back({U' ', letter.begin, letter.end});
    out.push_back(letter);
    if (chinese) out.push_back({U' ', letter.begin, letter.end});
  }
  return out;
}

Normalizer bert(const Json& json) {
  const bool lower = flag(json, "lowercase", true), clean = flag(json, "clean_text", true);
  const bool strip = flag(json, "strip_accents", lower), chinese = flag(json, "handle_chinese_chars", true);
  return [=](Text text) {
    if (clean) text = cleaned(std::move(text));
    if (chinese) text = with_spaces_around_chinese(text);
    if (strip) {
      text = without(normalized(text, Form::nfd), [](char32_t code) { return category(code) == Category::Mn; });
    }
    return lower ? lowercased(text) : text;
  };
}

Text nmt(Text text) {
  text = without(std::move(text), [](char32_t code) {
    return (code >= 0x1 && code <= 0x8) || code == 0xB || (code >= 0xE && code <= 0x1F) || code == 0x7F ||
           code == 0x8F || code == 0x9F;
  });
  constexpr char32_t kSpaces[] = {0x9,    0xA,    0xC,    0xD,    0x1680, 0x200B, 0x200C, 0x200D,
                                  0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD};
  for (Letter& letter : text) {
    if (std::find(std::begin(kSpaces), std::end(kSpaces), letter.code) != std::end(kSpaces)) letter.code = U' ';
  }
  return text;
}

Normalizer strip(bool left, bool right) {
  return [=](Text text) {
    const auto is_kept = [](const Letter& letter) { return !is_white_space(letter.code); };
    if (right) text.erase(std::find_if(text.rbegin(), text.rend(), is_kept).base(), text.end());
    if (left) text.erase(text.begin(), std::find_if(text.begin(), text.end(), is_kept));
    return text;
  };
}

Normalizer prepend(std::u32string prefix) {
  return [prefix = std::move(prefix)](Text text) {
    if (text.empty()) return text;
    Text all;
    for (const char32_t code : prefix) all.push_back({code, text.front().begin, text.front().end});
    all.insert(all.end(), text.begin(), text.end());
    return all;
  };
}

Normalizer sequence(const Json& json) {
  std::vector<Normalizer> all;
  for (const Json& one : list(json, "normalizers")) all.push_back(read_normalizer(one));
  return [all = std::move(all)](Text text) {
    for (const Normalizer& one : all) {
      text = one(std::move(text));
      check_length(text);
    }
    return text;
  };
}

}  // namespace

Regex read_pattern(const Json& json) {
  if (const Json* text = find(json, "String")) return Regex::literal(string(*text, "String"));
  return Regex(string(member(json, "Regex"), "Regex"));
}

Normalizer read_normalizer(const Json& json) {
  if (json.is_null()) return [](Text text) { return text; };
  const std::string type = string(member(json, "type"), "type");
  const auto form = [](Form one) { return [one](const Text& text) { return normalized(text, one); }; };
  if (type == "Sequence") return sequence(json);
  if (type == "NFC") return form(Form::nfc);
  if (type == "NFD") return form(Form::nfd);
  if (type == "NFKC") return form(Form::nfkc);
  if (type == "NFKD") return form(Form::nfkd);
  if (type == "Lowercase") return lowercased;
  if (type == "BertNormalizer") return bert(json);
  if (type == "Nmt") return nmt;
  if (type == "Strip") return strip(flag(json, "strip_left", true), flag(json, "strip_right", true));
  if (type == "Prepend") return prepend(to_characters(string(member(json, "prepend"), "prepend")));
  if (type == "StripAccents") {
    return [](Text text) { return without(std::move(text), [](char32_t code) { return is_in(code, kMark); }); };
  }
  if (type == "Replace") {
    const auto pattern = std::make_shared<const Regex>(read_pattern(member(json, "pattern")));
    return [pattern, by = to_characters(string(member(json, "content"), "content"))](const Text& text) {
      return replaced(text, *pattern, by);
    };
  }
  if (type == "Precompiled") {
    const auto map =
        std::make_shared<const Charsmap>(string(member(json, "precompiled_charsmap"), "precompiled_charsmap"));
    return [map](const Text& text) { return map->apply(text); };
  }
  throw BundleError("the normalizer " + quoted(std::string_view(type), 40) + " is not known");
}

}  // namespace dit_deploy::tokenizer
