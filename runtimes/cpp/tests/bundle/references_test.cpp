#include "bundle/references.h"

#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

std::string malformed(const std::string& data) {
  return refusal([&] { read_references(data, "m"); });
}

TEST_CASE("external data and contexts are found, embedded ones are not") {
  const References found = read_references(
      model(outside({{"location", "a.bin"}, {"offset", "4"}, {"length", "8"}})) + context_model(0, "x.engine"), "m");
  REQUIRE(found.tensors.size() == 1);
  CHECK(found.tensors[0].tensor == "weight");
  CHECK(found.tensors[0].location == "a.bin");
  CHECK(found.tensors[0].offset == 4);
  CHECK(found.tensors[0].length == 8);
  CHECK(found.contexts == std::vector<std::string>{"x.engine"});
  CHECK(read_references(context_model(1, std::string(100'000, '\xff')), "m").contexts.empty());
  CHECK(read_references(plain_model(), "m").tensors.empty());
}

TEST_CASE("malformed files") {
  const std::pair<std::string, const char*> faults[] = {
      {"", "m is no ONNX file: it is empty"},
      {"\x08", "m is no well-formed ONNX file: a number at byte 1 is cut off"},
      {"\x08" + std::string(11, '\xff'), "more than ten bytes"},
      {"\x3a\x05"
       "ab",
       "field 7 before byte 2 claims 5 of 2 bytes"},
      {"\x3a" + std::string(9, '\xff') + "\x01", "claims 18446744073709551615 of 0 bytes"},
      {"\x3a" + std::string(9, '\x80') + "\x02", "claims more than 2^64 of 0 bytes"},
      {"\x3b", "wire type 3"},
      {std::string("\x02\x00", 2), "field 0"},
      {"\x08\x07", "it holds no graph"},
      {model(outside({})), "tensor 'weight' is kept elsewhere, but no location is given"},
      {model(outside({{"location", "a"}, {"offset", "-1"}})), "has the offset or length '-1', expected bytes"},
      {model(outside({{"location", "a"}, {"length", std::string(30, '9')}})), "expected bytes"},
      {model(outside({{"location", "a"}}) + field(13, field(1, std::string("location")))),
       "names its 'location' twice"},
      {model(outside({{"location", "\xff"}})), "is no UTF-8"},
      {model(outside({{"location", std::string(65537, 'x')}})), "a name of 65537 bytes"},
  };
  for (const auto& [data, message] : faults) CHECK(has(malformed(data), message));
  std::string deep;
  for (int index = 0; index < 40; ++index) deep = field(1, field(5, field(6, deep)));
  CHECK(has(malformed(field(7, deep)), "nested more than 100 deep"));
}

TEST_CASE("every shortened and every changed file is read or refused") {
  const std::string good = model(outside({{"location", "a"}, {"length", "8"}})) + context_model(0, "x");
  const Folder folder;
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const char byte : {'\x00', '\x7f', '\xff', '\x3a'}) {
      std::string data = good;
      data[at] = byte;
      for (const std::string& one : {data, good.substr(0, at)}) {
        try {
          read_references(one, "m");
        } catch (const BundleError&) {}
      }
    }
  }
}

TEST_CASE("weights are stepped over in the file") {
  const Folder folder;
  const fs::path path = folder.path() / "large.onnx";
  const std::uint64_t hole = 3'000'000'000;
  const std::string raw = varint(9 << 3 | 2) + varint(hole);
  const std::string tensor = varint(5 << 3 | 2) + varint(raw.size() + hole);
  std::ofstream stream(path, std::ios::binary);
  stream << varint(7 << 3 | 2) + varint(tensor.size() + raw.size() + hole) << tensor << raw;
  stream.seekp(static_cast<std::streamoff>(hole), std::ios::cur);
  stream << model(outside({{"location", "late.bin"}}));
  stream.close();
  CHECK(read_references(path).tensors.at(0).location == "late.bin");
}

TEST_CASE("references must be recorded, and lie inside what is") {
  const Folder folder;
  const std::map<std::string, FileRecord> files{{"denoiser/model.data", {16, std::string(64, '0')}}};
  const auto check = [&](const std::map<std::string, std::string>& entries) {
    write(folder.path() / "denoiser/model.onnx", model(outside(entries)));
    check_references(folder.path(), "denoiser/model.onnx", files);
  };
  check({{"location", "model.data"}, {"offset", "8"}, {"length", "8"}});
  check({{"location", "model.data"}, {"offset", "16"}});
  for (const char* location : {"/etc/passwd", "../x", "a/../../x", "C:\\x", "*/_ORT_MEM_ADDR_/*", ""})
    CHECK(has(refusal([&] { check({{"location", location}}); }), "leaves the bundle or is no plain relative path"));
  CHECK(has(refusal([&] { check({{"location", "other"}}); }), "a file that the manifest does not record"));
  CHECK(has(refusal<IntegrityError>([&] { check({{"location", "model.data"}, {"offset", "8"}, {"length", "9"}}); }),
            "at byte 8, length 9, but that file has 16 bytes"));
  const std::string nines(19, '9');
  CHECK(has(refusal<IntegrityError>([&] { check({{"location", "model.data"}, {"offset", nines}, {"length", nines}}); }),
            "but that file has 16 bytes"));
  CHECK(referenced_files(folder.path(), "denoiser/model.onnx") ==
        std::set<std::string>{"denoiser/model.onnx", "denoiser/model.data"});
  CHECK(has(refusal([&] { read_references(folder.path() / "absent"); }), "cannot be read: No such file or directory"));
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
