#include "cpu/sign_codes.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/sign_codes.inl"

namespace sparsefl {

extern const SignCodesKernels<float> kSignCodesAvx2F32 = SPARSEFL_SIGN_CODES_TABLE(float);

}  // namespace sparsefl
#endif
