#include "cpu/batch_norm.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/batch_norm.inl"

namespace sparsefl {

extern const BatchNormKernels<float> kBatchNormAvx2F32 = SPARSEFL_BATCH_NORM_TABLE(float);

}  // namespace sparsefl
#endif
