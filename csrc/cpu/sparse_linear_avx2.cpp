#include "cpu/sparse_linear.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/sparse_linear.inl"

namespace sparsefl {

extern const SparseLinearKernels<float> kSparseLinearAvx2F32 = SPARSEFL_SPARSE_LINEAR_TABLE(float);

}  // namespace sparsefl
#endif
