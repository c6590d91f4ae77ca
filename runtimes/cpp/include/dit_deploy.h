/* The C interface of dit_deploy, for programs in C and bindings of other languages: C99, and nothing but C types.
 *
 *   #include <dit_deploy.h>
 *   #include <stdio.h>
 *
 *   int main(void) {
 *     const int64_t labels[] = {207, 360};
 *     const uint8_t* pixels = NULL;
 *     int64_t height = 0, width = 0, channels = 0;
 *     char* error = NULL;
 *     dit_deploy_pipeline* pipeline = NULL;
 *     dit_deploy_result* result = NULL;
 *     dit_deploy_request* request = dit_deploy_request_create();
 *     dit_deploy_status status = dit_deploy_open("my-model", NULL, &pipeline, &error);
 *
 *     if (!status) status = dit_deploy_request_set_integers(request, "class_labels", labels, 2, &error);
 *     if (!status) status = dit_deploy_request_set_integer(request, "num_inference_steps", 20, &error);
 *     if (!status) status = dit_deploy_request_set_integer(request, "seed", 0, &error);
 *     if (!status) status = dit_deploy_generate(pipeline, request, &result, &error);
 *     if (!status) status = dit_deploy_result_image(result, 0, &pixels, &height, &width, &channels, &error);
 *     if (status) fprintf(stderr, "%s\n", error);
 *     else printf("%d x %d pixels\n", (int)width, (int)height);
 *
 *     dit_deploy_string_free(error);
 *     dit_deploy_result_free(result);
 *     dit_deploy_request_free(request);
 *     dit_deploy_close(pipeline);
 *     return (int)status;
 *   }
 *
 * Every function that can fail returns a status, and writes one readable line to *error where it is not DIT_DEPLOY_OK,
 * else NULL: free it with dit_deploy_string_free. `error` may be NULL. Nothing is thrown, and nothing is global: what
 * belongs to one call is in its arguments.
 *
 * Texts are UTF-8 and end in a zero byte. What is given to a function is copied; what a function gives belongs to its
 * object, and is valid until that is freed or changed. The functions that free take NULL, too.
 *
 * A pipeline may be used from several threads at once; an options or a request object from one at a time, or from
 * several that only read it (dit_deploy_open, dit_deploy_generate).
 *
 * Names and meanings are those of <dit_deploy/pipeline.hpp>, which says more on each. Functions and status codes are
 * added over time, and none is changed.
 */
#ifndef DIT_DEPLOY_H
#define DIT_DEPLOY_H

#include <stddef.h>
#include <stdint.h>

#include "dit_deploy/export.hpp"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dit_deploy_status {
  DIT_DEPLOY_OK = 0,
  DIT_DEPLOY_ERROR = 1,            /* none of the following: out of memory, say */
  DIT_DEPLOY_INPUT_ERROR = 2,      /* an argument: what came, what was expected, how to mend it */
  DIT_DEPLOY_BUNDLE_ERROR = 3,     /* a bundle is missing, altered, newer than this library, or unsafe */
  DIT_DEPLOY_INTEGRITY_ERROR = 4,  /* a file of a bundle is not the one the manifest describes */
  DIT_DEPLOY_BACKEND_ERROR = 5,    /* a backend is missing, or refuses the graph */
  DIT_DEPLOY_NOT_FINITE_ERROR = 6, /* what a backend computed holds NaN or infinite values */
  DIT_DEPLOY_CANCELLED = 7         /* a callback asked to stop */
} dit_deploy_status;

typedef enum dit_deploy_dtype {
  DIT_DEPLOY_FLOAT32 = 0,
  DIT_DEPLOY_FLOAT16 = 1,
  DIT_DEPLOY_BFLOAT16 = 2,
  DIT_DEPLOY_INT64 = 3,
  DIT_DEPLOY_INT32 = 4,
  DIT_DEPLOY_BOOLEAN = 5,             /* one byte each, 0 or 1 */
  DIT_DEPLOY_DTYPE_WIDTH = 0x7fffffff /* none: it makes every int a value of the type, so that a wrong one is refused */
} dit_deploy_dtype;

