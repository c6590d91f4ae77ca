#include "dit_deploy_run/options.h"

#include <charconv>
#include <cstddef>
#include <functional>
#include <limits>

namespace dit_deploy::run {

namespace {

using Values = std::vector<std::string>;

struct Option {
  std::string name;      // "--eta"; of a pair, the one that switches on
  std::string opposite;  // "--guidance-apart"
  std::string metavar;   // empty for a flag
  std::string help;
  std::string shown_default;
  std::size_t values = 1;
  std::function<void(Arguments&, const Values&)> set;
};

[[noreturn]] void invalid(const std::string& name, const std::string& text, const std::string& why) {
  throw UsageError("Invalid value for '" + name + "': " + in_quotes(text) + " " + why + ".");
}

std::int64_t integer(const std::string& name, const std::string& text) {
  const std::optional<std::int64_t> number = whole_number(text);
  if (!number) invalid(name, text, "is not a valid integer");
  return *number;
}

std::uint64_t seed(const std::string& name, const std::string& text) {
  std::uint64_t value = 0;
  const std::string_view digits = std::string_view(text).substr(text.rfind('+', 0) == 0 ? 1 : 0);
  const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (failed == std::errc() && end == digits.data() + digits.size()) return value;
  if (failed != std::errc::result_out_of_range && !whole_number(text)) invalid(name, text, "is not a valid integer");
  throw InputError("seed: " + text + " came, 0 <= seed < 2**64 was expected");
}

double real(const std::string& name, const std::string& text) {
  double value = 0;
  const std::string_view digits = std::string_view(text).substr(text.rfind('+', 0) == 0 ? 1 : 0);
  const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (failed != std::errc() || end != digits.data() + digits.size()) invalid(name, text, "is not a valid float");
  return value;
}

std::int64_t at_least_1(const std::string& name, const std::string& text) {
  const std::int64_t number = integer(name, text);
  if (number < 1 || number > std::numeric_limits<int>::max()) {
    throw UsageError("Invalid value for '" + name + "': " + text + " is not in the range x>=1.");
  }
  return number;
}

// Kinds of options: what a member of Arguments gets.
template <class Member>
Option option(const char* name, const char* metavar, Member Arguments::* member, const char* help,
              const char* shown_default = "") {
  const auto set = [name, member](Arguments& arguments, const Values& values) {
    const std::string& text = values.front();
    if constexpr (std::is_same_v<Member, double> || std::is_same_v<Member, std::optional<double>>) {
      arguments.*member = real(name, text);
    } else if constexpr (std::is_same_v<Member, std::optional<std::int64_t>>) {
      arguments.*member = integer(name, text);
    } else if constexpr (std::is_same_v<Member, std::vector<std::uint64_t>>) {
      (arguments.*member).push_back(seed(name, text));
    } else if constexpr (std::is_same_v<Member, std::vector<std::string>>) {
      (arguments.*member).push_back(text);
    } else {
      arguments.*member = text;
    }
  };
  return {name, "", metavar, help, shown_default, 1, set};
}

Option flag(const char* name, bool Arguments::* member, const char* help) {
  return {name, "", "", help, "", 0, [member](Arguments& arguments, const Values&) { arguments.*member = true; }};
}

const std::vector<Option>& options() {
  using A = Arguments;
  static const std::vector<Option> table = {
      option("--class-label", "N|NAME", &A::class_label,
             "Class to draw, by number or name. Again for each further picture."),
      option("--prompt", "TEXT", &A::prompt,
             "What to draw, for a bundle with text encoders. Again for each further prompt."),
      option("--negative-prompt", "TEXT", &A::negative_prompt,
             "What to keep away from. One for all prompts, or again for each.", "(the model's own)"),
      option("--prompt-2", "TEXT", &A::prompt_2, "What the second text encoder reads instead.", "(the prompt)"),
      option("--prompt-3", "TEXT", &A::prompt_3, "What the third text encoder reads instead.", "(the prompt)"),
      {"--images-per-prompt", "", "N", "Pictures of each prompt.", "1; x>=1", 1,
       [](A& arguments, const Values& values) {
         arguments.images_per_prompt = at_least_1("--images-per-prompt", values.front());
       }},
      option("--steps", "N", &A::steps, "Denoising steps.", "(the model's own)"),
      option("--scheduler", "NAME", &A::scheduler, "A diffusers scheduler, such as DPMSolverMultistepScheduler.",
             "(the model's own)"),
      option("--eta", "X", &A::eta, "Stochasticity of DDIM, 0 to 1.", "0.0"),
      option("--guidance-scale", "X", &A::guidance_scale,
             "The model's main knob: mostly classifier-free guidance, none at 1 and below.", "(the model's own)"),
      option("--guidance-scale-2", "X", &A::guidance_scale_2, "Of the second of two denoisers (Wan 2.2).",
             "(that of the first)"),
      option("--true-cfg-scale", "X", &A::true_cfg_scale,
             "Classifier-free guidance of a model whose own is embedded, or none (FLUX).", "1.0"),
      option("--guidance-channels", "N|all|model", &A::guidance_channels,
             "How many leading latent channels are guided.", "model"),
      {"--guidance-interval", "", "FROM TO", "Guide in this part of the steps only, as fractions.", "0.0, 1.0", 2,
       [](A& arguments, const Values& values) {
         arguments.guidance_interval = {real("--guidance-interval", values[0]), real("--guidance-interval", values[1])};
       }},
      option("--guidance-rescale", "X", &A::guidance_rescale,
             "Pull the guided prediction back to its former deviation, 0 to 1.", "0.0"),
      {"--guidance-batched", "--guidance-apart", "", "Both halves in one call, or in two with half the memory.",
       "guidance-batched", 0,
       [](A& arguments, const Values& values) { arguments.guidance_batched = values.front() == "--guidance-batched"; }},
      {"--skip-guidance-layer", "", "N",
       "Skip-layer guidance: a block that a third call leaves out; again for each (SD 3.5 Medium: 7, 8, 9).", "(none)",
       1,
       [](A& arguments, const Values& values) {
         arguments.skip_guidance_layer.push_back(integer("--skip-guidance-layer", values.front()));
       }},
      option("--skip-layer-guidance-scale", "X", &A::skip_layer_guidance_scale,
             "How strongly skip-layer guidance acts.", "2.8"),
      {"--skip-layer-guidance-interval", "", "FROM TO",
       "Skip-layer guidance in this part of the steps only, as fractions.", "0.01, 0.2", 2,
       [](A& arguments, const Values& values) {
         arguments.skip_layer_guidance_interval = {real("--skip-layer-guidance-interval", values[0]),
                                                   real("--skip-layer-guidance-interval", values[1])};
       }},
      option("--seed", "N", &A::seed,
             "One for all pictures, or again for each. Several with one class or prompt draw it once each.",
             "(random, and printed)"),
      option("--height", "PIXELS", &A::height, "Height.", "(the training size)"),
      option("--width", "PIXELS", &A::width, "Width.", "(the training size)"),
      option("--frames", "N", &A::frames, "Pictures of a video.", "(the model's own)"),
      option("--fps", "X", &A::fps, "Pictures a second of a video.", "(the model's own)"),
      option("--init-image", "FILE", &A::init_image,
             "Picture to start from, or that a video begins with. One, or again for each sample."),
      option("--last-image", "FILE", &A::last_image, "Picture that a video ends with, where the model can."),
      option("--init-video", "FOLDER", &A::init_video,
             "Video to start from: its pictures, in the order of their names."),
      option("--strength", "X", &A::strength, "How much of what it starts from is redrawn, 0 to 1.", "(0.8)"),
      option("--window-frames", "N", &A::window_frames, "Pictures of a long video that the denoiser sees at a time.",
             "(all)"),
      option("--window-overlap", "N", &A::window_overlap, "Pictures that neighbouring windows share.",
             "(about a quarter)"),
      option("--vae-tile", "PIXELS|model", &A::vae_tile,
             "Larger pictures go through the VAE in pieces of this size, in the memory of one; model: in those that "
             "diffusers has for this model.",
             "(in one piece)"),
      option("--vae-memory", "BYTES", &A::vae_memory,
             "What the VAE may take beside its weights, such as 2G: pieces that fit are chosen by it.", "(no limit)"),
      option("--decode-timestep", "X", &A::decode_timestep, "For a VAE decoder that removes noise itself (LTX-Video).",
             "(0)"),
      option("--decode-noise-scale", "X", &A::decode_noise_scale, "How much noise it is given.", "(--decode-timestep)"),
      flag("--low-memory", &A::low_memory, "Keep one component in memory at a time; slower."),
      flag("--grid", &A::grid, "All pictures on one contact sheet; a row for each video."),
      {"--columns", "", "N", "Columns of the contact sheet.", "(nearly square); x>=1", 1,
       [](A& arguments, const Values& values) { arguments.columns = at_least_1("--columns", values.front()); }},
      option("--engine", "NAME", &A::engine,
             "An engine of the bundle; onnx for the plain graphs; auto for the best that runs here.", "auto"),
      {"--threads", "", "N", "Threads within an operator.", "(one a core); x>=1", 1,
       [](A& arguments, const Values& values) { arguments.threads = at_least_1("--threads", values.front()); }},
      flag("--overwrite", &A::overwrite, "Replace files that are there."),
      {"--provider-library", "", "NAME=PATH",
       "Library of a plugin execution provider of ONNX Runtime. Again for each further one.", "", 1,
       [](A& arguments, const Values& values) {
         const std::size_t split = values.front().find('=');
         if (split == std::string::npos || split == 0 || split + 1 == values.front().size()) {
           invalid("--provider-library", values.front(), "is not NAME=PATH");
         }
         arguments.provider_library[values.front().substr(0, split)] = values.front().substr(split + 1);
       }},
      flag("--verify", &A::verify,
           "Check every file of BUNDLE by its hash instead; exit with 1 where one is not as recorded."),
      flag("--version", &A::version, "Print the version and exit."),
      flag("--help", &A::help, "Show this message and exit."),
  };
  return table;
}

const Option* find(const std::string& name) {
  for (const Option& one : options()) {
    if (name == one.name || (name == one.opposite && !name.empty())) return &one;
  }
  return nullptr;
}

// Letters on a terminal: bytes of UTF-8 that begin one.
std::size_t columns_of(std::string_view text) {
  std::size_t count = 0;
  for (const char byte : text) count += (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U ? 1 : 0;
  return count;
}

// `text` in lines of at most `width` columns, each after the first with `indent` blanks before it.
std::string wrapped(const std::string& text, std::size_t width, std::size_t indent) {
  std::string out;
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const std::size_t size = columns_of(word);
    if (line > 0 && line + 1 + size > width) {
      out += "\n" + std::string(indent, ' ');
      line = 0;
    } else if (line > 0) {
      out += ' ';
      ++line;
    }
    out += word;
    line += size;
    begin = end + 1;
  }
  return out;
}

constexpr std::size_t kWidth = 78, kIndent = 34;

std::string row(const std::string& left, const std::string& right, std::size_t indent) {
  const std::string begin = "  " + left;
  const bool fits = begin.size() + 2 <= indent;
  return begin + (fits ? std::string(indent - begin.size(), ' ') : "\n" + std::string(indent, ' ')) +
         wrapped(right, kWidth - indent, indent) + "\n";
}

}  // namespace

std::optional<std::int64_t> whole_number(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char letter : text) out += letter >= '\0' && letter < ' ' ? ' ' : letter;
  return out + "'";
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  std::vector<std::string> places;
  bool only_places = false;
  for (std::size_t at = 0; at < words.size(); ++at) {
    const std::string& word = words[at];
    if (only_places || word.size() < 2 || word[0] != '-') {
      places.push_back(word);
      continue;
    }
    if (word == "--") {
      only_places = true;
      continue;
    }
    const std::size_t split = word.rfind("--", 0) == 0 ? word.find('=') : std::string::npos;
    const std::string name = word == "-h" ? "--help" : word.substr(0, split);
    const Option* option = find(name);
    if (option == nullptr) throw UsageError("No such option: " + name + ".");
    Values values;
    if (split != std::string::npos) {
      if (option->values == 0) throw UsageError("Option '" + name + "' does not take a value.");
      values.push_back(word.substr(split + 1));
    }
    while (values.size() < option->values) {
      if (++at == words.size()) {
        const std::string count = option->values == 1 ? "an argument" : std::to_string(option->values) + " arguments";
        throw UsageError("Option '" + name + "' requires " + count + ".");
      }
      values.push_back(words[at]);
    }
    if (option->values == 0) values.push_back(name);
    option->set(arguments, values);
  }
  if (arguments.help || arguments.version) return arguments;
  const std::size_t wanted = arguments.verify ? 1 : 2;
  if (places.empty()) throw UsageError("Missing argument 'BUNDLE'.");
  if (places.size() < wanted) throw UsageError("Missing argument 'OUT'.");
  if (places.size() > wanted) throw UsageError("Got unexpected extra argument (" + places[wanted] + ").");
  arguments.bundle = places[0];
  if (wanted == 2) arguments.out = places[1];
  return arguments;
}

