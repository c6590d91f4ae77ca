#include "bundle/sha256_x86.h"

#if defined(DIT_DEPLOY_SHA256_X86)

#include <cpuid.h>
#include <immintrin.h>

#include "bundle/sha256.h"

namespace dit_deploy::bundle {
namespace {

bool ask_processor() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSE4_1) == 0 || (c & bit_SSSE3) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & (1U << 29)) != 0;
}

__m128i load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

}  // namespace

bool has_sha_instructions() {
  static const bool has = ask_processor();
  return has;
}

__attribute__((target("sha,sse4.1,ssse3"))) void sha256_blocks_x86(std::uint32_t* state, const unsigned char* data,
                                                                   std::size_t count) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  // The instructions want the state as (a, b, e, f) and (c, d, g, h).
  const __m128i low = _mm_shuffle_epi32(load(state), 0xb1);
  __m128i cdgh = _mm_shuffle_epi32(load(state + 4), 0x1b);
  __m128i abef = _mm_alignr_epi8(low, cdgh, 8);
  cdgh = _mm_blend_epi16(cdgh, low, 0xf0);
  for (; count > 0; --count, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];  // the schedule's last 16 words
    for (int index = 0; index < 4; ++index) w[index] = _mm_shuffle_epi8(load(data + 16 * index), swap);
    for (int four = 0; four < 16; ++four) {  // rounds at a time
      __m128i& oldest = w[four & 3];
      const __m128i& newest = w[(four + 3) & 3];
      const __m128i words = _mm_add_epi32(oldest, load(kSha256Round.data() + 4 * four));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, words);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(words, 0x0e));
      const __m128i middle = _mm_alignr_epi8(newest, w[(four + 2) & 3], 4);
      oldest = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(oldest, w[(four + 1) & 3]), middle), newest);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace dit_deploy::bundle

#endif
