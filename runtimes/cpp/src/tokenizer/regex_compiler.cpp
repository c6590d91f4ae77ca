#include "tokenizer/regex_compiler.h"

#include <algorithm>
#include <limits>
#include <map>

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::tokenizer {
namespace {

constexpr int kDeepest = 32;
constexpr std::size_t kLongestProgram = 20'000, kEndless = std::numeric_limits<std::size_t>::max();

const std::map<std::u32string, std::uint32_t>& categories_by_name() {
  static const std::map<std::u32string, std::uint32_t> names = [] {
    std::map<std::u32string, std::uint32_t> found{{U"C", kOther},    {U"L", kLetter},      {U"M", kMark},
                                                  {U"N", kNumber},   {U"P", kPunctuation}, {U"S", kSymbol},
                                                  {U"Z", kSeparator}};
    const char* two[] = {"Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl",
                         "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};
    unsigned index = 0;
    for (const char* name : two)
      found[{static_cast<char32_t>(name[0]), static_cast<char32_t>(name[1])}] = 1U << index++;
    return found;
  }();
  return names;
}

std::size_t added(std::size_t one, std::size_t other) { return one > kEndless - other ? kEndless : one + other; }

std::size_t times(std::size_t one, std::size_t other) {
  return one != 0 && other > kEndless / one ? kEndless : one * other;
}

}  // namespace

void RegexCompiler::compile() {
  alternatives();
  if (!at_end()) refuse("has a ) that closes nothing");
  emit({});
}

RegexCompiler::Part RegexCompiler::alternatives() {
  if (++depth_ > kDeepest) refuse("has too many groups in one another");
  Part all = sequence();
  std::vector<std::size_t> leave;  // jumps to the end
  std::size_t branch = all.begin;
  while (take(U"|")) {
    // split → this branch, or what follows it; at the branch's end, out.
    insert(branch, {Op::split, false, 0, static_cast<std::uint32_t>(branch + 1), 0});
    leave.push_back(size());
    emit({Op::jump});
    out_.program_[branch].other = static_cast<std::uint32_t>(size());
    const Part next = sequence();
    branch = next.begin;
    all.shortest = std::min(all.shortest, next.shortest);
    all.longest = std::max(all.longest, next.longest);
  }
  for (const std::size_t jump : leave) out_.program_[jump].target = static_cast<std::uint32_t>(size());
  --depth_;
  return all;
}

RegexCompiler::Part RegexCompiler::sequence() {
  Part all{size(), 0, 0};
  while (!at_end() && !next_is(U"|") && !next_is(U")")) {
    const Part part = repeated(atom());
    all.shortest = added(all.shortest, part.shortest);
    all.longest = added(all.longest, part.longest);
  }
  return all;
}

RegexCompiler::Part RegexCompiler::repeated(Part part) {
  for (;;) {
    std::size_t least = 0, most = kEndless;
    if (take(U"*")) {
    } else if (take(U"+")) {
      least = 1;
    } else if (take(U"?")) {
      most = 1;
    } else if (next_is(U"{")) {
      take();
      least = number();
      most = take(U",") ? (next_is(U"}") ? kEndless : number()) : least;
      if (!take(U"}") || least > most) refuse("repeats by braces in a way that is not known");
    } else {
      return part;
    }
    const char kind = take(U"?") ? 'l' : take(U"+") ? 'p' : 'g';  // lazy, possessive, greedy
    part = repeat(part, least, most, kind);
  }
}

// What `part` emitted, `least` to `most` times.
RegexCompiler::Part RegexCompiler::repeat(const Part& part, std::size_t least, std::size_t most, char kind) {
  if (most == kEndless && part.shortest == 0) refuse("repeats what may be empty");
  const std::size_t begin = part.begin, length = size() - begin;
  const std::vector<Regex::Instruction> body(out_.program_.begin() + static_cast<std::ptrdiff_t>(begin),
                                             out_.program_.end());
  out_.program_.resize(begin);
  const std::size_t copies = most == kEndless ? least + 1 : most;
  if (times(copies, length + 2) > kLongestProgram) refuse("is too long");
  if (kind == 'p') emit({Op::atomic});
  const auto copy = [&] {
    const auto moved = static_cast<std::uint32_t>(size() - begin);
    for (Regex::Instruction one : body) {
      if (one.op == Op::split || one.op == Op::jump || one.op == Op::look || one.op == Op::atomic) one.target += moved;
      if (one.op == Op::split) one.other += moved;
      emit(one);
    }
  };
  const auto split = [&](std::size_t in, std::size_t out) {
    const bool lazy = kind == 'l';
    out_.program_[in - 1].target = static_cast<std::uint32_t>(lazy ? out : in);
    out_.program_[in - 1].other = static_cast<std::uint32_t>(lazy ? in : out);
  };
  for (std::size_t i = 0; i < least; ++i) copy();
  if (most == kEndless) {
    const std::size_t loop = size();
    emit({Op::split});
    copy();
    emit({Op::jump, false, 0, static_cast<std::uint32_t>(loop)});
    split(loop + 1, size());
  } else {
    std::vector<std::size_t> splits;
    for (std::size_t i = least; i < most; ++i) {
      emit({Op::split});
      splits.push_back(size());
      copy();
    }
    for (const std::size_t in : splits) split(in, size());
  }
  if (kind == 'p') {
    emit({});
    out_.program_[begin].target = static_cast<std::uint32_t>(size());
  }
  return {begin, times(part.shortest, least), most == kEndless ? kEndless : times(part.longest, most)};
}

RegexCompiler::Part RegexCompiler::atom() {
  if (take(U"(")) return group();
  if (take(U"[")) return set(bracket());
  if (take(U".")) return emit({Op::any}, 1);
  if (take(U"^")) return emit({Op::line_begin});
  if (take(U"$")) return emit({Op::line_end});
  if (take(U"\\")) return escape();
  if (next_is(U"*") || next_is(U"+") || next_is(U"?")) refuse("repeats nothing");
  return character(take());
}

RegexCompiler::Part RegexCompiler::group() {
  if (take(U"?=")) return look(false, false);
  if (take(U"?!")) return look(false, true);
  if (take(U"?<=")) return look(true, false);
  if (take(U"?<!")) return look(true, true);
  const bool outside = folds_, atomic = take(U"?>");
  Part part{size(), 0, 0};
  if (atomic) emit({Op::atomic});
  if (!atomic && take(U"?")) {
    if (take(U"i")) folds_ = true;
    if (!take(U":")) refuse("has a kind of group that is not known");
  }
  const Part body = alternatives();
  if (!take(U")")) refuse("has a ( that nothing closes");
  folds_ = outside;
  part.shortest = body.shortest;
  part.longest = body.longest;
  if (atomic) {
    emit({});
    out_.program_[part.begin].target = static_cast<std::uint32_t>(size());
  }
  return part;
}

RegexCompiler::Part RegexCompiler::look(bool behind, bool negated) {
  const Part part = emit({Op::look, negated});
  const Part body = alternatives();
  if (!take(U")")) refuse("has a ( that nothing closes");
  emit({});
  if (behind && body.shortest != body.longest) refuse("looks behind for what has no one length");
  out_.program_[part.begin].target = static_cast<std::uint32_t>(size());
  out_.program_[part.begin].other = behind ? static_cast<std::uint32_t>(body.longest) : 0;
  return part;
}

RegexCompiler::Part RegexCompiler::escape() {
  if (at_end()) refuse("ends in a backslash");
  const char32_t letter = take();
  if (letter == U'A') return emit({Op::text_begin});
  if (letter == U'z') return emit({Op::text_end});
  if (letter == U'b' || letter == U'B') return emit({Op::boundary, letter == U'B'});
  CharacterSet own;
  if (add_class(own, letter)) return set(std::move(own));
  return character(escaped(letter));
}

RegexCompiler::Part RegexCompiler::character(char32_t code) {
  return emit({folds_ ? Op::folded : Op::character, false, folds_ ? folded(code) : code}, 1);
}

RegexCompiler::Part RegexCompiler::set(CharacterSet set) {
  if (folds_) set.fold();
  set.finish();
  out_.sets_.push_back(std::move(set));
  return emit({Op::set, false, 0, static_cast<std::uint32_t>(out_.sets_.size() - 1)}, 1);
}

CharacterSet RegexCompiler::bracket() {
  CharacterSet set;
  if (take(U"^")) set.negate();
  if (next_is(U"]")) refuse("has an empty class of characters");
  while (!take(U"]")) {
    if (at_end()) refuse("has a [ that nothing closes");
    if (next_is(U"[") || next_is(U"&&")) refuse("has a class of characters in another");
    char32_t first = take();
    if (first == U'\\') {
      if (at_end()) refuse("ends in a backslash");
      first = take();
      if (add_class(set, first)) continue;
      first = escaped(first);
    }
    char32_t last = first;
    if (next_is(U"-") && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != U']') {
      take();
      last = take();
      if (last == U'\\') last = at_end() ? U'\0' : escaped(take());
      if (last < first) refuse("has a range that ends before it begins");
    }
    set.add(first, last);
  }
  return set;
}

// Adds what \p, \s, \d, \w and their opposites stand for; false where `letter` is none of them.
bool RegexCompiler::add_class(CharacterSet& set, char32_t letter) {
  switch (letter) {
    case U's':
    case U'S':
      set.add_white_space(letter == U'S');
      return true;
    case U'd':
    case U'D':
      set.add_categories(bit(Category::Nd), letter == U'D');
      return true;
    case U'w':
    case U'W':
      set.add_categories(kWord, letter == U'W');
      return true;
    case U'p':
    case U'P':
      break;
    default:
      return false;
  }
  if (!take(U"{")) refuse("has a \\p without braces");
  bool negated = letter == U'P';
  if (take(U"^")) negated = !negated;
  std::u32string name;
  while (!at_end() && !next_is(U"}")) name += take();
  const auto found = categories_by_name().find(name);
  if (!take(U"}") || found == categories_by_name().end()) refuse("has a property that is not known");
  set.add_categories(found->second, negated);
  return true;
}

// The character that \letter stands for.
char32_t RegexCompiler::escaped(char32_t letter) {
  switch (letter) {
    case U'n':
      return U'\n';
    case U'r':
      return U'\r';
    case U't':
      return U'\t';
    case U'f':
      return U'\f';
    case U'v':
      return U'\v';
    case U'u':
      return hexadecimal(4);
    case U'x':
      if (take(U"{")) {
        const char32_t code = hexadecimal(6);
        if (!take(U"}")) refuse("has a \\x that is not known");
        return code;
      }
      return hexadecimal(2);
    default:
      break;
  }
  const bool letter_or_digit = letter < 128 && !is_ascii_punctuation(letter) && letter > U' ';
  if (letter_or_digit) refuse("has an escape that is not known: \\" + std::string(1, static_cast<char>(letter)));
  return letter;
}

// Up to so many digits.
char32_t RegexCompiler::hexadecimal(std::size_t digits) {
  char32_t value = 0;
  std::size_t count = 0;
  for (; count < digits && !at_end(); ++count) {
    const char32_t one = pattern_[at_];
    const char32_t lower = one >= U'A' && one <= U'F' ? one + 32 : one;
    if (lower >= U'0' && lower <= U'9') {
      value = value * 16 + (lower - U'0');
    } else if (lower >= U'a' && lower <= U'f') {
      value = value * 16 + (lower - U'a' + 10);
    } else {
      break;
    }
    ++at_;
  }
  if (count == 0 || value > 0x10FFFF) refuse("has a number of a character that is none");
  return value;
}

std::size_t RegexCompiler::number() {
  std::size_t value = 0;
  bool any = false;
  while (!at_end() && pattern_[at_] >= U'0' && pattern_[at_] <= U'9') {
    value = value * 10 + static_cast<std::size_t>(take() - U'0');
    any = true;
    if (value > kLongestProgram) refuse("is too long");
  }
  if (!any) refuse("repeats by braces in a way that is not known");
  return value;
}

bool RegexCompiler::take(std::u32string_view text) {
  if (!next_is(text)) return false;
  at_ += text.size();
  return true;
}

char32_t RegexCompiler::take() { return pattern_[at_++]; }

RegexCompiler::Part RegexCompiler::emit(Regex::Instruction instruction, std::size_t characters) {
  if (size() >= kLongestProgram) refuse("is too long");
  out_.program_.push_back(instruction);
  return {size() - 1, characters, characters};
}

// Puts an instruction before others, whose targets move with them.
void RegexCompiler::insert(std::size_t place, Regex::Instruction instruction) {
  emit({});
  out_.program_.pop_back();
  for (std::size_t index = place; index < size(); ++index) {
    Regex::Instruction& one = out_.program_[index];
    if (one.op == Op::split || one.op == Op::jump || one.op == Op::look || one.op == Op::atomic) ++one.target;
    if (one.op == Op::split) ++one.other;
  }
  out_.program_.insert(out_.program_.begin() + static_cast<std::ptrdiff_t>(place), instruction);
}

void RegexCompiler::refuse(const std::string& what) const {
  throw BundleError("the regular expression " + quoted(std::string_view(shown_), 80) + " " + what);
}

}  // namespace dit_deploy::tokenizer
