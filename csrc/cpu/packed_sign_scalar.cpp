#include "cpu/packed_sign.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/packed_sign.inl"

namespace sparsefl {

extern const PackedSignKernels kPackedSignScalar = SPARSEFL_PACKED_SIGN_TABLE;

}  // namespace sparsefl
