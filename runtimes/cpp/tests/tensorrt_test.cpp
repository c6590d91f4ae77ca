// The TensorRT runner on a fake of both libraries and of the driver. An engine is a line of text, and what it computes is
// that of device_models.h, from and to the addresses that the context was given.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

#include "bundle/shapes.h"
#include "cuda_fake.h"
#include "device_models.h"
#include "host_device.h"
#include "runtime/backends.h"
#include "runtime/host_steps.h"
#include "runtime/steps.h"
#include "runtime/tensorrt_runner.h"
#include "sampling/noise.h"
#include "sampling/schedulers.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using namespace dit_deploy::runtime;
namespace fs = std::filesystem;

namespace {

const std::string kFlavours[] = {"tensorrt", "tensorrt-rtx"};

// What the tests change and count; shared by a fake library's objects.
struct World {
  FakeCuda cuda;
  bool rtx = false;
  std::string version = "10.0.fake";
  int profiles = 1;
  std::int64_t largest = 64;  // of each size, times the profile's number
  bool fails_in_capture = false, own_graph_is_empty = false, another_dtype = false, on_host = false, refits = true;
  std::string log, missing_tensor;
  std::vector<std::string> refitted;
  std::vector<bool> contexts;  // made, and whether each captures by itself
  int last_profile = -1;
  std::string cache;
};

class FakeContext final : public TensorRTContext {
 public:
  FakeContext(World& world, const bundle::Component& component, bool graphs)
      : world_(world), component_(component), graphs_(graphs) {}

  bool set_profile(int profile, void* stream) override {
    CHECK(stream != nullptr);
    world_.last_profile = profile_ = profile;
    return profile < world_.profiles;
  }
  bool set_input_shape(const std::string& name, const Shape& shape) override {
    for (const auto size : shape) {
      if (size > world_.largest * (profile_ + 1)) {
        world_.log = name + " is outside\nthe profile";
        return false;
      }
    }
    const auto* spec = component_.input(name);
    std::map<std::string, std::string> owner;
    bundle::bind_axes(*spec, spec->dtype, shape, sizes_, owner);
    return true;
  }
  std::size_t memory_size() override { return 1000; }
  void set_memory(void* address, std::size_t bytes) override {
    CHECK(bytes == 1000);
    memory_ = address;
  }
  std::vector<std::string> unknown_shapes() override { return {}; }
  Shape shape(const std::string& name) const override {
    const auto* spec = component_.input(name) != nullptr ? component_.input(name) : component_.output(name);
    return bundle::shape_of(*spec, sizes_);
  }
  bool set_address(const std::string& name, void* address) override {
    addresses_[name] = address;
    return true;
  }
  bool enqueue(void* stream) override {
    CHECK(stream != nullptr);
    CHECK_FALSE(FakeCuda::current.empty());  // TensorRT works in the thread's context
    if (world_.fails_in_capture && world_.cuda.recording) {
      world_.log = "operation not permitted when stream is capturing";
      return false;
    }
    CHECK((memory_ != nullptr) == !world_.rtx);
    if (memory_ != nullptr) CHECK(world_.cuda.holds(memory_, 1000));
    if (graphs_ && captured_ && world_.own_graph_is_empty) return true;
    captured_ = true;
    if (world_.rtx) world_.cache = "cache of " + std::to_string(sizes_["batch"]);
    world_.cuda.queue([this, addresses = addresses_] {
      compute_component(component_, [&](std::string_view name) {
        const auto found = addresses.find(std::string(name));
        if (found == addresses.end()) return Values{};
        const Shape of = shape(found->first);
        const auto count = static_cast<std::size_t>(bundle::elements(of));
        CHECK(world_.cuda.holds(found->second, count * sizeof(float)));
        return Values{static_cast<float*>(found->second), count, static_cast<std::size_t>(of[0])};
      });
    });
    return true;
  }

 private:
  World& world_;
  const bundle::Component& component_;
  bool graphs_, captured_ = false;
  int profile_ = 0;
  bundle::Sizes sizes_;
  std::map<std::string, void*> addresses_;
  void* memory_ = nullptr;
};

class FakeEngine final : public TensorRTEngine {
 public:
  FakeEngine(World& world, bundle::Component component) : world_(world), component_(std::move(component)) {}