typedef struct dit_deploy_options dit_deploy_options;
typedef struct dit_deploy_pipeline dit_deploy_pipeline;
typedef struct dit_deploy_request dit_deploy_request;
typedef struct dit_deploy_result dit_deploy_result;

/* Of this library: "0.1.0". */
DIT_DEPLOY_API const char* dit_deploy_version(void);

/* Frees an error, or the report of dit_deploy_verify. */
DIT_DEPLOY_API void dit_deploy_string_free(char* string);

/* ---- Options: how a bundle is opened ---- */

/* All options have their defaults. NULL where there is no memory. */
DIT_DEPLOY_API dit_deploy_options* dit_deploy_options_create(void);
DIT_DEPLOY_API void dit_deploy_options_free(dit_deploy_options* options);

/* "onnx" for the plain graphs, an engine's name, or "auto" (the default) for the best that this machine runs. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_options_set_engine(dit_deploy_options* options, const char* engine,
                                                               char** error);
/* Threads within an operator; 0, the default, is one a core. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_options_set_threads(dit_deploy_options* options, int threads, char** error);
/* 1: a component is loaded when it is used and forgotten after, so that one of them is in memory at a time; 0: not. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_options_set_low_memory(dit_deploy_options* options, int low_memory,
                                                                   char** error);
/* Bytes that the VAE may take beside its weights, such as "2G": larger pictures go through it in the pieces that fit. NULL,
 * the default, is no limit. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_options_set_vae_memory(dit_deploy_options* options, const char* bytes,
                                                                   char** error);
/* The library of one of ONNX Runtime's plugin execution providers: "NvTensorRTRTXExecutionProvider" and its path. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_options_set_provider_library(dit_deploy_options* options,
                                                                         const char* provider, const char* path,
                                                                         char** error);
/* An option of the chosen engine's provider, as ONNX Runtime takes it: "device_id", "1". */
DIT_DEPLOY_API dit_deploy_status dit_deploy_options_set_provider_option(dit_deploy_options* options, const char* name,
                                                                        const char* value, char** error);

/* ---- The pipeline: an opened bundle with its denoiser loaded ---- */

/* Opens a bundle, a folder. `options` may be NULL. *pipeline is to be closed; NULL where the status is not OK. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_open(const char* path, const dit_deploy_options* options,
                                                 dit_deploy_pipeline** pipeline, char** error);
DIT_DEPLOY_API void dit_deploy_close(dit_deploy_pipeline* pipeline);

/* The name of what runs ("onnx" for the plain graphs), and in one line why. NULL for no pipeline. */
DIT_DEPLOY_API const char* dit_deploy_engine(const dit_deploy_pipeline* pipeline);
DIT_DEPLOY_API const char* dit_deploy_engine_reason(const dit_deploy_pipeline* pipeline);
/* Heights and widths are multiples of this many pixels. 0 for no pipeline. */
DIT_DEPLOY_API int64_t dit_deploy_pixel_multiple(const dit_deploy_pipeline* pipeline);

/* How many pictures a video has where none are asked for; 0 for a bundle of pictures, and for no pipeline. */
DIT_DEPLOY_API int64_t dit_deploy_num_frames(const dit_deploy_pipeline* pipeline);
/* 1 where it draws from prompts, else 0, as for no pipeline. */
DIT_DEPLOY_API int dit_deploy_takes_prompts(const dit_deploy_pipeline* pipeline);

/* How many classes have names; and the class index and name of one of them, `position` from 0, by rising index. */
DIT_DEPLOY_API size_t dit_deploy_label_count(const dit_deploy_pipeline* pipeline);
DIT_DEPLOY_API dit_deploy_status dit_deploy_label(const dit_deploy_pipeline* pipeline, size_t position,
                                                  int64_t* class_index, const char** name, char** error);

/* ---- A request: what to draw; one may serve many runs ---- */

/* Nothing is set: all is at its default. NULL where there is no memory. */
DIT_DEPLOY_API dit_deploy_request* dit_deploy_request_create(void);
DIT_DEPLOY_API void dit_deploy_request_free(dit_deploy_request* request);

