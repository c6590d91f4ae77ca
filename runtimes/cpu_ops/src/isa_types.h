// What every instruction set's file includes first; its namespace then defines what isa_body.h asks for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))

// Vectors of kWidth lanes, in GCC's extension of C++.
#define VECTOR_TYPES                                                       \
  typedef float vf __attribute__((vector_size(4 * kWidth)));               \
  typedef std::int32_t vi __attribute__((vector_size(4 * kWidth)));        \
  typedef std::uint32_t vu __attribute__((vector_size(4 * kWidth)));       \
  typedef std::uint16_t vu16 __attribute__((vector_size(2 * kWidth)));     \
  typedef std::uint8_t vu8 __attribute__((vector_size(kWidth)));

namespace dit {

// Polynomials of isa_body.h's gelu, in x²: of the error function's, and of its approximation by tanh.
constexpr float kGeluLimit = 4.3f, kGeluTanhLimit = 4.2f;
constexpr float kGelu[9] = {0.3988020718097687f,     -0.06615554541349411f,   0.009695110842585564f,
                            -0.0010713740484789014f, 8.711553527973592e-05f,  -5.005958428228041e-06f,
                            1.902120772001581e-07f,  -4.2486387741291765e-09f, 4.1969996922297526e-11f};
constexpr float kGeluTanh[9] = {0.398807168006897f,      -0.06649301946163177f,   0.009932730346918106f,
                                -0.0011379512725397944f, 9.717154898680747e-05f,  -5.901625172555214e-06f,
                                2.3738490995128814e-07f, -5.608723707695162e-09f, 5.851904377740524e-11f};

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
