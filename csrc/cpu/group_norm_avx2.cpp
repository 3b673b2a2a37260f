#include "cpu/group_norm.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/group_norm.inl"

namespace sparsefl {

extern const GroupNormKernels<float> kGroupNormAvx2F32 = SPARSEFL_GROUP_NORM_TABLE(float);

}  // namespace sparsefl
#endif
