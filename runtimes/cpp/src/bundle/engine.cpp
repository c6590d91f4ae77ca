#include "bundle/engine.h"

#include <algorithm>

#include "bundle/json.h"
#include "bundle/record.h"
#include "bundle/references.h"
#include "bundle/sha256.h"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr char kFormat[] = "dit-deploy-engine";
constexpr char kHow[] = "an engine is a folder made by `dit-deploy build-engine BUNDLE`";
constexpr char kRecord[] = "engine.json";

bool is_digit(char one) { return one >= '0' && one <= '9'; }

// Whether `text` is like `model`, in which 0 stands for any digit.
bool is_like(std::string_view text, std::string_view model) {
  return text.size() == model.size() && std::equal(text.begin(), text.end(), model.begin(), [](char one, char like) {
           return like == '0' ? is_digit(one) : one == like;
         });
}

bool fits_time(std::string_view text) { return is_like(text, "0000-00-00T00:00:00Z"); }
bool fits_capability(std::string_view text) {
  return (is_like(text, "0.0") || is_like(text, "00.0")) && text[0] != '0';
}
const Pattern kTime{R"(^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$)", fits_time};
const Pattern kCapability{R"(^[1-9][0-9]?\.[0-9]$)", fits_capability};
const Pattern kEngineName{"^[A-Za-z0-9_][A-Za-z0-9._-]*$", is_engine_name, 100};

SizeRange read_range(const Json& value, const Place& where, Faults& faults) {
  const std::size_t before = faults.count();
  SizeRange range;
  Fields fields(value, where, faults);
  fields.integer("minimum", range.minimum, 1);
  fields.integer("optimum", range.optimum, 1);
  fields.integer("maximum", range.maximum, 1);
  fields.finish();
  if (faults.count() == before && (range.minimum > range.optimum || range.optimum > range.maximum))
    faults.add(where, "minimum " + std::to_string(range.minimum) + ", optimum " + std::to_string(range.optimum) +
                          ", maximum " + std::to_string(range.maximum) + " came, expected minimum ≤ optimum ≤ maximum");
  return range;
}

Profile read_profile(const Json& value, const Place& where, Faults& faults) {
  Profile profile;
  Fields fields(value, where, faults);
  fields.each("sizes", true, [&](const std::string& name, const Json& range, const Place& place) {
    check_key(name, place, faults, kName);
    profile.sizes[name] = read_range(range, place, faults);
  });
  fields.not_empty("sizes");
  fields.finish();
  return profile;
}

// A length of time, which the runtime does not use.
void check_seconds(Fields& fields, Faults& faults, bool required) {
  const Json* value = fields.find("seconds", required);
  const Place place = fields.where().at("seconds");
  if (value != nullptr && check_number(*value, place, faults) && value->get<double>() < 0)
    faults.add(place, "input should be greater than or equal to 0", *value);
}

EngineComponent read_component(const Json& value, const Place& where, Faults& faults) {
  EngineComponent component;
  Fields fields(value, where, faults);
  fields.string("path", component.path);
  fields.choice("kind", component.kind, {"onnx", "tensorrt"});
  fields.string("graph", component.graph, kSha256);
  fields.list("profiles", false, 0, [&](const Json& profile, const Place& place) {
    component.profiles.push_back(read_profile(profile, place, faults));
  });
  fields.each("kept", false,
              [&](const std::string&, const Json& reason, const Place& place) { check_string(reason, place, faults); });
  check_seconds(fields, faults, false);
  fields.finish();
  return component;
}

Target read_target(const Json& value, const Place& where, Faults& faults) {
  Target target;
  Fields fields(value, where, faults);
  fields.choice("device", target.device, {"cpu", "cuda"});
  fields.string("provider", target.provider);
  fields.list("compute_capabilities", false, 0, [&](const Json& one, const Place& place) {
    if (check_string(one, place, faults, &kCapability)) target.compute_capabilities.push_back(one.get<std::string>());
  });
  const Json* operators = fields.find("operators", false);
  if (operators != nullptr && !operators->is_null()) {
    if (operators->is_string() && operators->get_ref<const std::string&>() == "cpu_ops") {
      target.operators = "cpu_ops";
    } else {
      faults.add(where.at("operators"), "input should be 'cpu_ops'", *operators);
    }
  }
  fields.finish();
  return target;
}

// What Python takes for true.
bool is_set(const Json& value) {
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return value.is_boolean() ? value.get<bool>() : !value.empty();
}

void read_options(const Json& options, EngineRecord& record) {
  const auto compatible = options.find("version_compatible"), strip = options.find("strip_weights");
  record.version_compatible = compatible != options.end() && compatible->is_boolean() && compatible->get<bool>();
  record.strip_weights = strip != options.end() && is_set(*strip);
}

std::string wrong_name(const std::string& name) {
  return name == "auto" || name == "onnx"
             ? quoted(name) + " has a meaning of its own and names no engine; use another name"
             : "";
}

