#include "tokenizer/pre_tokenizers.h"

#include <array>
#include <memory>

#include "text.h"
#include "tokenizer/fields.h"
#include "tokenizer/normalizers.h"
#include "tokenizer/splitting.h"

namespace dit_deploy::tokenizer {
namespace {

constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What splits each piece on its own.
PreTokenizer each(std::function<std::vector<Text>(Text)> splits) {
  return [splits = std::move(splits)](std::vector<Text> pieces) {
    std::vector<Text> all;
    for (Text& piece : pieces) {
      for (Text& part : splits(std::move(piece))) {
        check_length(part);
        if (!part.empty()) all.push_back(std::move(part));
      }
    }
    return all;
  };
}

PreTokenizer by_characters(bool (*matches)(char32_t), Behavior behavior) {
  return each([=](const Text& text) { return split(text, parts(text, matches), behavior); });
}

PreTokenizer by_pattern(Regex regex, Behavior behavior, bool invert) {
  return each([pattern = std::make_shared<const Regex>(std::move(regex)), behavior, invert](const Text& text) {
    auto found = parts(text, *pattern);
    return split(text, invert ? inverted(std::move(found)) : found, behavior);
  });
}

PreTokenizer sequence(std::vector<PreTokenizer> all) {
  return [all = std::move(all)](std::vector<Text> pieces) {
    for (const PreTokenizer& one : all) pieces = one(std::move(pieces));
    return pieces;
  };
}

bool is_punctuation(char32_t code) { return is_ascii_punctuation(code) || is_in(code, kPunctuation); }
bool is_numeric(char32_t code) { return is_in(code, kNumber); }

Behavior read_behavior(const Json& json, const char* otherwise) {
  const std::string name = string(json, "behavior", otherwise);
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  throw BundleError("the behavior " + quoted(std::string_view(name), 40) + " is not known");
}

Text with_prefix(Text text, char32_t prefix) {
  if (text.empty() || text.front().code == prefix) return text;
  text.insert(text.begin(), {prefix, text.front().begin, text.front().end});
  return text;
}

// GPT-2's characters for bytes: those that can be seen stand for themselves, the others follow U+0100.
std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool seen = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = seen ? byte : next++;
  }
  return characters;
}

Text as_bytes(const Text& text) {
  static const std::array<char32_t, 256> characters = byte_characters();
  Text out;
  std::string bytes;
  for (const Letter& letter : text) {
    bytes.clear();
    append_utf8(bytes, letter.code);
    for (const char byte : bytes)
      out.push_back({characters[static_cast<unsigned char>(byte)], letter.begin, letter.end});
  }
  return out;
}

PreTokenizer byte_level(const Json& json) {
  std::vector<PreTokenizer> all;
  if (flag(json, "add_prefix_space", true)) {
    all.push_back(each([](Text text) { return std::vector<Text>{with_prefix(std::move(text), U' ')}; }));
  }
  if (flag(json, "use_regex", true)) all.push_back(by_pattern(Regex(kGpt2), Behavior::isolated, false));
  all.push_back(each([](const Text& text) { return std::vector<Text>{as_bytes(text)}; }));
  return sequence(std::move(all));
}

PreTokenizer metaspace(const Json& json) {
  const std::u32string replacement = to_characters(string(json, "replacement", "▁"));
  if (replacement.size() != 1) throw BundleError("the replacement of Metaspace is not one character");
  const char32_t mark = replacement[0];
  const std::string otherwise = flag(json, "add_prefix_space", true) ? "always" : "never";
  const std::string scheme = string(json, "prepend_scheme", otherwise.c_str());
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    throw BundleError("the prepend_scheme " + quoted(std::string_view(scheme), 40) + " is not known");
  }
  const bool splits = flag(json, "split", true);
  return each([=](Text text) {
    for (Letter& letter : text) {
      if (letter.code == U' ') letter.code = mark;
    }
    const bool prepends = scheme == "always" || (scheme == "first" && !text.empty() && text.front().begin == 0);
    if (prepends) text = with_prefix(std::move(text), mark);
    if (!splits) return std::vector<Text>{std::move(text)};
    return split(text, parts(text, [mark](char32_t code) { return code == mark; }), Behavior::merged_with_next);
  });
}

}  // namespace

PreTokenizer read_pre_tokenizer(const Json& json) {
  if (json.is_null()) return [](std::vector<Text> pieces) { return pieces; };
  const std::string type = string(member(json, "type"), "type");
  if (type == "Sequence") {
    std::vector<PreTokenizer> all;
    for (const Json& one : list(json, "pretokenizers")) all.push_back(read_pre_tokenizer(one));
    return sequence(std::move(all));
  }
  if (type == "ByteLevel") return byte_level(json);
  if (type == "Metaspace") return metaspace(json);
  if (type == "Split") {
    const Behavior behavior = read_behavior(json, "");
    return by_pattern(read_pattern(member(json, "pattern")), behavior, flag(json, "invert", false));
  }
  if (type == "Whitespace") return by_pattern(Regex(R"(\w+|[^\w\s]+)"), Behavior::removed, true);
  if (type == "WhitespaceSplit") return by_characters(is_white_space, Behavior::removed);
  if (type == "BertPreTokenizer") {
    return sequence(
        {by_characters(is_white_space, Behavior::removed), by_characters(is_punctuation, Behavior::isolated)});
  }
  if (type == "Punctuation") return by_characters(is_punctuation, read_behavior(json, "Isolated"));
  if (type == "Digits") {
    const bool alone = flag(json, "individual_digits", false);
    return by_characters(is_numeric, alone ? Behavior::isolated : Behavior::contiguous);
  }
  throw BundleError("the pre_tokenizer " + quoted(std::string_view(type), 40) + " is not known");
}

}  // namespace dit_deploy::tokenizer
