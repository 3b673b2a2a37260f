#include "cpu/growth.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/growth.inl"

namespace sparsefl {

extern const GrowthKernels<float> kGrowthAvx2F32 = SPARSEFL_GROWTH_TABLE(float);

}  // namespace sparsefl
#endif
