// Tokenizers against transformers and the tokenizers library, whose ids tests/runtimes/cpp/golden_tokenizers.py wrote.
#include "tokenizer/tokenizer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"

namespace fs = std::filesystem;
using dit_deploy::BundleError;
using dit_deploy::tokenizer::Encoding;
using dit_deploy::tokenizer::Tokenizer;
using nlohmann::json;

namespace {

const fs::path kFolder = fs::path(DIT_DEPLOY_TEST_DATA) / "golden" / "tokenizers";

json read(const fs::path& path) {
  std::ifstream stream(path);
  REQUIRE_MESSAGE(stream, path.string(), " is missing; run `python tests/runtimes/cpp/golden_tokenizers.py`");
  return json::parse(stream);
}

// A tokenizer.json whose vocabulary is the letters a to c, with changes.
json small(const json& changes = json::object()) {
  json document = {
      {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}}}, {"merges", {"a b"}}}}};
  document.merge_patch(changes);
  return document;
}

std::vector<std::int64_t> ids(const json& document, const std::string& text) {
  return Tokenizer(document.dump(), "small").encode({text}).at(0).ids;
}

using Ids = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("tokenizers: ids, padding and what was read are those of the libraries") {
  const json texts = read(kFolder / "texts.json").at("texts");
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    const std::string name = entry.path().stem().string();
    if (name == "texts" || name == "cleaning") continue;
    ++files;
    CAPTURE(name);
    const json golden = read(entry.path());
    const Tokenizer tokenizer(golden.at("tokenizer").dump(), name);
    const auto encodings = tokenizer.encode(texts.get<std::vector<std::string>>());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const Encoding& one = encodings.at(i);
      const std::string text = texts[i].get<std::string>().substr(0, 60);
      CAPTURE(text);
      CHECK(json(one.ids) == golden.at("ids").at(i));
      REQUIRE(one.attention_mask.size() == one.ids.size());
      CHECK(std::count(one.attention_mask.begin(), one.attention_mask.end(), 0) == golden.at("padding").at(i));
      CHECK(one.cut == golden.at("cut").at(i).get<bool>());
      CHECK(one.read == golden.at("read").at(i).get<std::size_t>());
      // Alone a text is the same, where all are padded to one length or to their own.
      if (name != "qwen") continue;
      CHECK(tokenizer.encode({texts[i].get<std::string>()}).at(0).ids == one.ids);
    }
  }
  CHECK(files >= 10);
}

TEST_CASE("tokenizers: what a file may say of padding and truncation") {
  const json pads = {{"padding", {{"strategy", "BatchLongest"}, {"direction", "Right"}, {"pad_id", 2}}}};
  const auto batch = Tokenizer(small(pads).dump(), "small").encode({"a", "bbb", ""});
  CHECK(batch.at(0).ids == Ids{0, 2, 2});
  CHECK(batch.at(2).attention_mask == Ids{0, 0, 0});
  const json cuts = {{"truncation", {{"max_length", 2}, {"direction", "Left"}}}};
  CHECK(ids(small(cuts), "acb") == Ids{2, 1});
  CHECK(ids(small({{"truncation", {{"max_length", 0}}}}), "acb").empty());
  CHECK(ids(small(), "cab") == Ids{2, 3});
}

TEST_CASE("tokenizers: what is not known or does not fit is refused in one line") {
  const std::pair<json, const char*> refused[] = {
      {{{"model", nullptr}}, "model is missing"},
      {{{"model", {{"type", "Magic"}}}}, "the model 'Magic' is not known"},
      {{{"model", {{"vocab", 3}}}}, "vocab is no object"},
      {{{"model", {{"vocab", {{"a", -1}}}}}}, "an id is out of range"},
      {{{"model", {{"vocab", {{"a", 0.5}}}}}}, "an id is no whole number"},
      {{{"model", {{"merges", {"a x"}}}}}, "a merge names 'a' and 'x'"},
      {{{"model", {{"merges", {"a b c"}}}}}, "a merge is not two pieces"},
      {{{"model", {{"dropout", 0.1}}}}, "dropout makes tokens random"},
      {{{"normalizer", {{"type", "Magic"}}}}, "the normalizer 'Magic' is not known"},
      {{{"normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}}},
       "precompiled_charsmap is cut short"},
      {{{"normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "#"}}}}, "precompiled_charsmap is no base64"},
      {{{"pre_tokenizer", {{"type", "Magic"}}}}, "the pre_tokenizer 'Magic' is not known"},
      {{{"pre_tokenizer", {{"type", "Split"}, {"behavior", "Magic"}, {"pattern", {{"String", "a"}}}}}},
       "the behavior 'Magic' is not known"},
      {{{"post_processor", {{"type", "Magic"}}}}, "the post_processor 'Magic' is not known"},
      {{{"post_processor", {{"type", "BertProcessing"}, {"cls", {"a", 0}}, {"sep", {"b", 1}}}},
        {"truncation", {{"max_length", 1}}}},
       "1 tokens leave no room beside 2 special ones"},
      {{{"padding", {{"strategy", {{"Fixed", 1LL << 40}}}, {"pad_id", 0}}}}, "Fixed is out of range"},
      {{{"added_tokens", {{{"id", 3}}}}}, "content is missing"},
  };
  for (const auto& [changes, message] : refused) {
    CAPTURE(message);
    CHECK_THROWS_WITH_AS(Tokenizer(small(changes).dump(), "small"),
                         doctest::Contains(std::string("small is no tokenizer: ").c_str()), BundleError);
    CHECK_THROWS_WITH_AS(Tokenizer(small(changes).dump(), "small"), doctest::Contains(message), BundleError);
  }
  CHECK_THROWS_WITH_AS(Tokenizer("[]", "small"), doctest::Contains("small"), BundleError);
  const json unknown = {{"model", {{"unk_token", "?"}}}};
  CHECK(ids(small(unknown), "a") == Ids{0});
  CHECK_THROWS_WITH_AS(ids(small(unknown), "x"), "unk_token is not in the vocabulary", BundleError);
}
