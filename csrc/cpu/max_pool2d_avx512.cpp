#include "cpu/max_pool2d.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/max_pool2d.inl"

namespace sparsefl {

extern const MaxPool2dKernels<float> kMaxPool2dAvx512F32 = SPARSEFL_MAX_POOL2D_TABLE(float);

}  // namespace sparsefl
#endif
