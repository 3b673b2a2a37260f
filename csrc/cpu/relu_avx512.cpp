#include "cpu/relu.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/relu.inl"

namespace sparsefl {

extern const ReluKernels<float> kReluAvx512F32 = SPARSEFL_RELU_TABLE(float);

}  // namespace sparsefl
#endif
