#include "cpu/max_pool2d.h"

#define SPARSEFL_VECTOR_BYTES 16
#include "cpu/max_pool2d.inl"

namespace sparsefl {

extern const MaxPool2dKernels<float> kMaxPool2dScalarF32 = SPARSEFL_MAX_POOL2D_TABLE(float);
extern const MaxPool2dKernels<double> kMaxPool2dF64 = SPARSEFL_MAX_POOL2D_TABLE(double);

}  // namespace sparsefl
