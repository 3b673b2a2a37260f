#include "codec/gap_kernels.h"

#include "cpu/isa.h"

namespace sparsefl::codec {
namespace {

#include "codec/gap_kernels.inl"

const GapKernels& choose() {
#if defined(__x86_64__)
  if (isa() == Isa::kAvx512 && avx512::has_gap_kernels()) return avx512::kGapKernels;
  if (isa() != Isa::kScalar) return avx2::kGapKernels;
#endif
  return kTable;
}

}  // namespace

const GapKernels& gap_kernels() {
  static const GapKernels& chosen = choose();
  return chosen;
}

}  // namespace sparsefl::codec
