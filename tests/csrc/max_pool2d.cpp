// Runs the max pooling kernels of every instruction set that this machine has on awkward shapes,
// against plain loops. Prints how many were compared, the same on every machine; exits with 1 at
// the first difference.
#include "cpu/max_pool2d.h"

#include <memory>
#include <vector>

#include "expect.h"
#include "sets.h"

namespace sparsefl {

extern const MaxPool2dKernels<double> kMaxPool2dF64;
extern const MaxPool2dKernels<float> kMaxPool2dScalarF32, kMaxPool2dAvx2F32, kMaxPool2dAvx512F32;

namespace {

// Few values, so that equal ones meet; of exactly its size, so that the address sanitizer sees a
// lane too far.
template <class T>
std::unique_ptr<T[]> numbers(int64_t n) {
  static uint64_t state = 1;
  std::unique_ptr<T[]> made(new T[n]);
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    made[i] = static_cast<T>(static_cast<double>(state >> 60) - 8);
  }
  return made;
}

template <class T>
void check_window(const MaxPool2dKernels<T>& kernels, const char* set, const PoolGeometry& g) {
  constexpr int64_t kChannels = 3;
  const int64_t n = kChannels * g.height * g.width * g.batch,
                out = kChannels * g.out_height * g.out_width * g.batch;
  const auto x = numbers<T>(n), grad = numbers<T>(out);
  std::unique_ptr<T[]> y(new T[out]), grad_x(new T[n]);
  std::unique_ptr<uint8_t[]> taps(new uint8_t[out]);
  std::vector<T> expected(n);
  for (const int64_t first : {0, 1}) {
    kernels.forward(g, first == 0 ? 0 : 1, first == 0 ? 1 : kChannels, x.get(), y.get(),
                    taps.get());
    kernels.backward(g, first == 0 ? 0 : 1, first == 0 ? 1 : kChannels, grad.get(), taps.get(),
                     grad_x.get());
  }
  for (int64_t i = 0; i < out; ++i) {
    const int64_t s = i % g.batch, ow = i / g.batch % g.out_width,
                  oh = i / g.batch / g.out_width % g.out_height,
                  c = i / g.batch / g.out_width / g.out_height;
    int64_t best = -1, tap = 0;
    for (int64_t k = 0; k < g.kernel_h * g.kernel_w; ++k) {
      const int64_t h = oh * g.stride_h - g.padding_h + k / g.kernel_w * g.dilation_h,
                    w = ow * g.stride_w - g.padding_w + k % g.kernel_w * g.dilation_w;
      if (h < 0 || h >= g.height || w < 0 || w >= g.width) continue;
      const int64_t at = ((c * g.height + h) * g.width + w) * g.batch + s;
      if (best < 0 || x[at] > x[best]) best = at, tap = k;
    }
    expect(y[i] == x[best], set, "forward");
    expect(taps[i] == tap, set, "taps");
    expected[best] += grad[i];
  }
  for (int64_t i = 0; i < n; ++i) expect(grad_x[i] == expected[i], set, "backward");
  ++compared;
}

template <class T>
void check(const MaxPool2dKernels<T>& kernels, const char* set) {
  for (const int64_t batch : {1, 3, 16, 20, 33, 64}) {
    check_window(kernels, set, {batch, 6, 8, 3, 4, 2, 2, 2, 2, 0, 0, 1, 1});
    check_window(kernels, set, {batch, 7, 5, 3, 2, 2, 2, 2, 2, 0, 0, 1, 1});
    check_window(kernels, set, {batch, 7, 5, 4, 3, 2, 2, 2, 2, 0, 0, 1, 1});
    check_window(kernels, set, {batch, 7, 6, 4, 3, 3, 3, 2, 2, 1, 1, 1, 1});
    check_window(kernels, set, {batch, 5, 4, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1});
    check_window(kernels, set, {batch, 6, 7, 2, 2, 1, 2, 4, 3, 0, 0, 1, 1});
    check_window(kernels, set, {batch, 6, 7, 2, 3, 2, 3, 2, 2, 0, 1, 3, 2});
  }
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  SPARSEFL_CHECK_SETS(kMaxPool2d, "max_pool2d")
  return 0;
}
