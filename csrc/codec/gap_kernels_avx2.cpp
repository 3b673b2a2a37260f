#if defined(__x86_64__)
#include "codec/gap_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")

namespace sparsefl::codec {
namespace {
#include "codec/gap_kernels.inl"
}  // namespace
const GapKernels avx2::kGapKernels = kTable;
}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