/* One whole number:
 *   "class_labels", "seed"                for one picture, or a seed for all
 *   "num_images_per_prompt"               at least 1
 *   "num_inference_steps"                 at least 1
 *   "guidance_channels"                   how many leading latent channels are guided, 0 for all
 *   "guidance_batched"                    1: both halves in one call of the denoiser; 0: in two, with half the memory
 *   "skip_guidance_layers"                the block that a third call leaves out
 *   "height", "width", "num_frames"       pixels, multiples of dit_deploy_pixel_multiple; pictures of a video
 *   "window_frames", "window_overlap"     pictures that the denoiser sees at a time, and what neighbouring windows share
 *   "vae_tile"                            pixels on a side of the pieces in which larger pictures go through the VAE
 *   "vae_tile_of_model"                   1: in the pieces that diffusers has for this model
 */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_integer(dit_deploy_request* request, const char* name,
                                                                int64_t value, char** error);
/* Several: "class_labels", one a picture, "seed", one for all or one a picture, or "skip_guidance_layers". None (count 0)
 * is the default again, as with the functions that follow. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_integers(dit_deploy_request* request, const char* name,
                                                                 const int64_t* values, size_t count, char** error);
/* "seed" over the whole range of 64 bits, which int64_t does not reach. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_seeds(dit_deploy_request* request, const uint64_t* seeds,
                                                              size_t count, char** error);
/* "guidance_scale", "guidance_scale_2", "true_cfg_scale", "guidance_rescale", "skip_layer_guidance_scale",
 * "skip_layer_guidance_start", "skip_layer_guidance_stop", "eta", "strength", "frame_rate", "decode_timestep" or
 * "decode_noise_scale". */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_number(dit_deploy_request* request, const char* name,
                                                               double value, char** error);
/* Guide only in this part of the steps, as fractions. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_guidance_interval(dit_deploy_request* request, double begin,
                                                                          double end, char** error);
/* One text:
 *   "prompt", "negative_prompt"   for one picture; with _2 or _3 behind it, what the second and third text encoder read
 *                                 instead; an empty one is the prompt again
 *   "scheduler"                   a diffusers scheduler's name, or its config as JSON
 *   "output_type"                 "picture" (the default), "array" or "latent"
 */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_text(dit_deploy_request* request, const char* name,
                                                             const char* value, char** error);
/* Several: "prompt" or "negative_prompt", or one of these with _2 or _3 behind it. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_texts(dit_deploy_request* request, const char* name,
                                                              const char* const* values, size_t count, char** error);
/* Another input of the denoiser by its name, row-major, shape[0] the batch; `size` is that of `data` in bytes. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_condition(dit_deploy_request* request, const char* name,
                                                                  dit_deploy_dtype dtype, const int64_t* shape,
                                                                  size_t rank, const void* data, size_t size,
                                                                  char** error);
/* The same for the unguided half, where it is not a constant of the bundle. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_unconditional(dit_deploy_request* request, const char* name,
                                                                      dit_deploy_dtype dtype, const int64_t* shape,
                                                                      size_t rank, const void* data, size_t size,
                                                                      char** error);
/* `count` numbers of the latents' shape, instead of the seed's first draw. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_noise(dit_deploy_request* request, const int64_t* shape,
                                                              size_t rank, const float* values, size_t count,
                                                              char** error);
/* Adds a picture to start from: one for all, or one a sample. 8 bits, row by row from the top, channels interleaved;
 * `size` is that of `pixels` in bytes, height × width × channels. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_add_image(dit_deploy_request* request, int64_t height,
                                                              int64_t width, int64_t channels, const uint8_t* pixels,
                                                              size_t size, char** error);
/* The same of what a video made of pictures ends with; and of a video to start from, one picture after another. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_add_last_image(dit_deploy_request* request, int64_t height,
                                                                   int64_t width, int64_t channels,
                                                                   const uint8_t* pixels, size_t size, char** error);
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_add_video_frame(dit_deploy_request* request, int64_t height,
                                                                    int64_t width, int64_t channels,
                                                                    const uint8_t* pixels, size_t size, char** error);

/* Called after each of `count` steps, on the thread that draws. The latents are valid during the call. Returns 0 to
 * stop, so that the run ends with DIT_DEPLOY_CANCELLED, and anything else to go on. */