  std::vector<std::string> tensors() const override {
    std::vector<std::string> names;
    for (const auto* specs : {&component_.inputs, &component_.outputs}) {
      for (const auto& spec : *specs) {
        if (spec.name != world_.missing_tensor) names.push_back(spec.name);
      }
    }
    return names;
  }
  std::optional<DType> dtype(const std::string& tensor) const override {
    if (world_.another_dtype && tensor == "prediction") return DType::float16;
    const auto* spec = component_.input(tensor) != nullptr ? component_.input(tensor) : component_.output(tensor);
    return spec->dtype;
  }
  bool on_device(const std::string&) const override { return !world_.on_host; }
  int profiles() const override { return world_.profiles; }
  std::pair<Shape, Shape> range(const std::string& tensor, int profile) const override {
    Shape low, high;
    for (const auto& axis : component_.input(tensor)->axes) {
      const auto* fixed = std::get_if<std::int64_t>(&axis);
      low.push_back(fixed != nullptr ? *fixed : 1);
      high.push_back(fixed != nullptr ? *fixed : world_.largest * (profile + 1));
    }
    return {low, high};
  }
  bool refit(const fs::path& graph) override {
    world_.refitted.push_back(graph.filename().string());
    return world_.refits;
  }
  std::unique_ptr<TensorRTContext> context(bool graphs) override {
    world_.contexts.push_back(graphs);
    return std::make_unique<FakeContext>(world_, component_, graphs);
  }
  bool load_cache(const std::vector<std::byte>& data) override {
    const std::string text(reinterpret_cast<const char*>(data.data()), data.size());
    if (text.find("cache") != 0) return false;
    world_.cache = text;
    return true;
  }
  std::vector<std::byte> save_cache() override {
    const auto* first = reinterpret_cast<const std::byte*>(world_.cache.data());
    return {first, first + world_.cache.size()};
  }

 private:
  World& world_;
  bundle::Component component_;
};

class FakeLibrary final : public TensorRTLibrary {
 public:
  FakeLibrary(World& world, bundle::Component component) : world_(world), component_(std::move(component)) {}

  std::string version() const override { return world_.version; }
  bool captures_itself() const override { return world_.rtx; }
  std::unique_ptr<TensorRTEngine> deserialize(const void* data, std::size_t size, std::string& diagnosis) override {
    std::istringstream text(std::string(static_cast<const char*>(data), size));
    std::string magic, version, capability, end;
    text >> magic >> version >> capability >> end;
    if (magic != "engine" || end != "end") {
      world_.log = "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.";
    } else if (version != world_.version) {
      world_.log = "The engine plan file is not compatible with this version of TensorRT, please rebuild.";
    } else if (capability != "8.9") {
      diagnosis = " UNSUPPORTED_CC";
    } else {
      return std::make_unique<FakeEngine>(world_, component_);
    }
    return nullptr;
  }
  std::string said() override { return std::exchange(world_.log, ""); }

 private:
  World& world_;
  bundle::Component component_;
};

// A folder of its own, removed at the end.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "dit-deploy-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
    fs::create_directories(path / "fp16");
    fs::create_directories(path / "cache");
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  fs::path engine(const std::string& name, const std::string& content = "engine 10.0.fake 8.9 end") const {
    const fs::path file = path / "fp16" / (name + ".engine");
    std::ofstream(file) << content;
    return file;
  }
  fs::path path;
};

struct Opened {
  std::string content = "engine 10.0.fake 8.9 end";
  std::vector<bundle::Profile> profiles;
  fs::path weights, cache;
  bool cuda_graphs = true;
};

std::unique_ptr<Runner> open(World& world, const Folder& folder, const std::shared_ptr<CudaDevice>& device,
                             const std::string& name = "denoiser", const Opened& opened = {}) {
  const auto component = name == "solver" ? bundle::solver_component(device_manifest(false)) : stub_denoiser();
  return open_tensorrt_on(std::make_unique<FakeLibrary>(world, component), device,
                          {folder.engine(name, opened.content), component, kFlavours[world.rtx ? 1 : 0],
                           opened.profiles, opened.weights, opened.cache, opened.cuda_graphs});
}

std::string refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string said = error.what();
    CHECK(said.find('\n') == std::string::npos);
    return said;
  }
  return "";
}

const Shape kShape{2, 4, 4, 12};
constexpr std::size_t kSize = 2 * 4 * 4 * 12;
constexpr std::int64_t kSteps = 5;

