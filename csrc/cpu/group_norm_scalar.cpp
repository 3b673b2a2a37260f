#include "cpu/group_norm.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/group_norm.inl"

namespace sparsefl {

extern const GroupNormKernels<float> kGroupNormScalarF32 = SPARSEFL_GROUP_NORM_TABLE(float);
extern const GroupNormKernels<double> kGroupNormF64 = SPARSEFL_GROUP_NORM_TABLE(double);

}  // namespace sparsefl
