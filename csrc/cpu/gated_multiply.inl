// Products of some rows of weights with a block of channels of one sample, whose pixels lie in the
// lanes.

namespace sparsefl {
namespace {

// The most rows whose sums of so many vectors the registers hold beside the pixels.
template <class T, int kVectors>
constexpr int kRowsAtOnce = kVectors == kPixelVectors<T> ? 6 : 8;
constexpr int kMostRows = 8;
// What the products of one block of channels with some rows read and write. Vector v of channel i
// at tap t is x[i * x_channel + x_tap[t] + v * x_vector], its weight in a row
// [channels[i] * channel_step + w_tap[t]].
template <class T>
struct Block {
  const T* x;
  int64_t x_channel, x_vector;
  const int64_t *x_tap, *w_tap;
  int64_t taps;
  const int32_t* channels;
  int64_t count, channel_step;
  int64_t y_vector;
  bool first;     // the sums begin with `start`, else with what y holds
  bool in_order;  // the weights of the taps lie one after the other
};

// kTaps > 0: so many taps; the weights of 9 lie one after the other, as `in_order` says.
template <class T, int kRows, int kVectors, int kTaps>
void multiply(const Block<T>& b, const T* const* weights, const T* start, T* const* y) {
  typename Vec<T>::Type sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = b.first ? broadcast(start[r]) : load(y[r] + v * b.y_vector);
    }
  }
  const T* w[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) w[r] = weights[r];
  const T* x = b.x;
  const int64_t x_vector = b.x_vector, taps = kTaps > 0 ? kTaps : b.taps;
  for (int64_t i = 0; i < b.count; ++i, x += b.x_channel) {
    const int64_t channel = b.channels[i] * b.channel_step;
#pragma GCC unroll 9
    for (int64_t t = 0; t < taps; ++t) {
      const T* p = x + b.x_tap[t];
      const int64_t place = channel + (kTaps == 9 ? t : b.w_tap[t]);
      typename Vec<T>::Type pixels[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) pixels[v] = load(p + v * x_vector);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto weight = broadcast(w[r][place]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += weight * pixels[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(y[r] + v * b.y_vector, sum[r][v]);
  }
}

template <class T, int kVectors, int kRows = kRowsAtOnce<T, kVectors>>
inline void multiply_rows(int64_t rows, const Block<T>& b, const T* const* weights, const T* start,
                          T* const* y) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      // 3 x 3 kernels are worth code of their own, and the phases of their gradient at stride 2.
      const auto run = b.taps == 9 && b.in_order ? multiply<T, kRows, kVectors, 9>
                       : b.taps == 4             ? multiply<T, kRows, kVectors, 4>
                       : b.taps == 2             ? multiply<T, kRows, kVectors, 2>
                       : b.taps == 1             ? multiply<T, kRows, kVectors, 1>
                                                 : multiply<T, kRows, kVectors, 0>;
      return run(b, weights, start, y);
    }
    multiply_rows<T, kVectors, kRows - 1>(rows, b, weights, start, y);
  }
}

}  // namespace
}  // namespace sparsefl
