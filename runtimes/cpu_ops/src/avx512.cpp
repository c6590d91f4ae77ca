// AVX-512 with VNNI: Cascade Lake, Ice Lake, Zen 4.
#include "isa_types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")

namespace dit::avx512 {

constexpr const char* kName = "avx512";
constexpr int kWidth = 16, kRows = 8, kColumns = 3;
VECTOR_TYPES

INLINE vf least(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf most(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vu8 low_bytes(vi a) { return (vu8)_mm512_cvtepi32_epi8((__m512i)a); }

using PreparedA = vi;
using PreparedB = vi;
INLINE vi prepare_a(vi a) { return a; }
INLINE vi prepare_b(vi b) { return b; }
INLINE vi dot(vi sum, vi a, vi b) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b); }

#include "products_float.h"
#include "to_bfloat16.h"

#include "isa_body.h"

}  // namespace dit::avx512

const dit::Kernels* dit::avx512_kernels() { return &avx512::kKernels; }
#else
const dit::Kernels* dit::avx512_kernels() { return nullptr; }
#endif
