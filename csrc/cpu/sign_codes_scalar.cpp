#include "cpu/sign_codes.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/sign_codes.inl"

namespace sparsefl {

extern const SignCodesKernels<float> kSignCodesScalarF32 = SPARSEFL_SIGN_CODES_TABLE(float);
extern const SignCodesKernels<double> kSignCodesF64 = SPARSEFL_SIGN_CODES_TABLE(double);

}  // namespace sparsefl
