#include "codec/sum_kernels.h"

namespace sparsefl::codec {

extern const AllSumKernels kSumsScalar;
#if defined(__x86_64__)
extern const AllSumKernels kSumsAvx2, kSumsAvx512;
#endif

const AllSumKernels& sum_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return kSumsAvx512;
  if (isa == Isa::kAvx2) return kSumsAvx2;
#endif
  (void)isa;
  return kSumsScalar;
}

}  // namespace sparsefl::codec
