#include <sys/stat.h>

#include <thread>

#include "bundle/bundle.h"
#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

// A bundle in a folder of its own, to be broken.
struct Tiny {
  Tiny() { write_bundle(root); }
  std::string refused() const {
    return refusal([&] { Bundle::open(root); });
  }
  std::string altered() const {
    return refusal<IntegrityError>([&] { Bundle::open(root); });
  }
  void rewrite(const std::function<void(Document&)>& change) const {
    Document document = read_document(root / "manifest.json");
    change(document);
    write_manifest(root, document);
  }
  std::string graph() const { return graph_digest(Bundle::open(root).manifest(), "denoiser"); }

  Folder folder;
  fs::path root = folder.path() / "tiny";
};

TEST_CASE("a bundle opens, by any name for its folder") {
  const Tiny tiny;
  const Bundle opened = Bundle::open(tiny.root / "." / "x" / ".." / "");
  CHECK(opened.path() == tiny.root);
  CHECK(opened.component_path("denoiser") == tiny.root / "denoiser/model.onnx");
  CHECK(opened.scheduler_config()["clip_sample_range"].get<double>() < 0);
  CHECK(opened.engine_names().empty());
  CHECK(verify(tiny.root).empty());
  opened.check("denoiser");
  CHECK(has(refusal([&] { opened.component("text_encoder"); }),
            "has no component 'text_encoder'; it has denoiser, vae_decoder"));
  for (const char* path : {"../secret", "manifest.json", "denoiser", "/etc/passwd"})
    CHECK(has(refusal([&] { opened.file(path); }), "the manifest records no file"));
  fs::create_directory_symlink(tiny.root, tiny.folder.path() / "link");
  CHECK(Bundle::open(tiny.folder.path() / "link").manifest().family == "dit");
}

TEST_CASE("what is no bundle") {
  const Folder folder;
  const auto refused = [](const fs::path& path) { return refusal([&] { Bundle::open(path); }); };
  CHECK(has(refused(folder.path() / "absent"), "there is no " + (folder.path() / "absent").string() + "; a bundle is"));
  CHECK(has(refused(std::string("a\0b", 3)), "there is no a\\x00b"));
  CHECK(has(refused(std::string(5000, 'x')), "cannot be opened: File name too long"));
  CHECK(has(refused(folder.path() / ".x.tmp-12-0a"), "is an unfinished bundle"));
  CHECK(has(refused(folder.path()), "is no bundle: it is empty"));
  for (const char* name : {"a", "b", "c", "d", "e\x1b"}) write(folder.path() / name, "");
  CHECK(has(refused(folder.path()), "it holds a, b, c, d and 1 more, but no manifest.json"));
  CHECK(has(refused(folder.path() / "a"), "a is a file"));
  write(folder.path() / "config.json", "");
  CHECK(has(refused(folder.path()), "it looks like a diffusers model (config.json); run `dit-deploy export "));
}

TEST_CASE("a manifest that was altered, or is not to be had") {
  const Tiny tiny;
  const fs::path path = tiny.root / "manifest.json";
  Document document = read_document(path);
  document["prediction"]["type"] = "sample";
  write(path, document.dump());
  CHECK(has(tiny.altered(), "manifest.json is not the one that was written: its SHA-256 is not that in"));
  tiny.rewrite([](Document&) {});
  CHECK(Bundle::open(tiny.root).manifest().prediction.type == "sample");
  fs::remove(tiny.root / "manifest.json.sha256");
  CHECK(has(tiny.altered(), "manifest.json.sha256 is missing; copy the bundle again"));
  write(path, std::string((16 << 20) + 1, ' '));
  CHECK(has(tiny.refused(), "manifest.json is larger than 16.8 MB, the most that is read of it"));
  fs::remove(path);
  fs::create_symlink("nowhere", path);
  CHECK(has(tiny.altered(), "manifest.json is missing"));
  fs::remove(path);
  fs::create_directory(path);
  CHECK(has(tiny.refused(), "manifest.json is no regular file"));
}

