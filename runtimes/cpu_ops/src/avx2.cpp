// AVX2 with FMA: from Haswell and Zen on.
#include "isa_types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace dit::avx2 {

constexpr const char* kName = "avx2";
constexpr int kWidth = 8, kRows = 4, kColumns = 2;
VECTOR_TYPES

INLINE vf least(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf most(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vu8 low_bytes(vi a) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                         -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i parts = _mm256_shuffle_epi8((__m256i)a, order);
  const long long both =
      _mm_cvtsi128_si64(_mm_or_si128(_mm256_castsi256_si128(parts), _mm256_extracti128_si256(parts, 1)));
  return bits<vu8>(both);
}

// Bytes 0 and 2 of a lane, then 1 and 3, widened to 16 bits: vpmaddubsw would be one instruction, but it saturates.
struct PreparedA {
  vi even, odd;
};
using PreparedB = PreparedA;
INLINE PreparedA prepare_a(vi a) {
  const vi mask = vi{} + 0x00ff00ff;
  return {a & mask, (vi)_mm256_srli_epi16((__m256i)a, 8)};
}
INLINE PreparedB prepare_b(vi b) {
  return {(vi)_mm256_srai_epi16(_mm256_slli_epi16((__m256i)b, 8), 8), (vi)_mm256_srai_epi16((__m256i)b, 8)};
}
INLINE vi dot(vi sum, PreparedA a, PreparedB b) {
  return sum + (vi)_mm256_madd_epi16((__m256i)a.even, (__m256i)b.even) +
         (vi)_mm256_madd_epi16((__m256i)a.odd, (__m256i)b.odd);
}

#include "products_float.h"
#include "to_bfloat16.h"

#include "isa_body.h"

}  // namespace dit::avx2

const dit::Kernels* dit::avx2_kernels() { return &avx2::kKernels; }
#else
const dit::Kernels* dit::avx2_kernels() { return nullptr; }
#endif
