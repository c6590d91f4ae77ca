#include "runtime/providers.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <thread>

#include "dit_deploy/errors.hpp"
#include "runtime/cpu_ops.h"

namespace dit_deploy::runtime {
namespace {

// A field of a protobuf message that holds bytes, or another message.
std::string field(unsigned number, const std::string& content) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(content.size())} + content;
}

std::string varint(unsigned number, unsigned value) {
  return {static_cast<char>(number << 3), static_cast<char>(value)};
}

// ONNX's ValueInfoProto of float32 [2].
std::string value_info(const std::string& name) {
  const std::string shape = field(1, varint(1, 2));
  return field(1, name) + field(2, field(1, varint(1, 1) + field(2, shape)));
}

// Files in a folder of the test's own, which goes with it.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("dit_deploy_providers_" + std::to_string(unique()))) {
    std::filesystem::create_directory(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::filesystem::path file(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

  // y = −x, of two numbers.
  std::filesystem::path model() const {
    const std::string node = field(1, "x") + field(2, "y") + field(4, "Neg");
    const std::string graph = field(1, node) + field(2, "g") + field(11, value_info("x")) + field(12, value_info("y"));
    return file("model.onnx", varint(1, 8) + field(7, graph) + field(8, field(1, "") + varint(2, 17)));
  }

 private:
  static std::uint64_t unique() {
    static std::atomic<std::uint64_t> count{0};
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) + count++;
  }
  std::filesystem::path path_;
};

SessionSettings settings(const std::string& provider, const std::string& library = "") {
  SessionSettings made;
  made.providers = {provider, kCpuProvider};
  if (!library.empty()) made.provider_libraries[provider] = library;
  return made;
}

bool negates(Ort::Session& session) {
  float x[] = {3, -4};
  const std::int64_t shape[] = {2};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const auto input = Ort::Value::CreateTensor(memory, x, 2, shape, 1);
  const char *in = "x", *out = "y";
  const auto outputs = session.Run(Ort::RunOptions{}, &in, &input, 1, &out, 1);
  const float* y = outputs.front().GetTensorData<float>();
  return y[0] == -3 && y[1] == 4;
}

std::string refused(const std::filesystem::path& model, const SessionSettings& given) {
  try {
    open_session(model, given, "model.onnx of denoiser");
  } catch (const BackendError& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return "";
}

bool has(const std::vector<std::string>& providers, const std::string& name) {
  return std::find(providers.begin(), providers.end(), name) != providers.end();
}

bool begins(const std::string& text, const std::string& with) { return text.compare(0, with.size(), with) == 0; }

}  // namespace

TEST_CASE("ONNX Runtime's version and providers") {
  CHECK(begins(onnxruntime_version(), "1."));
  CHECK(has(available_providers({}), kCpuProvider));
  const auto with_plugin = available_providers({{"SomeExecutionProvider", "lib.so"}, {kCpuProvider, "lib.so"}});
  CHECK(with_plugin.back() == "SomeExecutionProvider");
  CHECK(std::count(with_plugin.begin(), with_plugin.end(), kCpuProvider) == 1);
}

TEST_CASE("the first line of a message") {
  CHECK(first_line("  one\ntwo") == "one");
  CHECK(first_line("one\r\ntwo") == "one");
  CHECK(first_line("\n \n") == "an error without a message");
  CHECK(first_line("/src/a.cc:3 void f() [ONNXRuntimeError] : 1 : FAIL : no such luck : none\nat") ==
        "no such luck : none");
  CHECK(first_line("[ONNXRuntimeError] : 1 : FAIL : ") == "[ONNXRuntimeError] : 1 : FAIL :");
  CHECK(first_line("[ONNXRuntimeError] : 1") == "[ONNXRuntimeError] : 1");
  CHECK(first_line(std::string(500, 'x')).size() < 310);
}

TEST_CASE("a session runs on the CPU, and so does one that is opened after all were closed") {
  const Folder folder;
  const auto model = folder.model();
  for (int round = 0; round < 3; ++round) {
    SessionSettings given;
    given.threads = 1;
    given.config["session.x64quantprecision"] = "1";
    const auto one = open_session(model, given, "model"), other = open_session(model, {}, "model");
    CHECK(negates(*one));
    CHECK(negates(*other));
  }
}

TEST_CASE("sessions are opened by several threads at once") {
  const Folder folder;
  const auto model = folder.model();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 5; ++round) right += negates(*open_session(model, {}, "model"));
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(right == 40);
}

TEST_CASE("the fused operators are registered, as often as sessions ask") {
  const Folder folder;
  SessionSettings given;
  given.cpu_ops = true;
  if (why_no_cpu_ops().empty()) {
    for (int round = 0; round < 3; ++round) CHECK(negates(*open_session(folder.model(), given, "model")));
  } else {
    CHECK(refused(folder.model(), given) == why_no_cpu_ops());
  }
}

