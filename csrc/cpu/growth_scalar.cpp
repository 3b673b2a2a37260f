#include "cpu/growth.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/growth.inl"

namespace sparsefl {

extern const GrowthKernels<float> kGrowthScalarF32 = SPARSEFL_GROWTH_TABLE(float);
extern const GrowthKernels<double> kGrowthF64 = SPARSEFL_GROWTH_TABLE(double);

}  // namespace sparsefl
