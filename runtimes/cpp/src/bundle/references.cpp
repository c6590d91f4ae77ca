#include "bundle/references.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "bundle/files.h"
#include "bundle/protobuf.h"
#include "bundle/record.h"
#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr int kDepth = 100;  // protobuf's own limit on nesting

enum class Message { kModel, kGraph, kNode, kAttribute, kFunction, kTrainingInfo, kSparseTensor, kTensor };

// A field of one message that holds another worth entering. Numbers: onnx/onnx.proto3 in onnx/onnx.
struct Entered {
  Message outer;
  std::uint64_t number;
  Message inner;
};
constexpr std::array<Entered, 19> kEntered{{
    {Message::kModel, 7, Message::kGraph},
    {Message::kModel, 20, Message::kTrainingInfo},
    {Message::kModel, 25, Message::kFunction},
    {Message::kGraph, 1, Message::kNode},
    {Message::kGraph, 5, Message::kTensor},
    {Message::kGraph, 15, Message::kSparseTensor},
    {Message::kNode, 5, Message::kAttribute},
    {Message::kAttribute, 5, Message::kTensor},
    {Message::kAttribute, 6, Message::kGraph},
    {Message::kAttribute, 10, Message::kTensor},
    {Message::kAttribute, 11, Message::kGraph},
    {Message::kAttribute, 22, Message::kSparseTensor},
    {Message::kAttribute, 23, Message::kSparseTensor},
    {Message::kFunction, 7, Message::kNode},
    {Message::kFunction, 11, Message::kAttribute},
    {Message::kTrainingInfo, 1, Message::kGraph},
    {Message::kTrainingInfo, 2, Message::kGraph},
    {Message::kSparseTensor, 1, Message::kTensor},
    {Message::kSparseTensor, 2, Message::kTensor},
}};
constexpr std::uint64_t kTensorName = 8, kTensorExternalData = 13, kTensorDataLocation = 14, kExternal = 1;
constexpr std::uint64_t kNodeOpType = 4, kNodeAttribute = 5, kAttributeName = 1, kAttributeI = 3, kAttributeS = 4;

std::string cut(const std::string& text, std::size_t limit) {
  std::size_t end = 0;
  for (std::size_t count = 0; count < limit && end < text.size(); ++count) end += character_at(text, end).length;
  return quoted(std::string_view(text).substr(0, end), kNoLimit);
}

std::uint64_t count_of(const std::string& text, const std::string& tensor) {
  const bool digits = !text.empty() && text.size() < 20 &&
                      std::all_of(text.begin(), text.end(), [](char one) { return one >= '0' && one <= '9'; });
  if (!digits)
    malformed("tensor " + cut(tensor, 80) + " has the offset or length " + cut(text, 40) + ", expected bytes");
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);  // 19 digits fit
  return value;
}

class Walk {
 public:
  explicit Walk(Bytes& bytes) : bytes_(bytes) {}

  References read() {
    visit(Message::kModel, 0, bytes_.size(), 0);
    return std::move(found_);
  }

 private:
  void visit(Message message, std::uint64_t start, std::uint64_t end, int depth) {
    if (depth > kDepth) malformed("messages are nested more than " + std::to_string(kDepth) + " deep");
    if (message == Message::kTensor) return visit_tensor(start, end);
    Field field;
    bool seen = false, context = false;
    for (Cursor cursor(bytes_, start, end); cursor.next(field);) {
      const auto entered = std::find_if(kEntered.begin(), kEntered.end(), [&](const Entered& one) {
        return one.outer == message && one.number == field.number;
      });
      if (field.wire == 2 && entered != kEntered.end()) {
        seen = true;
        visit(entered->inner, field.start, field.end, depth + 1);
      } else if (message == Message::kNode && field.number == kNodeOpType && field.wire == 2 && !context &&
                 bytes_.holds(field.start, field.end, "EPContext")) {
        context = true;  // named twice, it is looked at once
        visit_context(start, end);
      }
    }
    if (message == Message::kModel && !seen) malformed("it holds no graph");
  }

  void visit_tensor(std::uint64_t start, std::uint64_t end) {
    Field field;
    for (Cursor cursor(bytes_, start, end); cursor.next(field);) {
      if (field.number == kTensorExternalData ||
          (field.number == kTensorDataLocation && field.wire == 0 && field.value == kExternal))
        return describe(start, end);
    }
  }

