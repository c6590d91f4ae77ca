// Attention in float, for processors without products of bfloat16.

using Pair = float;
using vp = vf;
constexpr std::size_t kPairs = 1;

// Only pairs are worth moving in blocks.
constexpr std::size_t kTransposed = SIZE_MAX / 2;
INLINE void transpose(const std::uint16_t*, std::size_t, Pair*, std::size_t) {}

INLINE vp broadcast_pair(Pair value) { return vf{} + value; }
INLINE vf dot_pairs(vf sum, vp a, vp b) { return sum + a * b; }
