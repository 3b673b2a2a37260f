#include "cpu/sparse_conv2d.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/sparse_conv2d.inl"

namespace sparsefl {

extern const SparseConv2dKernels<float> kSparseConv2dScalarF32 =
    SPARSEFL_SPARSE_CONV2D_TABLE(float);
extern const SparseConv2dKernels<double> kSparseConv2dF64 = SPARSEFL_SPARSE_CONV2D_TABLE(double);

}  // namespace sparsefl