// One request's latents, on the device where `solver` is there.
std::vector<float> draw(BindingPool& denoiser, BindingPool* solver, std::uint64_t seed = 1) {
  const bundle::Manifest manifest = device_manifest(false);
  sampling::SolverRequest wanted;
  wanted.num_inference_steps = kSteps;
  const auto table = sampling::solver_table({{"_class_name", "DDIMScheduler"}}, wanted);
  const std::vector<Condition> conditions{{"class_labels", Tensor::of({2}, std::vector<std::int64_t>{3, 7}),
                                           Tensor::of({2}, std::vector<std::int64_t>{11, 11})}};
  sampling::Guidance guidance;
  guidance.scale = 4;
  std::vector<float> start(kSize);
  sampling::Generator(seed).draw(start.data(), kSize);
  const Run run{manifest, table, 1.0, conditions, guidance, kShape, {{"patch_height", 2}, {"patch_width", 6}}};
  if (solver != nullptr) CHECK(why_not_on_device(denoiser, solver, run) == "");
  const auto steps = open_steps(denoiser, solver, run, start.data());
  for (std::size_t row = 0; row < table.rows.size(); ++row) {
    steps->predict(row);
    steps->advance(row, nullptr);
    steps->check(table.rows[row].step);
  }
  return {steps->latents(), steps->latents() + kSize};
}

std::vector<float> hosts(std::uint64_t seed = 1) {
  std::size_t runs = 0;
  BindingPool pool(std::make_unique<StubDeviceRunner>(stub_denoiser(), std::make_shared<HostDevice>(), runs));
  return draw(pool, nullptr, seed);
}

bool close(const std::vector<float>& found, const std::vector<float>& expected) {
  float largest = 0, apart = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    apart = std::max(apart, std::abs(found[i] - expected[i]));
  }
  return found.size() == expected.size() && largest > 0 && apart <= 2e-6f * largest;
}

// A denoiser and a solver on one device.
struct Pools {
  Pools(World& world, const Folder& folder, bool cuda_graphs = true)
      : device(world.cuda.device()),
        denoiser(open(world, folder, device, "denoiser", with_graphs(cuda_graphs))),
        solver(open(world, folder, device, "solver", with_graphs(false))) {}
  static Opened with_graphs(bool graphs) {
    Opened opened;
    opened.cuda_graphs = graphs;
    return opened;
  }
  std::vector<float> draw(std::uint64_t seed = 1) { return ::draw(denoiser, &solver, seed); }

  std::shared_ptr<CudaDevice> device;
  BindingPool denoiser, solver;
};

}  // namespace

TEST_CASE("tensorrt: a whole run is the host's, and everything is freed") {
  for (const bool rtx : {false, true}) {
    CAPTURE(rtx);
    World world;
    world.rtx = rtx;
    const Folder folder;
    {
      Pools pools(world, folder);
      CHECK(close(pools.draw(), hosts()));
      const std::size_t allocated = world.cuda.allocations;
      CHECK(close(pools.draw(), hosts()));
      // samples, saved ones, zeros, noise, m_0; coefficients, channels, ones, magnitude
      CHECK(world.cuda.allocations - allocated == 4 + 3 + 4);
      CHECK(pools.denoiser.runner().warnings().empty());
    }
    // With the full library the first run warms up, is compared with, and is replayed; then there are only replays. RTX
    // has its own.
    CHECK(world.cuda.launches == (rtx ? 0 : 1 + 4 + 5));
    CHECK(world.contexts == (rtx ? std::vector<bool>{false, true, false} : std::vector<bool>{false, false}));
    CHECK(world.cuda.held.empty());
    CHECK(world.cuda.graphs.empty());
    CHECK(world.cuda.contexts == 0);
    CHECK(FakeCuda::current.empty());
  }
}

TEST_CASE("tensorrt: it serves host arrays too") {
  for (const bool rtx : {false, true}) {
    World world;
    world.rtx = rtx;
    const Folder folder;
    Pools pools(world, folder);
    CHECK(close(::draw(pools.denoiser, nullptr), hosts()));
  }
}

TEST_CASE("tensorrt: a bad capture is told, and the picture is right") {
  for (const char* fault : {"captures nothing", "capture fails", "fails in capture"}) {
    CAPTURE(fault);
    World world;
    const Folder folder;
    Pools pools(world, folder);
    world.cuda.captures_nothing = fault == std::string("captures nothing");
    world.cuda.capture_fails = fault == std::string("capture fails");
    world.fails_in_capture = fault == std::string("fails in capture");
    CHECK(close(pools.draw(), hosts()));
    const auto warnings = pools.denoiser.runner().warnings();
    REQUIRE(warnings.size() == 1);
    CHECK(warnings[0].find("denoiser.engine of fp16 runs without a CUDA graph, somewhat slower: ") == 0);
    const char* reason = world.cuda.captures_nothing
                             ? "its first replay is not the ordinary run: prediction is not finite"
                             : "it cannot be captured: ";
    CHECK(warnings[0].find(reason) != std::string::npos);
    const std::size_t launches = world.cuda.launches;
    CHECK(close(pools.draw(), hosts()));
    CHECK(world.cuda.launches == launches);
  }
}

