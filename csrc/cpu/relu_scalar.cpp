#include "cpu/relu.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/relu.inl"

namespace sparsefl {

extern const ReluKernels<float> kReluScalarF32 = SPARSEFL_RELU_TABLE(float);
extern const ReluKernels<double> kReluF64 = SPARSEFL_RELU_TABLE(double);

}  // namespace sparsefl
