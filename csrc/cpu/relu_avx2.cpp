#include "cpu/relu.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/relu.inl"

namespace sparsefl {

extern const ReluKernels<float> kReluAvx2F32 = SPARSEFL_RELU_TABLE(float);

}  // namespace sparsefl
#endif
