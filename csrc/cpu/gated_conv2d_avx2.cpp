#include "cpu/gated_conv2d.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/gated_conv2d.inl"

namespace sparsefl {

extern const GatedConv2dKernels<float> kGatedConv2dAvx2F32 = SPARSEFL_GATED_CONV2D_TABLE(float);

}  // namespace sparsefl
#endif
