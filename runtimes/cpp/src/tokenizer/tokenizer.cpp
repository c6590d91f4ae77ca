#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "bundle/json.h"
#include "text.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/fields.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizers.h"
#include "tokenizer/pre_tokenizers.h"

namespace dit_deploy::tokenizer {
namespace {

using Ids = std::vector<std::int64_t>;

// The special tokens around a text.
struct Around {
  Ids before, behind;
  std::size_t size() const { return before.size() + behind.size(); }
};

// ["[CLS]", 101]
std::int64_t read_named_id(const Json& json, const char* key) {
  const Json& pair = list(json, key);
  if (pair.size() != 2) throw BundleError(std::string(key) + " is no pair of a token and its id");
  return whole(pair[1], key, kLargestId);
}

// What TemplateProcessing puts around a single text.
Around read_template(const Json& json) {
  Around around;
  bool seen = false;  // the text itself
  for (const Json& one : list(json, "single")) {
    if (const Json* own = find(one, "Sequence")) {
      if (seen || string(member(*own, "id"), "id") != "A") throw BundleError("a template holds more than one text");
      seen = true;
      continue;
    }
    const std::string name = string(member(member(one, "SpecialToken"), "id"), "id");
    for (const Json& id : list(member(member(json, "special_tokens"), name.c_str()), "ids")) {
      (seen ? around.behind : around.before).push_back(whole(id, "ids", kLargestId));
    }
  }
  if (!seen) throw BundleError("a template holds no text");
  return around;
}

Around read_post_processor(const Json* json) {
  if (json == nullptr) return {};
  const std::string type = string(member(*json, "type"), "type");
  if (type == "TemplateProcessing") return read_template(*json);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return {{read_named_id(*json, "cls")}, {read_named_id(*json, "sep")}};
  }
  if (type == "ByteLevel") return {};  // it moves places in the text only
  if (type != "Sequence") {
    throw BundleError("the post_processor " + quoted(std::string_view(type), 40) + " is not known");
  }
  Around all;
  for (const Json& one : list(*json, "processors")) {
    const Around own = read_post_processor(&one);
    all.before.insert(all.before.begin(), own.before.begin(), own.before.end());
    all.behind.insert(all.behind.end(), own.behind.begin(), own.behind.end());
  }
  return all;
}

// "Left" or "Right".
bool read_left(const Json& json) {
  const std::string direction = string(json, "direction", "Right");
  if (direction != "Left" && direction != "Right") throw BundleError("direction is neither Left nor Right");
  return direction == "Left";
}

struct Truncation {
  std::size_t length = std::numeric_limits<std::size_t>::max();  // of the text, without special tokens
  bool left = false;
};

Truncation read_truncation(const Json* json, std::size_t special) {
  if (json == nullptr) return {};
  const auto length = static_cast<std::size_t>(whole(member(*json, "max_length"), "max_length", kMostTokens));
  if (length < special) {
    throw BundleError("truncation: " + std::to_string(length) + " tokens leave no room beside " +
                      std::to_string(special) + " special ones");
  }
  return {length - special, read_left(*json)};
}

struct Padding {
  bool pads = false, left = false;
  std::optional<std::size_t> length;  // nothing: that of the longest text
  std::size_t multiple = 1;
  std::int64_t id = 0;
};

Padding read_padding(const Json* json) {
  if (json == nullptr) return {};
  Padding padding;
  padding.pads = true;
  padding.left = read_left(*json);
  padding.id = whole(member(*json, "pad_id"), "pad_id", kLargestId);
  if (const Json* multiple = find(*json, "pad_to_multiple_of")) {
    padding.multiple =
        static_cast<std::size_t>(std::max<std::int64_t>(1, whole(*multiple, "pad_to_multiple_of", kMostTokens)));
  }
  const Json& strategy = member(*json, "strategy");
  if (strategy.is_object()) {
    padding.length = static_cast<std::size_t>(whole(member(strategy, "Fixed"), "Fixed", kMostTokens));
  } else if (string(strategy, "strategy") != "BatchLongest") {
    throw BundleError("padding: the strategy " + quoted(std::string_view(string(strategy, "strategy")), 40) +
                      " is not known");
  }
  return padding;
}

}  // namespace

struct Tokenizer::Parts {
  explicit Parts(const Json& json)
      : normalizer(read_normalizer(json.value("normalizer", Json()))),
        added(find(json, "added_tokens"), normalizer),
        pre_tokenizer(read_pre_tokenizer(json.value("pre_tokenizer", Json()))),
        model(read_model(member(json, "model"))),
        around(read_post_processor(find(json, "post_processor"))),
        truncation(read_truncation(find(json, "truncation"), around.size())),
        padding(read_padding(find(json, "padding"))) {}

  Encoding encode(const std::string& text) const {
    std::vector<Token> tokens;
    added.split(
        to_text(text), normalizer,
        [&](Text piece) {
          std::vector<Text> pieces;
          pieces.push_back(std::move(piece));
          for (const Text& one : pre_tokenizer(std::move(pieces))) model->tokenize(one, tokens);
        },
        [&](const Token& token) { tokens.push_back(token); });
    Encoding encoding;
    if (tokens.size() > truncation.length) {
      encoding.cut = true;
      const auto kept = static_cast<std::ptrdiff_t>(truncation.length);
      truncation.left ? tokens.erase(tokens.begin(), tokens.end() - kept)
                      : tokens.erase(tokens.begin() + kept, tokens.end());
    }
    encoding.ids = around.before;
    for (const Token& token : tokens) {
      encoding.ids.push_back(token.id);
      encoding.read = std::max<std::size_t>(encoding.read, token.end);
    }
    encoding.ids.insert(encoding.ids.end(), around.behind.begin(), around.behind.end());
    encoding.attention_mask.assign(encoding.ids.size(), 1);
    return encoding;
  }

  void pad(std::vector<Encoding>& encodings) const {
    if (!padding.pads) return;
    std::size_t length = padding.length.value_or(0);
    if (!padding.length) {
      for (const Encoding& one : encodings) length = std::max(length, one.ids.size());
    }
    length += (padding.multiple - length % padding.multiple) % padding.multiple;
    for (Encoding& one : encodings) {
      if (one.ids.size() >= length) continue;
      const std::size_t count = length - one.ids.size();
      one.ids.insert(padding.left ? one.ids.begin() : one.ids.end(), count, padding.id);
      one.attention_mask.insert(padding.left ? one.attention_mask.begin() : one.attention_mask.end(), count, 0);
    }
  }

  const Normalizer normalizer;
  const AddedTokens added;
  const PreTokenizer pre_tokenizer;
  const std::unique_ptr<const Model> model;
  const Around around;
  const Truncation truncation;
  const Padding padding;
};

Tokenizer::Tokenizer(std::string_view data, const std::string& name) {
  const Json document = bundle::read_object(data, name);
  try {
    parts_ = std::make_unique<const Parts>(document);
  } catch (const BundleError& error) {
    throw BundleError(name + " is no tokenizer: " + error.what());
  }
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<Encoding> Tokenizer::encode(const std::vector<std::string>& texts) const {
  std::vector<Encoding> encodings;
  for (const std::string& text : texts) encodings.push_back(parts_->encode(text));
  parts_->pad(encodings);
  return encodings;
}

}  // namespace dit_deploy::tokenizer
