// Any processor: plain integer arithmetic, four lanes at a time.
#include "isa_types.h"

namespace dit::portable {

constexpr const char* kName = "portable";
constexpr int kWidth = 4, kRows = 4, kColumns = 3;
VECTOR_TYPES

INLINE vf least(vf a, vf b) { return a < b ? a : b; }
INLINE vf most(vf a, vf b) { return a > b ? a : b; }
INLINE vu8 low_bytes(vi a) { return __builtin_convertvector(a & 255, vu8); }

struct PreparedA {
  vi byte[4];
};
using PreparedB = PreparedA;
INLINE PreparedA prepare_a(vi a) { return {{a & 255, (a >> 8) & 255, (a >> 16) & 255, (a >> 24) & 255}}; }
INLINE PreparedB prepare_b(vi b) { return {{(b << 24) >> 24, (b << 16) >> 24, (b << 8) >> 24, b >> 24}}; }
INLINE vi dot(vi sum, PreparedA a, PreparedB b) {
  for (int i = 0; i < 4; ++i) sum += a.byte[i] * b.byte[i];
  return sum;
}

#include "products_float.h"
#include "to_bfloat16.h"

#include "isa_body.h"

}  // namespace dit::portable

const dit::Kernels* dit::portable_kernels() { return &portable::kKernels; }
