// Runs the group norm kernels of every instruction set that this machine has on awkward batches,
// against plain loops in double. Prints how many were compared, the same on every machine; exits
// with 1 at the first difference.
#include "cpu/group_norm.h"

#include <vector>

#include "numbers.h"
#include "sets.h"

namespace sparsefl {

extern const GroupNormKernels<double> kGroupNormF64;
extern const GroupNormKernels<float> kGroupNormScalarF32, kGroupNormAvx2F32, kGroupNormAvx512F32;

namespace {

// In two calls, as two channels would be.
template <class T>
void check_moments(const GroupNormKernels<T>& kernels, const char* set, int64_t batch,
                   int64_t pixels, double offset) {
  const int64_t n = batch * pixels;
  const auto x = numbers<T>(n, offset);
  std::unique_ptr<T[]> scratch(new T[kGroupNormScratch * sample_columns(batch)]);
  std::vector<double> mean(batch), squares(batch);
  SampleMoments found{0, mean.data(), squares.data()};
  const int64_t first = pixels / 3 * batch;
  kernels.moments(x.get(), first, batch, scratch.get(), &found);
  kernels.moments(x.get() + first, n - first, batch, scratch.get(), &found);
  if (found.count != pixels) std::exit(1);
  for (int64_t s = 0; s < batch; ++s) {
    double sum = 0, square = 0;
    for (int64_t p = 0; p < pixels; ++p) sum += x[p * batch + s];
    for (int64_t p = 0; p < pixels; ++p) {
      const double d = x[p * batch + s] - sum / static_cast<double>(pixels);
      square += d * d;
    }
    const double size = std::abs(offset) + 1;
    expect_near(mean[s], sum / static_cast<double>(pixels), size, set, "mean");
    expect_near(squares[s], square, square + 1e-4, set, "squares");
  }
  ++compared;
}

template <class T>
void check_channel(const GroupNormKernels<T>& kernels, const char* set, int64_t batch,
                   int64_t pixels, bool relu, bool with_residual, Gate gate) {
  const int64_t n = batch * pixels, columns = sample_columns(batch);
  const auto x = numbers<T>(n, 0.5), residual = numbers<T>(n, 0), grad = numbers<T>(n, 0);
  const auto mean = numbers<T>(columns, 0.25), invstd = numbers<T>(columns, 2),
             offset = numbers<T>(columns, 0), tilt = numbers<T>(columns, 0);
  for (int64_t c = batch; c < columns; ++c) {
    mean[c] = mean[c - batch], invstd[c] = invstd[c - batch];
    offset[c] = offset[c - batch], tilt[c] = tilt[c - batch];
  }
  const T weight(-0.75), bias(-0.25);
  std::unique_ptr<T[]> y(new T[n]), grad_x(new T[n]), grad_residual(new T[n]),
      scratch(new T[kGroupNormScratch * columns]);
  const SampleAffine<T> affine{columns, mean.get(), invstd.get(), weight, bias};
  kernels.normalise(x.get(), with_residual ? residual.get() : nullptr, y.get(), n, affine, relu);
  std::vector<double> gated(n), expected(2 * batch), group(2 * batch, 1.5);
  double channel[2] = {0, 0}, found[2];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t s = i % batch;
    const double centred = static_cast<double>(x[i]) - mean[s];
    const double v = centred * (invstd[s] * weight) + bias + (with_residual ? residual[i] : 0);
    expect_near(y[i], relu && v < 0 ? 0 : v, 8, set, "normalise");
    const bool open = !relu || (gate == Gate::kInput ? T(v) > 0 : y[i] > 0);
    gated[i] = open ? static_cast<double>(grad[i]) : 0;
    channel[0] += gated[i];
    channel[1] += gated[i] * centred * invstd[s];
    expected[s] += weight * gated[i];
    expected[batch + s] += weight * gated[i] * centred;
  }
  GroupNormGradient<T> job{gate,
                           affine,
                           grad.get(),
                           x.get(),
                           gate == Gate::kSum ? residual.get() : y.get(),
                           offset.get(),
                           tilt.get(),
                           grad_x.get(),
                           grad_residual.get()};
  kernels.sums(job, n, batch, scratch.get(), found, group.data());
  const double size = static_cast<double>(n) + 1;
  expect_near(found[0], channel[0], size, set, "bias");
  expect_near(found[1], channel[1], 4 * size, set, "weight");
  for (int64_t s = 0; s < 2 * batch; ++s) {
    expect_near(group[s], 1.5 + expected[s], static_cast<double>(pixels) + 2, set, "sums");
  }
  for (const int which : {0, 1, 2}) {
    job.grad_x = which == 1 ? nullptr : grad_x.get();
    job.grad_residual = which == 2 ? nullptr : grad_residual.get();
    for (int64_t i = 0; i < n; ++i) grad_x[i] = grad_residual[i] = T(1e30);
    kernels.gradient(job, n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t s = i % batch;
      const double centred = static_cast<double>(x[i]) - mean[s];
      const double v = gated[i] * (invstd[s] * weight) + offset[s] + tilt[s] * centred;
      expect_near(grad_x[i], which == 1 ? double(T(1e30)) : v, 8, set, "grad_x");
      expect_near(grad_residual[i], which == 2 ? double(T(1e30)) : gated[i], 4, set,
                  "grad_residual");
    }
  }
  ++compared;
}

template <class T>
void check(const GroupNormKernels<T>& kernels, const char* set) {
  for (const int64_t batch : {1, 2, 7, 10, 16, 20, 33, 48, 64, 65}) {
    for (const int64_t pixels : {1, 3, 16, 49, 300}) {
      for (const double offset : {0.0, 100.0}) check_moments(kernels, set, batch, pixels, offset);
      for (const bool residual : {false, true}) {
        check_channel(kernels, set, batch, pixels, false, residual, Gate::kOpen);
        check_channel(kernels, set, batch, pixels, true, residual, Gate::kOutput);
        check_channel(kernels, set, batch, pixels, true, residual,
                      residual ? Gate::kSum : Gate::kInput);
      }
    }
  }
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  SPARSEFL_CHECK_SETS(kGroupNorm, "group_norm")
  return 0;
}