TEST_CASE("tensorrt: RTX's own graph is not trusted either") {
  World world;
  world.rtx = world.own_graph_is_empty = true;
  const Folder folder;
  Pools pools(world, folder);
  CHECK(close(pools.draw(), hosts()));
  CHECK(pools.denoiser.runner().warnings().size() == 1);
  CHECK(close(pools.draw(), hosts()));
}

TEST_CASE("tensorrt: without CUDA graphs") {
  for (const bool rtx : {false, true}) {
    World world;
    world.rtx = rtx;
    const Folder folder;
    Pools pools(world, folder, false);
    CHECK(close(pools.draw(), hosts()));
    CHECK(world.cuda.launches == 0);
    CHECK(world.contexts == std::vector<bool>{false, false});
  }
}

TEST_CASE("tensorrt: threads share a runner") {
  World world;
  const Folder folder;
  Pools pools(world, folder);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < found.size(); ++i) threads.emplace_back([&, i] { found[i] = pools.draw(i); });
  for (auto& thread : threads) thread.join();
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(close(found[i], hosts(i)));
}

TEST_CASE("tensorrt: profiles choose the context") {
  World world;
  world.profiles = 2;
  const Folder folder;
  const auto device = world.cuda.device();
  const auto profile = [](std::int64_t low, std::int64_t high) {
    return bundle::Profile{
        {{"batch", {1, 2, 4}}, {"patch_height", {low, low, high}}, {"patch_width", {low, low, high}}}};
  };
  Opened opened;
  opened.profiles = {profile(2, 4), profile(4, 16)};
  const auto runner = open(world, folder, device, "denoiser", opened);
  runner->bind({{"batch", 2}, {"patch_height", 8}, {"patch_width", 8}});
  CHECK(world.last_profile == 1);
  runner->bind({{"batch", 2}, {"patch_height", 2}, {"patch_width", 3}});
  CHECK(world.last_profile == 0);
  const std::string said = refused([&] { runner->bind({{"batch", 2}, {"patch_height", 17}, {"patch_width", 8}}); });
  CHECK(said.find("no profile of this engine holds") != std::string::npos);

  world.largest = 4;
  const auto asked = open(world, folder, device);
  asked->bind({{"batch", 1}, {"patch_height", 1}, {"patch_width", 1}});
  CHECK(world.last_profile == 0);
  asked->bind({{"batch", 5}, {"patch_height", 1}, {"patch_width", 1}});
  CHECK(world.last_profile == 1);
  CHECK(
      refused([&] { asked->bind({{"batch", 9}, {"patch_height", 1}, {"patch_width", 1}}); }) ==
      "denoiser.engine of fp16: no profile holds latents [9, 4, 2, 2], timestep [9], class_labels [9]; build an engine "
      "for this size");
}

TEST_CASE("tensorrt: engines of other machines, and files that are none") {
  for (const bool rtx : {false, true}) {
    World world;
    world.rtx = rtx;
    const Folder folder;
    const auto device = world.cuda.device();
    const std::string title = rtx ? "TensorRT-RTX" : "TensorRT";
    const auto refusal = [&](const std::string& content) {
      Opened opened;
      opened.content = content;
      return refused([&] { open(world, folder, device, "denoiser", opened); });
    };
    const std::string mend = "build the engine again for this machine with `dit-deploy build-engine`";
    CHECK(refusal("engine 9.9 8.9 end") == title + " refuses denoiser.engine of fp16: another version of " + title +
                                               " built it, here is 10.0.fake: " + mend + ", or install that version");
    CHECK(refusal("engine 10.0.fake 9.0 end") ==
          title + " refuses denoiser.engine of fp16: it was built for another GPU than Fake RTX 4090 (8.9): " + mend);
    CHECK(refusal("engine 10.0") ==
          title + " refuses denoiser.engine of fp16: it is cut short, or no engine: copy it again, or build it again");
    CHECK(refusal("") == title + " refuses denoiser.engine of fp16: it is empty; copy it again, or build it again");
    const auto nowhere = folder.path / "nowhere.engine";
    CHECK(refused([&] {
            open_tensorrt_on(std::make_unique<FakeLibrary>(world, stub_denoiser()), device,
                             {nowhere, stub_denoiser(), kFlavours[0], {}, {}, {}, true});
          }) == nowhere.string() + " cannot be read: No such file or directory");
    CHECK(refused([&] {
            open_tensorrt_on(std::make_unique<FakeLibrary>(world, stub_denoiser()), device,
                             {folder.path, stub_denoiser(), kFlavours[0], {}, {}, {}, true});
          }) == folder.path.string() + " cannot be read: Is a directory");
  }
}

