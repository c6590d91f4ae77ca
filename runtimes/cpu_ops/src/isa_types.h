// What every instruction set's file includes first; its namespace then defines what isa_body.h asks for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))

// Vectors of kWidth lanes, in GCC's extension of C++.
#define VECTOR_TYPES                                                   \
  typedef float vf __attribute__((vector_size(4 * kWidth)));           \
  typedef std::int32_t vi __attribute__((vector_size(4 * kWidth)));    \
  typedef std::uint32_t vu __attribute__((vector_size(4 * kWidth)));   \
  typedef std::uint16_t vu16 __attribute__((vector_size(2 * kWidth))); \
  typedef std::uint8_t vu8 __attribute__((vector_size(kWidth)));

namespace dit {

// Polynomials of isa_body.h's gelu, in x²: of the error function's, and of its approximation by tanh.
constexpr float kGeluLimit = 4.35f, kGeluTanhLimit = 4.25f;
constexpr float kGelu[9] = {0.3987332284450531f,     -0.06602295488119125f,   0.009609173983335495f,
                            -0.0010447687236592174f, 8.26039322419092e-05f,   -4.563781203614781e-06f,
                            1.6524499812931026e-07f, -3.495076672521691e-09f, 3.2558993695586125e-11f};
constexpr float kGeluTanh[9] = {0.39878779649734497f,   -0.06645305454730988f,   0.009904869832098484f,
                                -0.001128662028349936f, 9.547439549351111e-05f,  -5.722396053897683e-06f,
                                2.264811627128438e-07f, -5.254187751546624e-09f, 5.375010506125655e-11f};

template <class T>
INLINE T load(const void* source) {
  T result;
  std::memcpy(&result, source, sizeof(T));
  return result;
}

template <class T>
INLINE void store(void* target, T value) {
  std::memcpy(target, &value, sizeof(T));
}

template <class To, class From>
INLINE To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

}  // namespace dit
