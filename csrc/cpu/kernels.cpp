// The kernel tables of the instruction set in use.

#include "cpu/batch_last.h"
#include "cpu/batch_norm.h"
#include "cpu/gated_conv2d.h"
#include "cpu/gated_norm.h"
#include "cpu/group_norm.h"
#include "cpu/growth.h"
#include "cpu/isa.h"
#include "cpu/max_pool2d.h"
#include "cpu/relu.h"
#include "cpu/sign_codes.h"
#include "cpu/sparse_conv2d.h"
#include "cpu/sparse_linear.h"

namespace sparsefl {

// Each table is defined in <op>_<instruction set>.cpp; float64 has only the scalar path.
#if defined(__x86_64__)
#define SPARSEFL_KERNELS(Op, function)                                                \
  extern const Op##Kernels<float> k##Op##ScalarF32, k##Op##Avx2F32, k##Op##Avx512F32; \
  extern const Op##Kernels<double> k##Op##F64;                                        \
  template <>                                                                         \
  const Op##Kernels<float>& function<float>() {                                       \
    return pick(k##Op##ScalarF32, k##Op##Avx2F32, k##Op##Avx512F32);                  \
  }                                                                                   \
  template <>                                                                         \
  const Op##Kernels<double>& function<double>() {                                     \
    return k##Op##F64;                                                                \
  }
#else
#define SPARSEFL_KERNELS(Op, function)              \
  extern const Op##Kernels<float> k##Op##ScalarF32; \
  extern const Op##Kernels<double> k##Op##F64;      \
  template <>                                       \
  const Op##Kernels<float>& function<float>() {     \
    return k##Op##ScalarF32;                        \
  }                                                 \
  template <>                                       \
  const Op##Kernels<double>& function<double>() {   \
    return k##Op##F64;                              \
  }
#endif

SPARSEFL_KERNELS(SparseLinear, sparse_linear_kernels)
SPARSEFL_KERNELS(SparseConv2d, sparse_conv2d_kernels)
SPARSEFL_KERNELS(SignCodes, sign_codes_kernels)
SPARSEFL_KERNELS(GatedConv2d, gated_conv2d_kernels)
SPARSEFL_KERNELS(GatedNorm, gated_norm_kernels)
SPARSEFL_KERNELS(BatchLast, batch_last_kernels)
SPARSEFL_KERNELS(BatchNorm, batch_norm_kernels)
SPARSEFL_KERNELS(GroupNorm, group_norm_kernels)
SPARSEFL_KERNELS(MaxPool2d, max_pool2d_kernels)
SPARSEFL_KERNELS(Relu, relu_kernels)
SPARSEFL_KERNELS(Growth, growth_kernels)

}  // namespace sparsefl
