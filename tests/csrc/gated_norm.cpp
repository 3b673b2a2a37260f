// Runs the gated norm's kernels of every instruction set that this machine has on planes of awkward
// lengths, closed gates and inactive pairs among them, against plain loops in double. Prints how
// many elements were compared, the same on every machine; exits with 1 at the first difference.
#include "cpu/gated_norm.h"

#include <cmath>
#include <memory>

#include "expect.h"
#include "parts.h"
#include "sets.h"

namespace sparsefl {

extern const GatedNormKernels<double> kGatedNormF64;
extern const GatedNormKernels<float> kGatedNormScalarF32, kGatedNormAvx2F32, kGatedNormAvx512F32;

namespace {

constexpr int64_t kSamples = 4, kChannels = 5, kPairs = kSamples * kChannels, kParts = 2;
constexpr double kGarbage = 1e30;

void compare(double result, double expected, double scale, const char* set, const char* what) {
  ++compared;
  expect_near(result, expected, scale, set, what);
}

// Of exactly its size, so that the address sanitizer sees a lane too far.
template <class T>
std::unique_ptr<T[]> filled(int64_t n, double value) {
  std::unique_ptr<T[]> made(new T[n]);
  for (int64_t i = 0; i < n; ++i) made[i] = static_cast<T>(value);
  return made;
}

template <class T>
std::unique_ptr<T[]> numbers(int64_t n) {
  static uint64_t state = 1;
  auto made = filled<T>(n, 0);
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    made[i] = static_cast<T>(static_cast<double>(state >> 40) / (1 << 23) - 1);
  }
  return made;
}

// Calls run(first sample, last sample) on threads of their own.
template <class Run>
void share(const Run& run) {
  for_parts(kParts, [&](int64_t p) { run(kSamples * p / kParts, kSamples * (p + 1) / kParts); });
}

template <class T>
void check_pool(const GatedNormKernels<T>& kernels, const char* set, int64_t pixels) {
  const auto x = numbers<T>(kPairs * pixels);
  for (int64_t i = 0; i < 2 * pixels; ++i) x[i] = 0;
  x[2 * pixels - 1] = T(1);
  const auto mean = filled<T>(kPairs, kGarbage);
  const auto nonzero = filled<uint8_t>(kPairs, 7);
  share([&](int64_t first, int64_t last) {
    kernels.pool(x.get(), pixels, first * kChannels, last * kChannels, mean.get(), nonzero.get());
  });
  for (int64_t plane = 0; plane < kPairs; ++plane) {
    double sum = 0;
    for (int64_t i = 0; i < pixels; ++i) sum += x[plane * pixels + i];
    compare(mean[plane], sum / static_cast<double>(pixels), 1, set, "pool");
    compare(nonzero[plane], plane > 0, 1, set, "nonzero");
  }
}

// A batch whose pairs are open, closed but active, or neither.
template <class T>
struct Batch {
  int64_t pixels;
  std::unique_ptr<T[]> z, grad, gate, scale, shift, mean;
  std::unique_ptr<uint8_t[]> active;

  explicit Batch(int64_t pixels)
      : pixels(pixels),
        z(numbers<T>(kPairs * pixels)),
        grad(numbers<T>(kPairs * pixels)),
        gate(numbers<T>(kPairs)),
        scale(numbers<T>(kChannels)),
        shift(numbers<T>(kChannels)),
        mean(numbers<T>(kChannels)),
        active(filled<uint8_t>(kPairs, 1)) {
    for (int64_t i = 0; i < kPairs; ++i) {
      gate[i] = i % 3 == 0 ? std::abs(gate[i]) + T(0.5) : T(0);
      active[i] = i % 3 != 2;
    }
  }