TEST_CASE("tensorrt: an engine of another signature") {
  World world;
  const Folder folder;
  const auto device = world.cuda.device();
  world.missing_tensor = "variance";
  CHECK(refused([&] { open(world, folder, device); }) ==
        "denoiser.engine of fp16 has inputs and outputs class_labels, latents, prediction, timestep, expected "
        "class_labels, latents, prediction, timestep, variance; build it again");
  world.missing_tensor = "";
  world.another_dtype = true;
  CHECK(refused([&] { open(world, folder, device); }) ==
        "denoiser.engine of fp16: prediction is float16, expected float32; build it again");
  world.another_dtype = false;
  world.on_host = true;
  CHECK(refused([&] { open(world, folder, device); }) ==
        "denoiser.engine of fp16: latents is a shape on the host, which no component has; build it again");
  world.on_host = false;
  world.largest = 2;
  Opened opened;
  opened.profiles = {
      bundle::Profile{{{"batch", {1, 1, 99}}, {"patch_height", {1, 1, 99}}, {"patch_width", {1, 1, 99}}}}};
  const auto runner = open(world, folder, device, "denoiser", opened);
  CHECK(
      refused([&] { runner->bind({{"batch", 9}, {"patch_height", 1}, {"patch_width", 1}}); }) ==
      "TensorRT: denoiser.engine of fp16 does not take latents of shape [9, 4, 2, 2]: latents is outside the profile");
}

TEST_CASE("tensorrt: an engine without weights is filled") {
  World world;
  const Folder folder;
  const auto device = world.cuda.device();
  Opened opened;
  opened.weights = folder.path / "fp16" / "denoiser.onnx";
  open(world, folder, device, "denoiser", opened);
  CHECK(world.refitted == std::vector<std::string>{"denoiser.onnx"});
  world.refits = false;
  CHECK(refused([&] { open(world, folder, device, "denoiser", opened); }) ==
        "TensorRT: denoiser.engine of fp16 does not take the weights of denoiser.onnx");
}

TEST_CASE("tensorrt: what RTX compiled is kept and given back") {
  World world;
  world.rtx = true;
  const Folder folder;
  const fs::path file = folder.path / "cache" / "rtx-10.0.fake-Fake-RTX-4090-fp16-denoiser.cache";
  const auto device = world.cuda.device();
  const auto run = [&](const fs::path& cache) {
    Opened opened;
    opened.cache = cache;
    BindingPool pool(open(world, folder, device, "denoiser", opened));
    pool.borrow({{"batch", 1}, {"patch_height", 2}, {"patch_width", 2}})->run();
  };
  const auto kept = [&] {
    std::ifstream stream(file);
    return std::string{std::istreambuf_iterator<char>(stream), {}};
  };
  run(folder.path / "cache");
  CHECK(kept() == "cache of 1");
  world.cache.clear();
  Opened opened;
  opened.cache = folder.path / "cache";
  open(world, folder, device, "denoiser", opened);
  CHECK(world.cache == "cache of 1");
  std::ofstream(file) << "of another driver";
  run(folder.path / "cache");
  CHECK(kept() == "cache of 1");
  CHECK(std::distance(fs::directory_iterator(folder.path / "cache"), {}) == 1);
  run(folder.path / "no such folder");  // costs time only
  world.rtx = false;
  fs::remove(file);
  run(folder.path / "cache");
  CHECK_FALSE(fs::exists(file));
}

TEST_CASE("tensorrt: this build says what it has") {
  for (const std::string& flavour : kFlavours) {
    const std::string said = refused([&] { open_tensorrt("nowhere.engine", stub_denoiser(), flavour, {}, {}); });
    CHECK_FALSE(said.empty());
    if (said.find("has no TensorRT") != std::string::npos) CHECK(tensorrt_version(flavour) == "");
  }
}
