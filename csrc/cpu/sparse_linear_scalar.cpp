#include "cpu/sparse_linear.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/sparse_linear.inl"

namespace sparsefl {

extern const SparseLinearKernels<float> kSparseLinearScalarF32 =
    SPARSEFL_SPARSE_LINEAR_TABLE(float);
extern const SparseLinearKernels<double> kSparseLinearF64 = SPARSEFL_SPARSE_LINEAR_TABLE(double);

}  // namespace sparsefl
