#include "cpu/growth.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/growth.inl"

namespace sparsefl {

extern const GrowthKernels<float> kGrowthAvx512F32 = SPARSEFL_GROWTH_TABLE(float);

}  // namespace sparsefl
#endif
