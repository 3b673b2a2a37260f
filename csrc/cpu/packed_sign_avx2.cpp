#include "cpu/packed_sign.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define SPARSEFL_VECTOR_BYTES 32
#include "cpu/packed_sign.inl"

namespace sparsefl {

extern const PackedSignKernels kPackedSignAvx2 = SPARSEFL_PACKED_SIGN_TABLE;

}  // namespace sparsefl
#endif
