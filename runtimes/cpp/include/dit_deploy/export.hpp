// What the shared library shows: everything else in it is hidden.
#pragma once

#if defined(DIT_DEPLOY_STATIC)
#define DIT_DEPLOY_API
#elif defined(_WIN32)
#if defined(DIT_DEPLOY_BUILDING)
#define DIT_DEPLOY_API __declspec(dllexport)
#else
#define DIT_DEPLOY_API __declspec(dllimport)
#endif
#else
#define DIT_DEPLOY_API __attribute__((visibility("default")))
#endif