// What of the whole record does not fit together; empty where all does.
std::string wrong_as_a_whole(const EngineRecord& record) {
  for (const auto& [name, component] : record.components) {
    if (record.files.count(component.path) == 0) return component.path + " is named but has no record under files";
    if (component.kind == "tensorrt" && record.backend == "onnxruntime")
      return name + " is of kind tensorrt, but the backend is onnxruntime";
  }
  return record.key == engine_key(record.key_parts) ? "" : "key is not the SHA-256 over key_parts";
}

// Adds a string as Python's json.dumps writes it in ASCII.
void append_ascii(std::string& out, std::string_view text) {
  const auto escape = [&](char32_t unit) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += "0123456789abcdef"[unit >> shift & 15U];
  };
  constexpr std::string_view kShort = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const Character one = character_at(text, at);
    at += one.length;
    const std::size_t found = one.code < 0x80 ? kShort.find(static_cast<char>(one.code)) : std::string_view::npos;
    if (found != std::string_view::npos) {
      out += '\\';
      out += kLetters[found];
    } else if (one.code >= 0x20 && one.code < 0x7f) {
      out += static_cast<char>(one.code);
    } else if (one.code >= 0x10000) {
      escape(0xd800 + ((one.code - 0x10000) >> 10));
      escape(0xdc00 + ((one.code - 0x10000) & 0x3ff));
    } else {
      escape(one.code);
    }
  }
  out += '"';
}

}  // namespace

bool is_engine_name(std::string_view name) {
  return name.size() <= 100 && name.find('/') == std::string_view::npos && is_plain_path(name);
}

EngineRecord parse_engine(std::string_view data, const std::string& name) {
  const Json document = read_ordered_object(data, name);
  check_version(document, name, kFormat, "record of an engine", kHow, "engine");
  EngineRecord record;
  Faults faults;
  const Place root;
  Fields fields(document, root, faults);
  fields.find("format", false);
  fields.find("version", false);
  fields.string("name", record.name, kEngineName);
  const std::string misnamed = wrong_name(record.name);
  if (!misnamed.empty()) faults.add(root.at("name"), misnamed);
  fields.string("created_by", record.created_by);
  fields.string("created", record.created, kTime);
  fields.choice("backend", record.backend, {"onnxruntime", "tensorrt-rtx", "tensorrt"});
  fields.string("backend_version", record.backend_version);
  fields.choice("precision", record.precision, {"fp32", "fp16", "bf16", "int8", "fp8"});
  if (const Json* target = fields.find("target", true)) record.target = read_target(*target, root.at("target"), faults);
  fields.each("components", true, [&](const std::string& key, const Json& value, const Place& place) {
    check_key(key, place, faults, kName);
    record.components[key] = read_component(value, place, faults);
  });
  fields.not_empty("components");
  fields.string("key", record.key, kSha256);
  fields.each("key_parts", true, [&](const std::string& key, const Json& value, const Place& place) {
    if (check_string(value, place, faults)) record.key_parts[key] = value.get<std::string>();
  });
  fields.each("options", false, [](const std::string&, const Json&, const Place&) {});
  const Json* options = fields.find("options", false);
  if (options != nullptr && options->is_object()) read_options(*options, record);
  check_seconds(fields, faults, true);
  const Json* parity = fields.find("parity", false);
  if (parity != nullptr && !parity->is_null()) {
    const Fields measured(*parity, root.at("parity"), faults);
    const auto passed = parity->is_object() ? parity->find("passed") : parity->end();
    if (passed != parity->end() && passed->is_boolean()) record.parity_passed = passed->get<bool>();
  }
  const std::size_t before = faults.count();
  std::string wrong;  // the first path that is
  fields.each("files", true, [&](const std::string& path, const Json& value, const Place& place) {
    record.files[path] = read_file_record(value, place, faults);
    if (!wrong.empty()) return;
    if (!is_plain_path(path)) wrong = not_plain(path);
    if (path == kRecord) wrong = path + " cannot record itself";
  });
  if (faults.count() == before && !wrong.empty()) faults.add(root.at("files"), wrong);
  fields.finish();
  if (faults.count() == 0) {
    const std::string misfits = wrong_as_a_whole(record);
    if (!misfits.empty()) faults.add(root, misfits);
  }
  faults.raise(name, "engine");
  return record;
}

std::string engine_key(const std::map<std::string, std::string>& key_parts) {
  std::string text = "{";
  for (const auto& [key, value] : key_parts) {
    if (text.size() > 1) text += ',';
    append_ascii(text, key);
    text += ':';
    append_ascii(text, value);
  }
  return sha256(text + "}");
}

std::string graph_digest(const Manifest& manifest, const std::string& component) {
  if (component == kSolver)
    return sha256("[\"" + std::string(kSolver) + "\",\"" + graph_digest(manifest, "denoiser") + "\"]");
  const Component* found = manifest.component(component);
  if (found == nullptr) throw InputError("the bundle has no component " + quoted(component));
  const std::string folder = parent_of(found->path);
  std::string text = "[";
  for (const auto& [path, record] : manifest.files) {
    if (!lies_in(path, folder)) continue;
    text += text.size() > 1 ? ",[\"" : "[\"";
    text += path + "\"," + std::to_string(record.size) + ",\"" + record.sha256 + "\"]";
  }
  return sha256(text + "]");
}

}  // namespace dit_deploy::bundle
