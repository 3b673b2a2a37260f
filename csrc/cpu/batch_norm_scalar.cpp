#include "cpu/batch_norm.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/batch_norm.inl"

namespace sparsefl {

extern const BatchNormKernels<float> kBatchNormScalarF32 = SPARSEFL_BATCH_NORM_TABLE(float);
extern const BatchNormKernels<double> kBatchNormF64 = SPARSEFL_BATCH_NORM_TABLE(double);

}  // namespace sparsefl
