#include "cpu/packed_sign.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define SPARSEFL_VECTOR_BYTES 64
#include "cpu/packed_sign.inl"

namespace sparsefl {

extern const PackedSignKernels kPackedSignAvx512 = SPARSEFL_PACKED_SIGN_TABLE;

}  // namespace sparsefl
#endif