  GatedNormArgs<T> args(bool relu) const {
    return {kChannels,   pixels,      z.get(),    gate.get(), active.get(),
            scale.get(), shift.get(), mean.get(), relu};
  }
  double normalised(int64_t pair, int64_t i) const {
    const int64_t c = pair % kChannels;
    return static_cast<double>(scale[c]) * z[pair * pixels + i] + shift[c];
  }
  // The gradient of what the gate multiplies.
  double passed(bool relu, int64_t pair, int64_t i) const {
    if (gate[pair] == 0) return 0;
    return !relu || static_cast<T>(normalised(pair, i)) > 0 ? grad[pair * pixels + i] : 0;
  }
  double centred(int64_t pair, int64_t i) const {
    return static_cast<double>(z[pair * pixels + i]) - mean[pair % kChannels];
  }
};

template <class T>
void check_moments(const GatedNormKernels<T>& kernels, const char* set, const Batch<T>& batch) {
  const auto mean = filled<T>(kPairs, kGarbage), squares = filled<T>(kPairs, kGarbage);
  share([&](int64_t first, int64_t last) {
    kernels.moments(batch.args(false), first, last, mean.get(), squares.get());
  });
  const int64_t pixels = batch.pixels;
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    if (batch.active[pair] == 0) continue;
    double sum = 0, square = 0;
    for (int64_t i = 0; i < pixels; ++i) sum += batch.z[pair * pixels + i];
    const double average = sum / static_cast<double>(pixels);
    for (int64_t i = 0; i < pixels; ++i) {
      square += std::pow(batch.z[pair * pixels + i] - average, 2);
    }
    compare(mean[pair], average, 1, set, "mean");
    compare(squares[pair], square, 1 + square, set, "squares");
  }
}

template <class T>
void check_norm(const GatedNormKernels<T>& kernels, const char* set, const Batch<T>& batch,
                bool relu) {
  const int64_t pixels = batch.pixels;
  const auto out = filled<T>(kPairs * pixels, kGarbage), dz = filled<T>(kPairs * pixels, kGarbage);
  const auto plain = filled<T>(kPairs, kGarbage), centred = filled<T>(kPairs, kGarbage);
  const auto offset = numbers<T>(kChannels), slope = numbers<T>(kChannels);
  share([&](int64_t first, int64_t last) {
    kernels.apply(batch.args(relu), first, last, out.get());
    kernels.sums(batch.args(relu), batch.grad.get(), first, last, plain.get(), centred.get());
    kernels.differentiate(batch.args(relu), batch.grad.get(), offset.get(), slope.get(), first,
                          last, dz.get());
  });
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    const int64_t c = pair % kChannels;
    double sum = 0, product = 0;
    for (int64_t i = 0; i < pixels; ++i) {
      const double v = batch.gate[pair] * batch.normalised(pair, i);
      compare(out[pair * pixels + i], relu && v < 0 ? 0 : v, 1, set, "apply");
      const double dv = batch.passed(relu, pair, i);
      sum += dv;
      product += dv * batch.centred(pair, i);
      const double gradient = batch.gate[pair] * static_cast<double>(batch.scale[c]) * dv +
                              offset[c] + slope[c] * batch.centred(pair, i);
      compare(dz[pair * pixels + i], batch.active[pair] != 0 ? gradient : 0, 4, set,
              "differentiate");
    }
    compare(plain[pair], sum, static_cast<double>(pixels), set, "sum");
    compare(centred[pair], product, static_cast<double>(2 * pixels), set, "centred sum");
  }
}

template <class T>
void check(const GatedNormKernels<T>& kernels, const char* set) {
  for (const int64_t pixels : {1, 2, 4, 7, 15, 16, 17, 49, 64, 65, 1024}) {
    check_pool(kernels, set, pixels);
    const Batch<T> batch(pixels);
    check_moments(kernels, set, batch);
    for (const bool relu : {false, true}) check_norm(kernels, set, batch, relu);
  }
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  SPARSEFL_CHECK_SETS(kGatedNorm, "gated_norm")
  return 0;
}
