#include "cpu/group_norm.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/group_norm.inl"

namespace sparsefl {

extern const GroupNormKernels<float> kGroupNormAvx512F32 = SPARSEFL_GROUP_NORM_TABLE(float);

}  // namespace sparsefl
#endif
