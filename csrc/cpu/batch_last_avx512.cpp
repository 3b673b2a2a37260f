#include "cpu/batch_last.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/batch_last.inl"

namespace sparsefl {

extern const BatchLastKernels<float> kBatchLastAvx512F32 = SPARSEFL_BATCH_LAST_TABLE(float);

}  // namespace sparsefl
#endif
