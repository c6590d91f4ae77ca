#include <doctest/doctest.h>

#include <array>
#include <string>

#include "c_api_client.h"
#include "dit_deploy.h"
#include "golden_bundle.h"

namespace dit_deploy::tests {
namespace {

int throws(int64_t, int64_t, const float*, const int64_t*, std::size_t, void*) { throw 7; }

}  // namespace

TEST_CASE("a program in C gets a status and a line for whatever it does wrong") {
  std::array<char, kScratch> scratch{};
  client_without_a_bundle(scratch.data());
  CHECK(std::string(scratch.data()) == "");
}

TEST_CASE("a program in C draws") {
  const auto bundle = golden_bundle();
  if (!bundle) return;
  std::array<char, kScratch> scratch{};
  client_with_a_bundle(bundle->u8string().c_str(), scratch.data());
  CHECK(std::string(scratch.data()) == "");
}

TEST_CASE("a callback that throws ends the run, and nothing else") {
  const auto bundle = golden_bundle();
  if (!bundle) return;
  char* error = nullptr;
  dit_deploy_pipeline* pipeline = nullptr;
  dit_deploy_result* result = nullptr;
  dit_deploy_request* request = dit_deploy_request_create();
  REQUIRE(dit_deploy_open(bundle->u8string().c_str(), nullptr, &pipeline, &error) == DIT_DEPLOY_OK);
  CHECK(dit_deploy_request_set_integer(request, "class_labels", 1, &error) == DIT_DEPLOY_OK);
  CHECK(dit_deploy_request_set_integer(request, "num_inference_steps", 2, &error) == DIT_DEPLOY_OK);
  CHECK(dit_deploy_request_set_callback(request, throws, nullptr, &error) == DIT_DEPLOY_OK);
  CHECK(dit_deploy_generate(pipeline, request, &result, &error) == DIT_DEPLOY_ERROR);
  CHECK(std::string(error) == "the callback threw something that is no exception");
  CHECK(result == nullptr);
  dit_deploy_string_free(error);
  CHECK(dit_deploy_request_set_callback(request, nullptr, nullptr, &error) == DIT_DEPLOY_OK);
  CHECK(dit_deploy_generate(pipeline, request, &result, &error) == DIT_DEPLOY_OK);
  dit_deploy_result_free(result);
  dit_deploy_request_free(request);
  dit_deploy_close(pipeline);
}

}  // namespace dit_deploy::tests
