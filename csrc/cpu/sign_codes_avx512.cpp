#include "cpu/sign_codes.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/sign_codes.inl"

namespace sparsefl {

extern const SignCodesKernels<float> kSignCodesAvx512F32 = SPARSEFL_SIGN_CODES_TABLE(float);

}  // namespace sparsefl
#endif