TEST_CASE("a file that is no model is refused in one line") {
  const Folder folder;
  const std::string refuses = "ONNX Runtime refuses model.onnx of denoiser: ";
  CHECK(begins(refused(folder.file("text.onnx", "no model"), {}), refuses));
  CHECK(begins(refused(folder.file("empty.onnx", ""), {}), refuses));
  CHECK(begins(refused(folder.model().parent_path() / "missing.onnx", {}), refuses));
}

TEST_CASE("fewer than no threads") {
  const Folder folder;
  SessionSettings given;
  given.threads = -2;
  CHECK_THROWS_WITH_AS(open_session(folder.model(), given, "model"),
                       "threads: -2 came, expected 0 for one a core, or more", InputError);
}

TEST_CASE("a provider that is not in this ONNX Runtime is an error, not a reason to compute on the CPU") {
  const Folder folder;
  const auto here = available_providers({});
  const std::string start = "ONNX Runtime " + onnxruntime_version() + " has no ";
  const auto no = [&](const std::string& name) { return refused(folder.model(), settings(name)); };
  CHECK(begins(no("NoSuchExecutionProvider"), start + "NoSuchExecutionProvider; it has "));
  if (!has(here, kCudaProvider)) {
    CHECK(begins(no(kCudaProvider), start + "CUDAExecutionProvider; use a build of ONNX Runtime for GPUs; it has "));
  }
  if (!has(here, "NvTensorRTRTXExecutionProvider")) {
    CHECK(begins(no("NvTensorRTRTXExecutionProvider"),
                 start + "NvTensorRTRTXExecutionProvider; give the path of its library in provider_libraries"));
  }
}

TEST_CASE("a plugin whose library does not load") {
  const Folder folder;
  const auto model = folder.model();
  const std::string name = "SomeExecutionProvider", start = "ONNX Runtime: " + name + " does not load: ";
  CHECK(begins(refused(model, settings(name, "/no/such/library.so")), start));
  CHECK(begins(refused(model, settings(name, folder.file("text.so", "no library").string())), start));

  SessionSettings two = settings(name, "/no/such/library.so");
  two.providers.insert(two.providers.begin(), "OtherExecutionProvider");
  two.provider_libraries["OtherExecutionProvider"] = "/no/such/library.so";
  CHECK(refused(model, two) ==
        "ONNX Runtime: OtherExecutionProvider is a plugin here, and runs beside the CPU's provider only");
}

TEST_CASE("a plugin is registered once for all sessions, gets its options, and fails the session that it fails in") {
  const Folder folder;
  const auto model = folder.model();
  const std::string name = "DitDeployTestExecutionProvider";
  const SessionSettings given = settings(name, DIT_DEPLOY_TEST_PLUGIN);
  for (int round = 0; round < 3; ++round) {  // in an environment of its own each
    const auto one = open_session(model, given, "model"), other = open_session(model, given, "model");
    CHECK(negates(*one));
    CHECK(negates(*other));
    SessionSettings failing = given;
    failing.provider_options["fail"] = "no such luck";
    CHECK(refused(model, failing) == "ONNX Runtime refuses model.onnx of denoiser: no such luck");
    CHECK(refused(model, settings(name, "/elsewhere.so")) == "ONNX Runtime: " + name +
                                                                 " came from " DIT_DEPLOY_TEST_PLUGIN
                                                                 " before, and not from /elsewhere.so; a process has "
                                                                 "one library for a provider");
  }
}

TEST_CASE("a plugin without a device of its kind") {
  const Folder folder;
  // The library is another provider's, so that nothing of the name that was asked for appears.
  CHECK(refused(folder.model(), settings("NvTensorRTRTXExecutionProvider", DIT_DEPLOY_TEST_PLUGIN)) ==
        "ONNX Runtime: NvTensorRTRTXExecutionProvider finds no GPU that it could run on");
}

TEST_CASE("a provider of ONNX Runtime's own is appended by its name, with its options") {
  const Folder folder;
  const std::string name = "AzureExecutionProvider";  // in the package for CPUs, where it takes no node of this graph
  if (!has(available_providers({}), name)) return;
  CHECK(negates(*open_session(folder.model(), settings(name), "model")));
  SessionSettings given = settings(name);
  given.provider_options[""] = "1";
  CHECK(begins(
      refused(folder.model(), given),
      "ONNX Runtime: AzureExecutionProvider does not start on this machine, so model.onnx of denoiser would run on "
      "the CPU; its libraries, its device or an option is at fault: "));
}

}  // namespace dit_deploy::runtime
