#include "cpu/gated_norm.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/gated_norm.inl"

namespace sparsefl {

extern const GatedNormKernels<float> kGatedNormAvx2F32 = SPARSEFL_GATED_NORM_TABLE(float);

}  // namespace sparsefl
#endif
