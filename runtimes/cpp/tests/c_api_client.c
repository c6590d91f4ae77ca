#include "c_api_client.h"

#include <stdio.h>
#include <string.h>

#include "dit_deploy.h"

/* Holds a condition; returns from the function where it does not hold. */
#define HOLD(condition)                                                 \
  do {                                                                  \
    if (!(condition)) {                                                 \
      snprintf(scratch, kScratch, "line %d: %s", __LINE__, #condition); \
      return scratch;                                                   \
    }                                                                   \
  } while (0)

/* Holds the status of `call`, which writes to &error, and what its message begins with ("" for success). */
#define CALL(call, status, message)                                                                               \
  do {                                                                                                            \
    char* error = (char*)"untouched";                                                                             \
    const dit_deploy_status came = (call);                                                                        \
    const int right = came == (status) && ((status) == DIT_DEPLOY_OK ? error == NULL : error != NULL) &&          \
                      (error == NULL || strncmp(error, (message), strlen(message)) == 0);                         \
    if (!right) {                                                                                                 \
      snprintf(scratch, kScratch, "line %d: status %d, %.800s", __LINE__, (int)came, error == NULL ? "" : error); \
    }                                                                                                             \
    dit_deploy_string_free(error);                                                                                \
    if (!right) return scratch;                                                                                   \
  } while (0)
#define REFUSED(call, message) CALL(call, DIT_DEPLOY_INPUT_ERROR, message)
#define DONE(call) CALL(call, DIT_DEPLOY_OK, "")

static const char* null_pointers(char* scratch) {
  dit_deploy_options* options = dit_deploy_options_create();
  dit_deploy_request* request = dit_deploy_request_create();
  dit_deploy_pipeline* pipeline = (dit_deploy_pipeline*)1;
  dit_deploy_result* result = (dit_deploy_result*)1;
  char* report = (char*)1;
  const char* const no_texts[] = {"a", NULL};
  int64_t number = 0;

  HOLD(options != NULL && request != NULL);
  dit_deploy_string_free(NULL);
  dit_deploy_options_free(NULL);
  dit_deploy_request_free(NULL);
  dit_deploy_result_free(NULL);
  dit_deploy_close(NULL);
  HOLD(dit_deploy_engine(NULL) == NULL && dit_deploy_engine_reason(NULL) == NULL);
  HOLD(dit_deploy_pixel_multiple(NULL) == 0 && dit_deploy_label_count(NULL) == 0);
  HOLD(dit_deploy_result_image_count(NULL) == 0);

  REFUSED(dit_deploy_options_set_engine(NULL, "onnx", &error), "options: NULL came");
  REFUSED(dit_deploy_options_set_engine(options, NULL, &error), "engine: NULL came");
  REFUSED(dit_deploy_options_set_provider_library(options, "name", NULL, &error), "path: NULL came");
  REFUSED(dit_deploy_open(NULL, options, &pipeline, &error), "path: NULL came");
  HOLD(pipeline == NULL);
  REFUSED(dit_deploy_open("model", options, NULL, &error), "pipeline: NULL came");
  REFUSED(dit_deploy_request_set_integer(NULL, "height", 1, &error), "request: NULL came");
  REFUSED(dit_deploy_request_set_integer(request, NULL, 1, &error), "name: NULL came");
  REFUSED(dit_deploy_request_set_integers(request, "seed", NULL, 1, &error), "values: NULL came");
  REFUSED(dit_deploy_request_set_texts(request, "prompt", no_texts, 2, &error), "values: NULL came");
  REFUSED(dit_deploy_generate(NULL, request, &result, &error), "pipeline: NULL came");
  HOLD(result == NULL);
  REFUSED(dit_deploy_label(NULL, 0, &number, NULL, &error), "pipeline: NULL came");
  REFUSED(dit_deploy_result_image(NULL, 0, NULL, NULL, NULL, NULL, &error), "result: NULL came");
  REFUSED(dit_deploy_verify(NULL, &report, &error), "path: NULL came");
  HOLD(report == NULL);
  REFUSED(dit_deploy_verify("model", NULL, &error), "report: NULL came");
  HOLD(dit_deploy_request_set_integer(NULL, "height", 1, NULL) == DIT_DEPLOY_INPUT_ERROR); /* nobody asks why */
  dit_deploy_options_free(options);
  dit_deploy_request_free(request);
  return NULL;
}

static const char* bad_names_and_values(char* scratch) {
  dit_deploy_request* request = dit_deploy_request_create();
  const int64_t seeds[] = {1, -2}, negative[] = {1, -1}, huge[] = {INT64_MAX, INT64_MAX}, shape[] = {1, 3};
  const float values[] = {1, 2, 3};
  const uint8_t pixels[] = {1, 2, 3};
  const char* const two_texts[] = {"blurry", "dark"};

  HOLD(request != NULL);
  REFUSED(dit_deploy_request_set_integer(request, "steps", 20, &error),
          "name: 'steps' came, expected class_labels, seed, ");
  REFUSED(dit_deploy_request_set_integer(request, "seed", -1, &error), "seed: -1 came, expected 0 or more");
  REFUSED(dit_deploy_request_set_integer(request, "guidance_batched", 2, &error), "guidance_batched: 2 came");
  REFUSED(dit_deploy_request_set_integers(request, "height", seeds, 1, &error), "name: 'height' came, expected class_");
  REFUSED(dit_deploy_request_set_integers(request, "seed", seeds, 2, &error), "seed: -2 came, expected 0 or more");
  REFUSED(dit_deploy_request_set_number(request, "height", 1.0, &error),
          "name: 'height' came, expected guidance_scale");
  REFUSED(dit_deploy_request_set_text(request, "height", "1", &error), "name: 'height' came, expected prompt");
  REFUSED(dit_deploy_request_set_text(request, "prompt_4", "x", &error),
          "name: 'prompt_4' came, expected prompt, negative_prompt, prompt_2, ");
  REFUSED(dit_deploy_request_set_text(request, "output_type", "pil", &error),
          "output_type: 'pil' came, expected picture");
  REFUSED(dit_deploy_request_set_condition(request, "mask", (dit_deploy_dtype)77, shape, 2, values, 12, &error),
          "mask: dtype 77 came");
  REFUSED(dit_deploy_request_set_condition(request, "mask", DIT_DEPLOY_FLOAT32, shape, 2, values, 8, &error),
          "mask: 8 bytes came, expected 12 for (1, 3) of float32");
  REFUSED(dit_deploy_request_set_condition(request, "mask", DIT_DEPLOY_FLOAT32, negative, 2, values, 8, &error),
          "mask: (1, -1) came, which is no shape");
  REFUSED(dit_deploy_request_set_unconditional(request, "mask", DIT_DEPLOY_INT64, huge, 2, values, 8, &error),
          "mask: (9223372036854775807, 9223372036854775807) came, which is no shape");
  REFUSED(dit_deploy_request_set_noise(request, shape, 2, values, 2, &error),
          "noise: 2 values came, expected 3 for (1, 3)");

  DONE(dit_deploy_request_set_condition(request, "mask", DIT_DEPLOY_FLOAT32, shape, 2, values, 12, &error));
  DONE(dit_deploy_request_set_unconditional(request, "mask", DIT_DEPLOY_FLOAT32, shape, 2, values, 12, &error));
  DONE(dit_deploy_request_set_noise(request, shape, 2, values, 3, &error));
  DONE(dit_deploy_request_add_image(request, 1, 1, 3, pixels, 3, &error));
  DONE(dit_deploy_request_set_guidance_interval(request, 0.1, 0.9, &error));
  DONE(dit_deploy_request_set_text(request, "prompt_2", "a fox", &error));
  DONE(dit_deploy_request_set_texts(request, "negative_prompt_3", two_texts, 2, &error));
  dit_deploy_request_free(request);
  return NULL;
}

static const char* no_bundle(char* scratch) {
  dit_deploy_options* options = dit_deploy_options_create();
  dit_deploy_pipeline* pipeline = NULL;
  char* report = NULL;

  HOLD(options != NULL);
  DONE(dit_deploy_options_set_engine(options, "onnx", &error));
  DONE(dit_deploy_options_set_threads(options, 1, &error));
  DONE(dit_deploy_options_set_provider_library(options, "OpenVINOExecutionProvider", "libplugin.so", &error));
  DONE(dit_deploy_options_set_provider_option(options, "device_id", "0", &error));
  CALL(dit_deploy_open("/no/such/bundle", options, &pipeline, &error), DIT_DEPLOY_BUNDLE_ERROR,
       "there is no /no/such/bundle");
  HOLD(pipeline == NULL);
  CALL(dit_deploy_verify("/no/such/bundle", &report, &error), DIT_DEPLOY_BUNDLE_ERROR, "there is no /no/such/bundle");
  HOLD(report == NULL);
  dit_deploy_options_free(options);
  return NULL;
}

const char* client_without_a_bundle(char* scratch) {
  const char* wrong = null_pointers(scratch);
  if (wrong == NULL) wrong = bad_names_and_values(scratch);
  if (wrong == NULL) wrong = no_bundle(scratch);
  HOLD(strchr(dit_deploy_version(), '.') != NULL);
  return wrong;
}

static int count_steps(int64_t index, int64_t count, const float* latents, const int64_t* shape, size_t rank,
                       void* user) {
  int* steps = (int*)user;
  if (index == *steps && count == 3 && latents != NULL && rank == 4 && shape[0] == 2) ++*steps;
  return 1;
}

static void count_progress(const char* what, int64_t done, int64_t total, void* user) {
  int* counts = (int*)user;
  if (strcmp(what, "denoising") == 0 && total == 3 && done == counts[0] + 1) ++counts[0];
  if (strcmp(what, "decoding") == 0 && total == 1 && done == 1) ++counts[1];
}

static int stop(int64_t index, int64_t count, const float* latents, const int64_t* shape, size_t rank, void* user) {
  (void)count, (void)latents, (void)shape, (void)rank, (void)user;
  return index < 1;
}

static const char* draw(const dit_deploy_pipeline* pipeline, dit_deploy_request* request, char* scratch) {
  dit_deploy_result* result = NULL;
  const uint8_t* pixels = NULL;
  const float* values = NULL;
  const int64_t* shape = NULL;
  const uint64_t* seeds = NULL;
  const uint64_t asked[] = {1, UINT64_C(18446744073709551615)};
  const int64_t labels[] = {1, 2};
  int64_t height = 0, width = 0, channels = 0;
  size_t rank = 0, count = 0;
  double seconds = -1;
  int steps = 0, counts[2] = {0, 0};

  DONE(dit_deploy_request_set_integers(request, "class_labels", labels, 2, &error));
  DONE(dit_deploy_request_set_seeds(request, asked, 2, &error));
  DONE(dit_deploy_request_set_integer(request, "num_inference_steps", 3, &error));
  DONE(dit_deploy_request_set_integer(request, "guidance_batched", 0, &error));
  DONE(dit_deploy_request_set_number(request, "guidance_scale", 1.5, &error));
  DONE(dit_deploy_request_set_text(request, "scheduler", "ddim", &error));
  DONE(dit_deploy_request_set_callback(request, count_steps, &steps, &error));
  DONE(dit_deploy_request_set_progress(request, count_progress, counts, &error));
  DONE(dit_deploy_generate(pipeline, request, &result, &error));
  HOLD(steps == 3 && counts[0] == 3 && counts[1] == 1);
  DONE(dit_deploy_request_set_progress(request, NULL, NULL, &error));
  HOLD(dit_deploy_result_image_count(result) == 2);
  DONE(dit_deploy_result_image(result, 1, &pixels, &height, &width, &channels, &error));
  HOLD(pixels != NULL && height > 0 && height % dit_deploy_pixel_multiple(pipeline) == 0 && width > 0 && channels == 3);
  REFUSED(dit_deploy_result_image(result, 2, &pixels, &height, &width, &channels, &error),
          "index: 2 came; there are 2");
  DONE(dit_deploy_result_array(result, "latents", &values, &shape, &rank, &error));
  HOLD(values != NULL && rank == 4 && shape[0] == 2);
  DONE(dit_deploy_result_array(result, "array", &values, &shape, &rank, &error));
  HOLD(rank == 0);
  REFUSED(dit_deploy_result_array(result, "images", &values, &shape, &rank, &error),
          "name: 'images' came, expected lat");
  DONE(dit_deploy_result_seeds(result, &seeds, &count, &error));
  HOLD(count == 2 && seeds[0] == asked[0] && seeds[1] == asked[1]);
  DONE(dit_deploy_result_seconds(result, "total", &seconds, &error));
  HOLD(seconds > 0);
  REFUSED(dit_deploy_result_seconds(result, "lunch", &seconds, &error), "name: 'lunch' came, expected one of denoiser");
  dit_deploy_result_free(result);

  DONE(dit_deploy_request_set_callback(request, stop, NULL, &error));
  CALL(dit_deploy_generate(pipeline, request, &result, &error), DIT_DEPLOY_CANCELLED,
       "the callback cancelled after step 2");
  HOLD(result == NULL);
  DONE(dit_deploy_request_set_callback(request, NULL, NULL, &error));
  DONE(dit_deploy_request_set_integer(request, "height", dit_deploy_pixel_multiple(pipeline) + 1, &error));
  REFUSED(dit_deploy_generate(pipeline, request, &result, &error), "height: ");
  HOLD(result == NULL);
  return NULL;
}

const char* client_with_a_bundle(const char* bundle, char* scratch) {
  dit_deploy_options* options = dit_deploy_options_create();
  dit_deploy_request* request = dit_deploy_request_create();
  dit_deploy_pipeline* pipeline = NULL;
  const char *name = NULL, *wrong = NULL;
  char* report = NULL;
  int64_t class_index = -1;

  HOLD(options != NULL && request != NULL);
  DONE(dit_deploy_options_set_engine(options, "no-such-engine", &error));
  REFUSED(dit_deploy_open(bundle, options, &pipeline, &error), "engine: 'no-such-engine' came; this bundle has onnx");
  HOLD(pipeline == NULL);
  DONE(dit_deploy_options_set_engine(options, "onnx", &error));
  DONE(dit_deploy_options_set_threads(options, -1, &error));
  REFUSED(dit_deploy_open(bundle, options, &pipeline, &error), "threads: -1 came");
  DONE(dit_deploy_options_set_threads(options, 1, &error));
  DONE(dit_deploy_options_set_vae_memory(options, "much", &error));
  REFUSED(dit_deploy_open(bundle, options, &pipeline, &error), "vae_memory: 'much' came, expected bytes above 0");
  DONE(dit_deploy_options_set_vae_memory(options, "1G", &error));
  DONE(dit_deploy_options_set_vae_memory(options, NULL, &error));
  DONE(dit_deploy_open(bundle, options, &pipeline, &error));
  HOLD(strcmp(dit_deploy_engine(pipeline), "onnx") == 0);
  HOLD(strcmp(dit_deploy_engine_reason(pipeline), "onnx: the plain graphs, as asked") == 0);
  if (dit_deploy_label_count(pipeline) > 0) {
    DONE(dit_deploy_label(pipeline, 0, &class_index, &name, &error));
    HOLD(class_index >= 0 && name != NULL && *name != '\0');
  }
  REFUSED(dit_deploy_label(pipeline, dit_deploy_label_count(pipeline), &class_index, &name, &error), "position: ");
  wrong = draw(pipeline, request, scratch);
  if (wrong != NULL) return wrong;
  DONE(dit_deploy_verify(bundle, &report, &error));
  HOLD(report != NULL && *report == '\0');
  dit_deploy_string_free(report);
  dit_deploy_options_free(options);
  dit_deploy_request_free(request);
  dit_deploy_close(pipeline);
  return NULL;
}
