/* Programs in C that use the C interface: they are compiled as C99, and called by c_api_test.cpp. */
#ifndef DIT_DEPLOY_TESTS_C_API_CLIENT_H
#define DIT_DEPLOY_TESTS_C_API_CLIENT_H

#ifdef __cplusplus
extern "C" {
#endif

/* Each writes what went wrong first to `scratch`, which begins empty, and returns it; or NULL. */
enum { kScratch = 1000 };
const char* client_without_a_bundle(char* scratch);
/* Draws from a bundle of a class-conditional model. */
const char* client_with_a_bundle(const char* bundle, char* scratch);

#ifdef __cplusplus
}
#endif

#endif
