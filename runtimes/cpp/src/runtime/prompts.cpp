#include "runtime/prompts.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>

#include "bundle/files.h"
#include "bundle/shapes.h"
#include "text.h"
#include "tokenizer/cleaning.h"
#include "tokenizer/unicode.h"

namespace dit_deploy::runtime {
namespace {

constexpr std::size_t kLongestText = 1 << 20;  // bytes
constexpr std::uint64_t kLargestTokenizer = std::uint64_t{1} << 28;

// A text cleaned as the manifest says.
std::string cleaned(const std::string& text, const std::vector<std::string>& steps, const char* what) {
  if (text.size() > kLongestText) {
    throw InputError(std::string(what) + ": " + human_size(text.size()) + " came, expected at most " +
                     human_size(kLongestText));
  }
  for (std::size_t at = 0; at < text.size();) {
    const Character one = character_at(text, at);
    if (!one.valid) {
      throw InputError(std::string(what) + ": " + quoted(std::string_view(text), 100) + " is no UTF-8 at byte " +
                       std::to_string(at));
    }
    at += one.length;
  }
  std::string clean = text;
  for (const std::string& step : steps) clean = tokenizer::cleaned(clean, step);
  return clean;
}

std::string with_prompt(const std::string& form, const std::string& text) {
  const std::size_t place = form.find("{}");
  return form.substr(0, place) + text + form.substr(place + 2);
}

// What of `text` no token stands for; `before` characters of a template stand in front of it. What was cut of a template
// behind the text is none of the user's.
std::string left_out(const std::string& text, const tokenizer::Encoding& encoding, std::size_t before) {
  if (!encoding.cut) return "";
  const std::u32string all = tokenizer::to_characters(text);
  const std::size_t read = std::min(encoding.read - std::min(encoding.read, before), all.size());
  std::string out;
  for (const char32_t code : tokenizer::stripped(std::u32string_view(all).substr(read))) {
    tokenizer::append_utf8(out, code);
  }
  return out;
}

// A tensor in the type that a component declares.
Tensor in_type(const Tensor& tensor, const bundle::TensorSpec& spec, const std::string& component) {
  if (tensor.dtype == spec.dtype) return tensor;
  if (tensor.dtype != DType::int64 || spec.dtype != DType::int32) {
    throw BundleError("the " + component + " takes " + spec.name + " as " + bundle::dtype_name(spec.dtype) +
                      ", but what makes it gives " + bundle::dtype_name(tensor.dtype) + "; export the bundle again");
  }
  std::vector<std::int32_t> narrow;
  for (std::size_t at = 0; at < tensor.data.size(); at += sizeof(std::int64_t)) {
    std::int64_t value = 0;
    std::memcpy(&value, tensor.data.data() + at, sizeof value);
    narrow.push_back(static_cast<std::int32_t>(value));
  }
  return Tensor::of(tensor.shape, narrow);
}

}  // namespace

Tensors PromptReader::read(const std::vector<std::string>& texts, bool negative, const OtherTexts& others,
                           std::vector<std::string>& warnings) {
  const bundle::Prompts& prompts = *bundle_.manifest().prompts;
  Tensors made;
  for (std::size_t place = 0; place < prompts.encoders.size(); ++place) {
    const bundle::PromptEncoder& encoder = prompts.encoders[place];
    const auto other = others.find(place);
    made.merge(
        run(encoder.component, tokens(encoder, other == others.end() ? texts : other->second, negative, warnings)));
  }
  return prompts.join ? run(*prompts.join, made) : made;
}

Tensors PromptReader::tokens(const bundle::PromptEncoder& encoder, const std::vector<std::string>& texts, bool negative,
                             std::vector<std::string>& warnings) {
  const char* what = negative ? "negative_prompt" : "prompt";
  const std::string& form = negative ? encoder.negative_template : encoder.prompt_template;
  const std::size_t before = tokenizer::to_characters(form.substr(0, form.find("{}"))).size();
  const std::string own = encoder.negative_tokenizer.value_or("");
  const std::string& path = negative && !own.empty() ? own : encoder.tokenizer;
  std::vector<std::string> clean, full;
  for (const std::string& text : texts) {
    clean.push_back(cleaned(text, encoder.cleaning, what));
    full.push_back(with_prompt(form, clean.back()));
  }
  const auto encodings = tokenizer_of(path).encode(full);
  std::vector<std::int64_t> ids, mask;
  for (std::size_t i = 0; i < encodings.size(); ++i) {
    const tokenizer::Encoding& one = encodings[i];
    if (one.ids.size() != encodings.front().ids.size()) {
      throw BundleError(bundle::shown(bundle_.path() / path) +
                        " does not pad texts to one length; give one prompt at a time");
    }
    if (const std::string rest = left_out(clean[i], one, before); !rest.empty()) {
      warnings.push_back(std::string(what) + ": the " + encoder.component + " reads " + std::to_string(one.ids.size()) +
                         " tokens; left out: " + quoted(std::string_view(rest), 400));
    }
    ids.insert(ids.end(), one.ids.begin(), one.ids.end());
    mask.insert(mask.end(), one.attention_mask.begin(), one.attention_mask.end());
  }
  const auto count = static_cast<std::int64_t>(texts.size());
  const Shape shape{count, static_cast<std::int64_t>(ids.size()) / count};
  Tensors tokens;
  tokens["input_ids"] = Tensor::of(shape, ids);
  tokens["attention_mask"] = Tensor::of(shape, mask);
  return tokens;
}

std::vector<std::int64_t> PromptReader::lengths(const std::vector<std::string>& texts) {
  std::vector<std::string> said_before;
  const Tensor mask =
      tokens(bundle_.manifest().prompts->encoders.front(), texts, false, said_before).at("attention_mask");
  const auto count = static_cast<std::size_t>(mask.shape[1]);
  std::vector<std::int64_t> one(count), lengths;
  for (std::size_t text = 0; text < texts.size(); ++text) {
    std::memcpy(one.data(), mask.data.data() + text * count * sizeof(std::int64_t), count * sizeof(std::int64_t));
    lengths.push_back(std::accumulate(one.begin(), one.end(), std::int64_t{0}));
  }
  return lengths;
}

const tokenizer::Tokenizer& PromptReader::tokenizer_of(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = tokenizers_.find(path);
  if (found != tokenizers_.end()) return found->second;
  bundle_.check_file(path);
  const auto file = bundle_.file(path);
  return tokenizers_
      .emplace(path, tokenizer::Tokenizer(bundle::read_limited(file, kLargestTokenizer), bundle::shown(file)))
      .first->second;
}

Tensors PromptReader::run(const std::string& name, const Tensors& given) {
  const bundle::Component& component = bundle_.component(name);
  Sizes sizes;
  std::map<std::string, std::string> owner;
  Tensors feeds;
  for (const bundle::TensorSpec& spec : component.inputs) {
    const Tensor& feed = feeds[spec.name] = in_type(given.at(spec.name), spec, name);
    bundle::bind_axes(spec, feed.dtype, feed.shape, sizes, owner);
  }
  return call(*components_.pool(name), name, sizes, feeds);
}

}  // namespace dit_deploy::runtime
