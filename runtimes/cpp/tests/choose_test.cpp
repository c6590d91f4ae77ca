// Machines and engines are made up here, as in tests/runtimes/test_fit.py; tests/runtimes/cpp/test_choose_twins.py holds
// the same functions against Python's, with engines on disk.
#include "runtime/choose.h"

#include <doctest/doctest.h>

#include <fstream>

#include "runtime/providers.h"

namespace dit_deploy::runtime {
namespace {

using bundle::EngineRecord;

const char kRtx[] = "NvTensorRTRTXExecutionProvider";

Machine laptop() {
  Machine machine;
  machine.gpu_note = "no NVIDIA driver is installed";
  machine.versions = {{"onnxruntime", "1.32.0"}};
  machine.providers = {kCpuProvider};
  return machine;
}

Machine workstation() {
  Machine machine;
  machine.compute_capabilities = {"8.9", "12.0"};
  machine.versions = {{"onnxruntime", "1.32.0"}, {"tensorrt-rtx", "1.7.1.116"}, {"tensorrt", "10.14.1.48.post1"}};
  machine.providers = {kCpuProvider, kCudaProvider, kRtx};
  return machine;
}

Machine with(const std::string& backend, const std::string& version) {
  Machine machine = workstation();
  machine.versions[backend] = version;
  return machine;
}

// An engine for TensorRT-RTX on 8.0 or 8.9.
EngineRecord rtx(const std::string& version = "1.7.1.116", bool version_compatible = false) {
  EngineRecord record;
  record.name = "fast";
  record.backend = "tensorrt-rtx";
  record.backend_version = version;
  record.precision = "fp16";
  record.target.device = "cuda";
  record.target.compute_capabilities = {"8.0", "8.9"};
  record.version_compatible = version_compatible;
  return record;
}

EngineRecord onnx(const std::string& version = "1.32.0", const std::string& provider = kCpuProvider) {
  EngineRecord record = rtx(version);
  record.backend = "onnxruntime";
  record.target = {};
  record.target.device = provider == kCpuProvider ? "cpu" : "cuda";
  record.target.provider = provider;
  return record;
}

bool ends(const std::string& text, const std::string& with) {
  return text.size() >= with.size() && text.compare(text.size() - with.size(), with.size(), with) == 0;
}

}  // namespace

TEST_CASE("what fits") {
  CHECK(unfit(rtx(), workstation()) == "");
  EngineRecord any_gpu = rtx();
  any_gpu.target.compute_capabilities.clear();
  CHECK(unfit(any_gpu, workstation()) == "");
  EngineRecord tensorrt = rtx("10.14.1.48");  // a package's number is longer
  tensorrt.backend = "tensorrt";
  CHECK(unfit(tensorrt, workstation()) == "");
  CHECK(unfit(rtx("1.2.0", true), workstation()) == "");
  CHECK(unfit(onnx(), laptop()) == "");
  CHECK(unfit(onnx("1.23.5"), laptop()) == "");
  CHECK(unfit(onnx("1.32.7"), laptop()) == "");  // a patch release changes no operator
  CHECK(unfit(onnx("1.9.0"), laptop()) == "");
  CHECK(unfit(onnx("1.32.0", kCudaProvider), workstation()) == "");
  CHECK(unfit(onnx("1.7.1.116", kRtx), workstation()) == "");
  // A provider that brings its own library says itself what it does not take.
  Machine plugin = workstation();
  plugin.versions = {{"onnxruntime", "1.32.0"}};
  CHECK(unfit(onnx("1.6.0", kRtx), plugin) == "");
}

TEST_CASE("what does not fit, and why") {
  CHECK(unfit(rtx(), laptop()) ==
        "it is for TensorRT-RTX 1.7.1.116 on compute capability 8.0 or 8.9; this machine has no NVIDIA GPU (no NVIDIA "
        "driver "
        "is installed)");
  EngineRecord blackwell = rtx();
  blackwell.target.compute_capabilities = {"12.0"};
  CHECK(unfit(blackwell, workstation()) ==
        "it is for TensorRT-RTX 1.7.1.116 on compute capability 12.0; this machine's GPU has compute capability 8.9");
  CHECK(ends(unfit(rtx(), with("tensorrt-rtx", "1.7.2.1")),
             "; this machine has TensorRT-RTX 1.7.2.1: build it again here, or install 1.7.1.116"));
  CHECK(lacks(rtx(), with("tensorrt-rtx", "1.7.1.117")) != "");
  CHECK(lacks(rtx("1.7.1.116", true), with("tensorrt-rtx", "1.7.0.2")) != "");
  CHECK(lacks(rtx("1.7.1.116", true), with("tensorrt-rtx", "2.0")) != "");
  CHECK(ends(
      unfit(onnx("1.33.0"), laptop()),
      "it is for ONNX Runtime 1.33.0 with CPUExecutionProvider; this machine has ONNX Runtime 1.32.0: build it again "
      "here, or install 1.33.0"));
  CHECK(lacks(onnx("2.0.0"), laptop()) != "");
  CHECK(lacks(onnx("99999999999999999999.1"), laptop()) != "");
  CHECK(ends(
      unfit(onnx("1.32.0", kCudaProvider), laptop()),
      "with CUDAExecutionProvider on an NVIDIA GPU; this machine has no NVIDIA GPU (no NVIDIA driver is installed)"));
  Machine without_provider = workstation();
  without_provider.providers = {kCpuProvider};
  CHECK(lacks(onnx("1.32.0", kCudaProvider), without_provider) ==
        "this machine's ONNX Runtime 1.32.0 has no CUDAExecutionProvider");
  CHECK(unfit(onnx("1.7.0", kRtx), workstation()) ==
        "it is for TensorRT-RTX 1.7.0 in ONNX Runtime with NvTensorRTRTXExecutionProvider on an NVIDIA GPU; this "
        "machine has "
        "TensorRT-RTX 1.7.1.116: build it again here, or install 1.7.0");

  Machine without_backend = workstation();
  without_backend.versions.erase("tensorrt-rtx");
  CHECK(lacks(rtx(), without_backend).find("this machine has no TensorRT-RTX that this library can load: ") == 0);
}

TEST_CASE("the fused operators") {
  EngineRecord fused = onnx();
  fused.target.operators = "cpu_ops";
  CHECK(unfit(fused, laptop()) == "");
  Machine machine = laptop();
  machine.cpu_ops_note = "no operators here";
  CHECK(unfit(fused, machine) ==
        "it is for ONNX Runtime 1.32.0 with CPUExecutionProvider and the fused INT8 operators; no operators here");
}

TEST_CASE("this machine is what its libraries say") {
  const Machine machine = this_machine(true, {{"SomeExecutionProvider", "lib.so"}});
  CHECK(machine.versions.at("onnxruntime") == onnxruntime_version());
  CHECK(machine.providers.back() == "SomeExecutionProvider");
  CHECK(machine.compute_capabilities.empty() == !machine.gpu_note.empty());
  CHECK(unfit(onnx(onnxruntime_version()), machine) == "");
  const Machine no_driver = this_machine(false, {});
  CHECK(no_driver.compute_capabilities.empty());
  CHECK(no_driver.gpu_note.empty());
}

TEST_CASE("VNNI is what the system says of the processor") {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.compare(0, 5, "flags") != 0) continue;
  line += ' ';
  const auto flag = [&](const char* name) { return line.find(" " + std::string(name) + " ") != std::string::npos; };
  CHECK(cpu_has_vnni() == (flag("avx512_vnni") || flag("avx_vnni")));
}

}  // namespace dit_deploy::runtime
