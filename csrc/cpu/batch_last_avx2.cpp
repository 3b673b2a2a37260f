#include "cpu/batch_last.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/batch_last.inl"

namespace sparsefl {

extern const BatchLastKernels<float> kBatchLastAvx2F32 = SPARSEFL_BATCH_LAST_TABLE(float);

}  // namespace sparsefl
#endif
