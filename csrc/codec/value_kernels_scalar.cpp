#include <bit>
#include <cstring>

#include "codec/normal.h"
#include "codec/value_kernels.h"
#include "codec/value_kernels.inl"

namespace sparsefl::codec {

extern const ValueKernels kValuesScalar = SPARSEFL_VALUE_TABLE;

}  // namespace sparsefl::codec
