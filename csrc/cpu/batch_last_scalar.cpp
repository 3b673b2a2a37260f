#include "cpu/batch_last.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/batch_last.inl"

namespace sparsefl {

extern const BatchLastKernels<float> kBatchLastScalarF32 = SPARSEFL_BATCH_LAST_TABLE(float);
extern const BatchLastKernels<double> kBatchLastF64 = SPARSEFL_BATCH_LAST_TABLE(double);

}  // namespace sparsefl