  void describe(std::uint64_t start, std::uint64_t end) {
    ExternalData out;
    std::map<std::string, std::string> entries;
    Field field, inner;
    for (Cursor cursor(bytes_, start, end); cursor.next(field);) {
      if (field.number == kTensorName && field.wire == 2) out.tensor = bytes_.text(field.start, field.end);
      if (field.number != kTensorExternalData || field.wire != 2) continue;
      // StringStringEntryProto; where a field occurs twice the last one counts, as in protobuf.
      std::string key, value;
      for (Cursor entry(bytes_, field.start, field.end); entry.next(inner);) {
        if (inner.wire == 2 && inner.number == 1) key = bytes_.text(inner.start, inner.end);
        if (inner.wire == 2 && inner.number == 2) value = bytes_.text(inner.start, inner.end);
      }
      // Readers differ over which one counts, so neither is trusted.
      if (!entries.emplace(key, value).second)
        malformed("tensor " + cut(out.tensor, 80) + " names its " + cut(key, 40) + " twice");
    }
    const auto location = entries.find("location"), offset = entries.find("offset"), length = entries.find("length");
    if (location == entries.end())
      malformed("tensor " + cut(out.tensor, 80) + " is kept elsewhere, but no location is given");
    out.location = location->second;
    if (offset != entries.end()) out.offset = count_of(offset->second, out.tensor);
    if (length != entries.end()) out.length = count_of(length->second, out.tensor);
    found_.tensors.push_back(std::move(out));
  }

  // Adds the file that an EPContext node names; none where the engine is inside the node.
  void visit_context(std::uint64_t start, std::uint64_t end) {
    bool embedded = true;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
    Field field, inner;
    for (Cursor cursor(bytes_, start, end); cursor.next(field);) {
      if (field.number != kNodeAttribute || field.wire != 2) continue;
      std::string name;
      std::uint64_t integer = 0, first = 0, last = 0;
      for (Cursor attribute(bytes_, field.start, field.end); attribute.next(inner);) {
        if (inner.number == kAttributeName && inner.wire == 2) name = bytes_.text(inner.start, inner.end);
        if (inner.number == kAttributeI && inner.wire == 0) integer = inner.value;
        if (inner.number == kAttributeS && inner.wire == 2) {
          first = inner.start;
          last = inner.end;
        }
      }
      // Named twice, readers differ over which one counts: the one that may leave the folder does here.
      if (name == "embed_mode") embedded = embedded && integer != 0;
      if (name == "ep_cache_context" && first < last) spans.emplace_back(first, last);
    }
    if (embedded) return;
    for (const auto& [first, last] : spans) found_.contexts.push_back(bytes_.text(first, last));
  }

  Bytes& bytes_;
  References found_;
};

References read(Bytes& bytes) { return Walk(bytes).read(); }

std::string beside(const std::string& model, const std::string& location) {
  const std::string folder = parent_of(model);
  return folder.empty() ? location : folder + "/" + location;
}

}  // namespace

References read_references(const std::filesystem::path& path) { return read_onnx(path, read); }

References read_references(std::string_view data, const std::string& name) { return read_onnx(data, name, read); }

std::set<std::string> referenced_files(const std::filesystem::path& root, const std::string& model) {
  const References found = read_references(below(root, model));
  std::set<std::string> files{model};
  for (const ExternalData& tensor : found.tensors) files.insert(beside(model, tensor.location));
  for (const std::string& location : found.contexts) files.insert(beside(model, location));
  return files;
}

void check_references(const std::filesystem::path& root, const std::string& model,
                      const std::map<std::string, FileRecord>& files, const std::string& what,
                      const std::string& record) {
  const std::filesystem::path path = below(root, model);
  const auto recorded = [&](const std::string& location, const std::string& where) {
    if (!is_plain_path(location))
      throw BundleError(where + ", which leaves the " + what + " or is no plain relative path");
    const auto found = files.find(beside(model, location));
    if (found == files.end()) throw BundleError(where + ", a file that " + record + " does not record");
    return static_cast<std::uint64_t>(found->second.size);
  };
  const References found = read_references(path);
  for (const std::string& location : found.contexts)
    recorded(location, shown(path) + ": an EPContext node is kept in " + cut(location, 200));
  for (const ExternalData& tensor : found.tensors) {
    const std::string where =
        shown(path) + ": tensor " + cut(tensor.tensor, 80) + " is kept in " + cut(tensor.location, 200);
    const std::uint64_t size = recorded(tensor.location, where);
    if (tensor.offset > size || tensor.length > size - tensor.offset)
      throw IntegrityError(where + " at byte " + std::to_string(tensor.offset) + ", length " +
                           std::to_string(tensor.length) + ", but that file has " + std::to_string(size) + " bytes");
  }
}

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

bool lies_in(const std::string& path, const std::string& folder) {
  return folder.empty() || path == folder || path.rfind(folder + "/", 0) == 0;
}

}  // namespace dit_deploy::bundle
