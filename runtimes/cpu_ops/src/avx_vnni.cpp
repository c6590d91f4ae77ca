// AVX2 with VNNI in its own encoding: Alder Lake and newer, Zen 5.
#include "isa_types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#ifdef DIT_AVX_VNNI_ENCODED_AS_AVX512  // for tests on processors that have the instruction in that encoding only
#pragma GCC target("avx2,fma,avx512vl,avx512vnni")
#define dpbusd _mm256_dpbusd_epi32
#else
#pragma GCC target("avx2,fma,avxvnni")
#define dpbusd _mm256_dpbusd_avx_epi32
#endif

namespace dit::avx_vnni {

constexpr const char* kName = "avx_vnni";
constexpr int kWidth = 8, kRows = 6, kColumns = 2;
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

using PreparedA = vi;
using PreparedB = vi;
INLINE vi prepare_a(vi a) { return a; }
INLINE vi prepare_b(vi b) { return b; }
INLINE vi dot(vi sum, vi a, vi b) { return (vi)dpbusd((__m256i)sum, (__m256i)a, (__m256i)b); }

#include "products_float.h"
#include "to_bfloat16.h"

#include "isa_body.h"

}  // namespace dit::avx_vnni

const dit::Kernels* dit::avx_vnni_kernels() { return &avx_vnni::kKernels; }
#else
const dit::Kernels* dit::avx_vnni_kernels() { return nullptr; }
#endif
