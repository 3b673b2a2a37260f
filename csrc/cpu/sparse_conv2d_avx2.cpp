#include "cpu/sparse_conv2d.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/sparse_conv2d.inl"

namespace sparsefl {

extern const SparseConv2dKernels<float> kSparseConv2dAvx2F32 = SPARSEFL_SPARSE_CONV2D_TABLE(float);

}  // namespace sparsefl
#endif
