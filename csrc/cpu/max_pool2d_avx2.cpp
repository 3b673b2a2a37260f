#include "cpu/max_pool2d.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/max_pool2d.inl"

namespace sparsefl {

extern const MaxPool2dKernels<float> kMaxPool2dAvx2F32 = SPARSEFL_MAX_POOL2D_TABLE(float);

}  // namespace sparsefl
#endif