TEST_CASE("files that are missing, of another size, or no files") {
  const Tiny tiny;
  const fs::path data = tiny.root / "denoiser/model.onnx.data";
  write(data, "short");
  CHECK(has(tiny.altered(), "model.onnx.data has 5 bytes, but the manifest says 16; copy the bundle again"));
  fs::remove(data);
  CHECK(has(tiny.altered(), "model.onnx.data is missing"));
  fs::create_directory(data);
  CHECK(has(tiny.refused(), "is no regular file"));
  fs::remove(data);
  REQUIRE(::mkfifo(data.c_str(), 0600) == 0);
  CHECK(has(tiny.refused(), "is no regular file"));
}

TEST_CASE("links that leave are refused, others followed") {
  const Tiny tiny;
  const fs::path data = tiny.root / "denoiser/model.onnx.data", out = tiny.folder.path() / "out";
  fs::rename(data, out);
  fs::create_symlink(out, data);
  CHECK(has(tiny.refused(), "is a link that leaves the bundle, to " + out.string()));
  fs::remove(data);
  fs::create_symlink("model.onnx.data", data);
  tiny.refused();  // a link to itself
  fs::remove(data);
  fs::rename(out, tiny.root / "denoiser/inside");
  fs::create_symlink("inside", data);
  Bundle::open(tiny.root);
  for (const char* target : {"..", "/nowhere/at/all", "../nowhere", "denoiser/../../tiny2"}) {
    fs::create_symlink(target, tiny.root / "extra");
    CHECK(has(tiny.refused(), "extra is a link that leaves the bundle, to "));
    fs::remove(tiny.root / "extra");
  }
  fs::create_symlink("nowhere", tiny.root / "extra");
  Bundle::open(tiny.root);
}

TEST_CASE("the scheduler's config is checked") {
  const Tiny tiny;
  const Bundle opened = Bundle::open(tiny.root);
  for (const auto& [text, message] : {std::pair("{}", "names no scheduler"), std::pair("[]", "expected a JSON object"),
                                      std::pair("{\"a\": NaN}", "NaN is not a JSON number"),
                                      std::pair("{\"_class_name\": 1}", "names no scheduler")}) {
    write(tiny.root / "scheduler/scheduler_config.json", text);
    CHECK(has(refusal([&] { opened.scheduler_config(); }), message));
  }
  write(tiny.root / "scheduler/scheduler_config.json", std::string((1 << 20) + 1, ' '));
  CHECK(has(refusal([&] { opened.scheduler_config(); }), "is larger than 1.0 MB"));
}

TEST_CASE("hashes are held before files are used, and again when they were written") {
  const Tiny tiny;
  const Bundle opened = Bundle::open(tiny.root);
  opened.check("denoiser");
  opened.check("denoiser");
  write(tiny.root / "denoiser/model.onnx.data", std::string(16, 'x'));
  const std::string message = refusal<IntegrityError>([&] { opened.check("denoiser"); });
  CHECK(has(message, "model.onnx.data was altered: its SHA-256 is " + sha256(std::string(16, 'x'))));
  CHECK(has(message, "(`dit-deploy verify " + tiny.root.string() + "` lists every file that differs)"));
  opened.check("vae_decoder");
}

