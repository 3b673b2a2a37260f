#include <bit>
#include <cstring>

#include "codec/normal.h"
#include "codec/value_kernels.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#include "codec/value_kernels.inl"

namespace sparsefl::codec {

extern const ValueKernels kValuesAvx512 = SPARSEFL_VALUE_TABLE;

}  // namespace sparsefl::codec
#endif
