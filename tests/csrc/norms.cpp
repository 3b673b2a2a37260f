// Runs the batch norm kernels of every instruction set that this machine has on awkward lengths,
// against plain loops in double. Prints how many were compared, the same on every machine; exits
// with 1 at the first difference.
#include <vector>

#include "cpu/batch_norm.h"
#include "numbers.h"
#include "sets.h"

namespace sparsefl {

extern const BatchNormKernels<double> kBatchNormF64;
extern const BatchNormKernels<float> kBatchNormScalarF32, kBatchNormAvx2F32, kBatchNormAvx512F32;

namespace {

template <class T>
double centred(const Affine<T>& a, T x) {
  return static_cast<double>(x) - a.mean;
}

template <class T>
void check_moments(const BatchNormKernels<T>& kernels, const char* set, int64_t n, double offset) {
  const auto x = numbers<T>(n, offset);
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) mean += x[i] / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const Moments found = kernels.moments(x.get(), n);
  if (found.count != n) std::exit(1);
  expect_near(found.mean, mean, std::abs(offset) + 1, set, "mean");
  expect_near(found.squares, squares, squares, set, "squares");
  ++compared;
}

template <class T>
void check_rows(const BatchNormKernels<T>& kernels, const char* set, int64_t n, bool relu,
                bool with_residual, Gate gate) {
  const auto x = numbers<T>(n, 0.5), residual = numbers<T>(n, 0), grad = numbers<T>(n, 0);
  const Affine<T> affine{T(0.25), T(1.5), T(-0.25)};
  std::unique_ptr<T[]> y(new T[n]), grad_x(new T[n]), grad_residual(new T[n]);
  kernels.normalise(x.get(), with_residual ? residual.get() : nullptr, y.get(), n, affine, relu);
  double sum = 0, product = 0;
  std::vector<double> gated(n);
  for (int64_t i = 0; i < n; ++i) {
    const double v = centred(affine, x[i]) * 1.5 - 0.25 + (with_residual ? residual[i] : 0);
    expect_near(y[i], relu && v < 0 ? 0 : v, 4, set, "normalise");
    const bool open = !relu || (with_residual ? y[i] > 0 : T(v) > 0);
    gated[i] = open ? static_cast<double>(grad[i]) : 0;
    sum += gated[i];
    product += gated[i] * centred(affine, x[i]);
  }
  NormGradient<T> job{
      gate,   affine,   grad.get(), x.get(),      gate == Gate::kSum ? residual.get() : y.get(),
      T(0.5), T(0.125), T(-0.25),   grad_x.get(), grad_residual.get()};
  double sums[2];
  kernels.sums(job, n, sums);
  const double size = static_cast<double>(n) + 1;
  expect_near(sums[0], sum, size, set, "sum");
  expect_near(sums[1], product, size, set, "product");
  for (const int which : {0, 1, 2}) {
    job.grad_x = which == 1 ? nullptr : grad_x.get();
    job.grad_residual = which == 2 ? nullptr : grad_residual.get();
    for (int64_t i = 0; i < n; ++i) grad_x[i] = grad_residual[i] = T(1e30);
    kernels.gradient(job, n);
    for (int64_t i = 0; i < n; ++i) {
      const double expected = gated[i] * 0.5 + 0.125 - 0.25 * centred(affine, x[i]);
      expect_near(grad_x[i], which == 1 ? double(T(1e30)) : expected, 4, set, "grad_x");
      expect_near(grad_residual[i], which == 2 ? double(T(1e30)) : gated[i], 4, set,
                  "grad_residual");
    }
  }
  ++compared;
}

template <class T>
void check(const BatchNormKernels<T>& kernels, const char* set) {
  for (const int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 127, 130, 2047, 2048, 2049, 5000}) {
    for (const double offset : {0.0, 100.0}) check_moments(kernels, set, n, offset);
    for (const bool residual : {false, true}) {
      check_rows(kernels, set, n, false, residual, Gate::kOpen);
      check_rows(kernels, set, n, true, residual, Gate::kOutput);
      check_rows(kernels, set, n, true, residual, residual ? Gate::kSum : Gate::kInput);
    }
  }
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  SPARSEFL_CHECK_SETS(kBatchNorm, "batch_norm")
  return 0;
}
