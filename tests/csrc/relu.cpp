// Runs the ReLU kernels of every instruction set that this machine has on awkward numbers of
// elements, against plain loops. Prints how many were compared, the same on every machine; exits
// with 1 at the first difference.
#include "cpu/relu.h"

#include <memory>

#include "expect.h"
#include "sets.h"

namespace sparsefl {

extern const ReluKernels<double> kReluF64;
extern const ReluKernels<float> kReluScalarF32, kReluAvx2F32, kReluAvx512F32;

namespace {

// Of exactly their size, so that the address sanitizer sees a lane too far.
template <class T>
void check_elements(const ReluKernels<T>& kernels, const char* set, int64_t n) {
  const std::unique_ptr<T[]> x(new T[n]), y(new T[n]), grad(new T[n]), grad_x(new T[n]);
  const int64_t bytes = (n + kReluSpan - 1) / kReluSpan * kReluSpanBytes;
  const std::unique_ptr<uint8_t[]> passed(new uint8_t[bytes]);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = static_cast<T>(i * i % 11 - 5);
    grad[i] = static_cast<T>(i + 1);
  }
  kernels.forward(x.get(), n, y.get(), passed.get());
  kernels.backward(grad.get(), passed.get(), n, grad_x.get());
  for (int64_t i = 0; i < n; ++i) {
    const bool passes = x[i] > 0;
    expect(y[i] == (passes ? x[i] : T{0}), set, "forward");
    expect(grad_x[i] == (passes ? grad[i] : T{0}), set, "backward");
  }
  ++compared;
}

template <class T>
void check(const ReluKernels<T>& kernels, const char* set) {
  for (const int64_t n :
       {0, 1, 3, 4, 15, 16, 17, 127, 128, 129, 255, 256, 300, 511, 512, 513, 5000}) {
    check_elements(kernels, set, n);
  }
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  SPARSEFL_CHECK_SETS(kRelu, "relu")
  return 0;
}