typedef int (*dit_deploy_callback)(int64_t index, int64_t count, const float* latents, const int64_t* shape,
                                   size_t rank, void* user);
/* `user` is handed on to the callback; NULL takes the callback away. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_callback(dit_deploy_request* request,
                                                                 dit_deploy_callback callback, void* user,
                                                                 char** error);

/* Called after each step, and after each piece of latents that went through the VAE decoder, on the thread that draws: what is
 * being done ("denoising", "decoding"), how many steps or pieces of it are done, and of how many. */
typedef void (*dit_deploy_progress)(const char* what, int64_t done, int64_t total, void* user);
/* `user` is handed on to the function; NULL takes the function away. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_request_set_progress(dit_deploy_request* request,
                                                                 dit_deploy_progress progress, void* user,
                                                                 char** error);

/* ---- A run and its result ---- */

/* Draws. *result is to be freed; NULL where the status is not OK. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_generate(const dit_deploy_pipeline* pipeline,
                                                     const dit_deploy_request* request, dit_deploy_result** result,
                                                     char** error);
DIT_DEPLOY_API void dit_deploy_result_free(dit_deploy_result* result);

/* How many pictures there are; none for another output type than "picture", and of a bundle of videos. */
DIT_DEPLOY_API size_t dit_deploy_result_image_count(const dit_deploy_result* result);
/* One of them: height × width × channels bytes. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_result_image(const dit_deploy_result* result, size_t index,
                                                         const uint8_t** pixels, int64_t* height, int64_t* width,
                                                         int64_t* channels, char** error);
/* Of a bundle of videos: how many there are, how many pictures one of them has, and one of these. */
DIT_DEPLOY_API size_t dit_deploy_result_video_count(const dit_deploy_result* result);
DIT_DEPLOY_API size_t dit_deploy_result_frame_count(const dit_deploy_result* result, size_t index);
DIT_DEPLOY_API dit_deploy_status dit_deploy_result_frame(const dit_deploy_result* result, size_t index, size_t frame,
                                                         const uint8_t** pixels, int64_t* height, int64_t* width,
                                                         int64_t* channels, char** error);
/* Pictures a second that videos are to be played at; 0 where that is not known. */
DIT_DEPLOY_API double dit_deploy_result_frame_rate(const dit_deploy_result* result);
/* "latents" [batch, channels, (frames,) height, width], before decoding; or "array" [batch, (frames,) height, width,
 * channels] in 0 … 1, for that output type, else of rank 0. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_result_array(const dit_deploy_result* result, const char* name,
                                                         const float** values, const int64_t** shape, size_t* rank,
                                                         char** error);
/* What was asked for, or the random seed that was drawn. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_result_seeds(const dit_deploy_result* result, const uint64_t** seeds,
                                                         size_t* count, char** error);
/* Wall time of "vae_encoder", "denoiser", "vae_decoder" or "total". */
DIT_DEPLOY_API dit_deploy_status dit_deploy_result_seconds(const dit_deploy_result* result, const char* name,
                                                           double* seconds, char** error);

/* How many lines there are that a person would want to know of this request, such as what of a prompt was left out; and
 * one of them. */
DIT_DEPLOY_API size_t dit_deploy_result_warning_count(const dit_deploy_result* result);
DIT_DEPLOY_API dit_deploy_status dit_deploy_result_warning(const dit_deploy_result* result, size_t index,
                                                           const char** warning, char** error);

/* ---- Checking a bundle ---- */

/* Hashes every recorded file of a bundle and its engines. *report is what is wrong, one line each, empty where all is
 * well; free it with dit_deploy_string_free. */
DIT_DEPLOY_API dit_deploy_status dit_deploy_verify(const char* path, char** report, char** error);

#ifdef __cplusplus
}
#endif

#endif
