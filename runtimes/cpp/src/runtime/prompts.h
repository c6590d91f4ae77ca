// Prompts → the denoiser's conditions: tokenizers and text encoders of the bundle; runtimes/prompts.py.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "runtime/components.h"
#include "runtime/conditions.h"
#include "tokenizer/tokenizer.h"

namespace dit_deploy::runtime {

// Turns texts into conditions. Tokenizers and encoders are loaded when the first prompt is read; several threads may use
// one.
class PromptReader {
 public:
  // Both outlive the reader.
  PromptReader(const bundle::Bundle& bundle, Components& components) : bundle_(bundle), components_(components) {}

  // The conditions that the texts make, by name, [texts, …]; `others` are as many texts, which the encoder at that place reads
  // instead: 1 is the second. A text that is longer than an encoder reads is cut, with a line in `warnings` that quotes what
  // was left out. Throws InputError for a text that is no UTF-8, BundleError for a tokenizer or encoder that was altered or
  // cannot be read, BackendError for an encoder that failed.
  Tensors read(const std::vector<std::string>& texts, bool negative, const OtherTexts& others,
               std::vector<std::string>& warnings);
  // How many tokens of each text are no padding, by the first encoder's tokenizer.
  std::vector<std::int64_t> lengths(const std::vector<std::string>& texts);

 private:
  // input_ids and attention_mask of one encoder, int64 [texts, tokens].
  Tensors tokens(const bundle::PromptEncoder& encoder, const std::vector<std::string>& texts, bool negative,
                 std::vector<std::string>& warnings);
  const tokenizer::Tokenizer& tokenizer_of(const std::string& path);
  // Runs a component on tensors of which it takes those that it declares.
  Tensors run(const std::string& name, const Tensors& given);

  const bundle::Bundle& bundle_;
  Components& components_;
  std::mutex mutex_;
  std::map<std::string, tokenizer::Tokenizer> tokenizers_;
};

}  // namespace dit_deploy::runtime