TEST_CASE("engines open with every check") {
  const Tiny tiny;
  write_engine(tiny.root, "fast", tiny.graph());
  const Bundle opened = Bundle::open(tiny.root);
  CHECK(opened.engine_names() == std::vector<std::string>{"fast"});
  CHECK(verify(tiny.root).empty());
  const Engine engine = opened.engine("fast");
  engine.check("denoiser");
  CHECK(engine.file("denoiser") == tiny.root / "engines/fast/denoiser.onnx");
  CHECK(has(refusal([&] { engine.file("vae_decoder"); }), "has no component 'vae_decoder'; it has denoiser"));
  CHECK(has(refusal([&] { engine.recorded("x"); }), "engine.json records no file 'x'"));
  for (const char* name : {"slow", "../fast", "", ".", "a\nb"})
    CHECK(has(refusal([&] { opened.engine(name); }), "it has fast"));
  fs::create_directories(tiny.root / "engines/partial");
  CHECK(has(refusal([&] { opened.engine("partial"); }), "is no finished engine, it has no engine.json"));

  write(tiny.root / "engines/fast/denoiser.onnx.data", "fedcba987654321X");
  CHECK(has(refusal<IntegrityError>([&] { engine.check("denoiser"); }), "was altered"));
  CHECK(has(verify(tiny.root).at(0), "engines/fast/denoiser.onnx.data was altered: its SHA-256 is "));
  write(tiny.root / "engines/fast/denoiser.onnx.data", "short");
  CHECK(has(refusal<IntegrityError>([&] { opened.engine("fast"); }), "has 5 bytes, but engine.json says 16"));
  fs::rename(tiny.root / "engines/fast", tiny.root / "engines/moved");
  CHECK(has(refusal([&] { opened.engine("moved"); }), "is of an engine called 'fast'; rename the folder back"));
}

TEST_CASE("an engine of another graph, or out of the bundle") {
  const Tiny tiny;
  write_engine(tiny.root, "fast", std::string(64, '0'));
  const Bundle opened = Bundle::open(tiny.root);
  CHECK(has(refusal([&] { opened.engine("fast"); }), "engine fast was built from another graph of denoiser"));
  CHECK(has(verify(tiny.root).at(0), "engines/fast cannot be used: engine fast was built from another graph"));
  fs::rename(tiny.root / "engines/fast", tiny.folder.path() / "fast");
  fs::create_directory_symlink(tiny.folder.path() / "fast", tiny.root / "engines/fast");
  CHECK(has(refusal([&] { opened.engine("fast"); }), "is a link that leaves the bundle"));
}

TEST_CASE("verify lists everything that differs") {
  const Tiny tiny;
  write(tiny.root / "denoiser/model.onnx.data", "short");
  write(tiny.root / "vae_decoder/model.onnx", std::string(plain_model().size(), 'x'));
  fs::remove(tiny.root / "scheduler/scheduler_config.json");
  write(tiny.root / "notes.txt", "mine");
  write(tiny.root / "manifest.json.sha256", "x");
  fs::create_symlink(tiny.folder.path(), tiny.root / "engines");
  const std::vector<std::string> lines = verify(tiny.root);
  REQUIRE(lines.size() == 6);
  CHECK(has(lines[0], "manifest.json.sha256 was altered"));
  CHECK(lines[1] == "denoiser/model.onnx.data has 5 bytes, expected 16");
  CHECK(lines[2] == "scheduler/scheduler_config.json is missing");
  CHECK(has(lines[3], "vae_decoder/model.onnx was altered: its SHA-256 is "));
  CHECK(lines[4] == "engines is unsafe: a link that leaves the bundle, to " + tiny.folder.path().string());
  CHECK(lines[5] == "notes.txt is not recorded in the manifest");
}

TEST_CASE("a bundle is read whole while it is replaced, from several threads") {
  const Tiny tiny;
  const fs::path second = tiny.folder.path() / "second", third = tiny.folder.path() / "third";
  fs::copy(tiny.root, second, fs::copy_options::recursive);
  Document document = read_document(second / "manifest.json");
  document["created_by"] = "someone else";
  write_manifest(second, document);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) {
      fs::rename(tiny.root, third);
      fs::rename(second, tiny.root);
      fs::rename(third, second);
      std::this_thread::yield();
    }
  });
  std::atomic<int> opened{0};
  std::vector<std::thread> readers;
  for (int thread = 0; thread < 2; ++thread) {
    readers.emplace_back([&] {
      for (int turn = 0; turn < 40; ++turn) {
        try {
          Bundle::open(tiny.root).check("denoiser");
          ++opened;
        } catch (const BundleError&) {  // between two renames there is no bundle
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  stop = true;
  writer.join();
  CHECK(opened > 0);
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
