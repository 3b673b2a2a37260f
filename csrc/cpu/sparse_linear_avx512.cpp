#include "cpu/sparse_linear.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/sparse_linear.inl"

namespace sparsefl {

extern const SparseLinearKernels<float> kSparseLinearAvx512F32 =
    SPARSEFL_SPARSE_LINEAR_TABLE(float);

}  // namespace sparsefl
#endif