std::string help() {
  constexpr std::size_t kArguments = 17;
  std::string out =
      "Usage: dit-deploy-run [OPTIONS] BUNDLE OUT\n"
      "       dit-deploy-run --verify BUNDLE\n"
      "\n"
      "  Draw pictures, one for each --class-label, or --images-per-prompt for each\n"
      "  --prompt.\n"
      "\n"
      "  Exit status: 0 done; 1 a check failed (--verify); 2 bad input; 3 a defect\n"
      "  of dit-deploy; 130 interrupted.\n"
      "\n"
      "Arguments:\n";
  out += row("BUNDLE <path>", "A bundle's folder.  [required]", kArguments);
  out +=
      row("OUT <path>",
          "A .png or .jpg file for one picture or a grid; a folder (0000.png, …) for several, or for the frames of a "
          "video.  [required]",
          kArguments);
  out += "\nOptions:\n";
  for (const Option& one : options()) {
    std::string left = one.name == "--help" ? "-h, --help" : one.name;
    if (!one.opposite.empty()) left += " / " + one.opposite;
    if (!one.metavar.empty()) left += " " + one.metavar;
    out += row(left, one.help + (one.shown_default.empty() ? "" : "  [default: " + one.shown_default + "]"), kIndent);
  }
  return out;
}

}  // namespace dit_deploy::run
