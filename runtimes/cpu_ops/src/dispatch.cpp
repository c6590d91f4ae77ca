#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels.h"
#include "ort_api.h"

namespace dit {

bool supported(const Kernels& candidate) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (&candidate == avx512_bf16_kernels()) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (&candidate == avx512_kernels()) return avx512;
  if (&candidate == avx_vnni_kernels()) return avx2 && __builtin_cpu_supports("avxvnni");
  if (&candidate == avx2_kernels()) return avx2;
#endif
  return &candidate == portable_kernels();
}

const Kernels& kernels() {
  const char* asked = std::getenv("DIT_DEPLOY_CPU_OPS_ISA");
  for (const Kernels* candidate :
       {avx512_bf16_kernels(), avx512_kernels(), avx_vnni_kernels(), avx2_kernels(), portable_kernels()}) {
    if (candidate == nullptr) continue;
    if (asked != nullptr && *asked != '\0' && std::strcmp(asked, candidate->name) != 0) continue;
    if (supported(*candidate)) return *candidate;
  }
  throw Failure(std::string("DIT_DEPLOY_CPU_OPS_ISA=") + (asked ? asked : "") +
                ": this processor has no such instructions; it may be avx512_bf16, avx512, avx_vnni, avx2 or portable");
}

}  // namespace dit
