#include "cpu/gated_norm.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/gated_norm.inl"

namespace sparsefl {

extern const GatedNormKernels<float> kGatedNormScalarF32 = SPARSEFL_GATED_NORM_TABLE(float);
extern const GatedNormKernels<double> kGatedNormF64 = SPARSEFL_GATED_NORM_TABLE(double);

}  // namespace sparsefl
