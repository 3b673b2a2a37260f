#include "codec/dense_kernels.h"

namespace sparsefl::codec {

extern const DenseKernels kDenseScalar;
#if defined(__x86_64__)
extern const DenseKernels kDenseAvx2, kDenseAvx512;
#endif

const DenseKernels& dense_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return kDenseAvx512;
  if (isa == Isa::kAvx2) return kDenseAvx2;
#endif
  (void)isa;
  return kDenseScalar;
}

}  // namespace sparsefl::codec
