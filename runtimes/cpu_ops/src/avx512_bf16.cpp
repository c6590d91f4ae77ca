// AVX-512 with VNNI and BF16: Zen 4, Sapphire Rapids and newer.
#include "isa_types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma")

namespace dit::avx512_bf16 {

constexpr const char* kName = "avx512_bf16";
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

using Pair = std::uint32_t;
using vp = vi;
constexpr std::size_t kPairs = 2;

// 16 rows of 16 pairs become columns: by 32, 64, 128 and 256 bits.
constexpr std::size_t kTransposed = 16;
INLINE void transpose(const std::uint16_t* source, std::size_t stride, Pair* target, std::size_t columns) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(source + i * stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // a[4 r + i] holds column 4 q + i of rows 4 r … in its quarter q
    __m512i low = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), high = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    __m512i low2 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd), high2 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    _mm512_storeu_si512(target + i * columns, _mm512_shuffle_i32x4(low, high, 0x88));
    _mm512_storeu_si512(target + (i + 4) * columns, _mm512_shuffle_i32x4(low2, high2, 0x88));
    _mm512_storeu_si512(target + (i + 8) * columns, _mm512_shuffle_i32x4(low, high, 0xdd));
    _mm512_storeu_si512(target + (i + 12) * columns, _mm512_shuffle_i32x4(low2, high2, 0xdd));
  }
}

INLINE vp broadcast_pair(Pair value) { return vi{} + static_cast<std::int32_t>(value); }
INLINE vf dot_pairs(vf sum, vp a, vp b) { return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }

INLINE vu16 to_bfloat16(vf value) { return (vu16)_mm512_cvtneps_pbh((__m512)value); }

#include "isa_body.h"

}  // namespace dit::avx512_bf16

const dit::Kernels* dit::avx512_bf16_kernels() { return &avx512_bf16::kKernels; }
#else
const dit::Kernels* dit::avx512_bf16_kernels() { return nullptr; }
#endif
