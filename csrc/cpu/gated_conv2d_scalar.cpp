#include "cpu/gated_conv2d.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/gated_conv2d.inl"

namespace sparsefl {

extern const GatedConv2dKernels<float> kGatedConv2dScalarF32 = SPARSEFL_GATED_CONV2D_TABLE(float);
extern const GatedConv2dKernels<double> kGatedConv2dF64 = SPARSEFL_GATED_CONV2D_TABLE(double);

}  // namespace sparsefl
