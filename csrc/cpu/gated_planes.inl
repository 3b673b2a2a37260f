// The weight's gradient of the gated convolution where channels are few: lanes are pixels of one
// sample, so that no lane is a skipped channel's, and the sums of every weight stay apart by lane
// until all samples are added.

namespace sparsefl {
namespace {

// Taps and output channels whose sums the registers hold.
constexpr int kPlaneTaps = SPARSEFL_VECTOR_BYTES == 64 ? 9 : 3;
constexpr int kPlaneRows = SPARSEFL_VECTOR_BYTES == 64 ? 3 : 4;
// Whether a register is left for pixels that all rows share. Loaded for each of them, across cache
// lines mostly, they would take twice the time.
constexpr bool kKeepsPixels = SPARSEFL_VECTOR_BYTES == 64;
// Of the sums of a block of input channels, so that they stay in the L2 cache beside the gradients.
constexpr int64_t kPlaneSumBytes = 256 << 10;

constexpr int64_t kLeastPlane = 256;
constexpr int64_t kMostPlaneRows = SPARSEFL_VECTOR_BYTES == 64 ? 32 : 16;

// A sample's channel and how its pixels follow each other.
template <class T>
struct Planes {
  const T* x;
  int64_t row_step, rows, columns;
};

// sum[r][t][lane] += gradients[r][pixel] * x[pixel + place[t]] over the pixels of the lane.
template <class T, int kTaps, int kRows>
void multiply_planes(const Planes<T>& a, const T* const* gradients, const int64_t* place,
                     T* const* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type sum[kRows][kTaps];
  const T* gradient[kRows];
  int64_t at[kTaps];
#pragma GCC unroll 9
  for (int t = 0; t < kTaps; ++t) at[t] = place[t];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    gradient[r] = gradients[r];
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) sum[r][t] = load(sums[r] + t * kLanes);
  }
  int64_t pixel = 0;
  for (int64_t y = 0; y < a.rows; ++y) {
    const T* row = a.x + y * a.row_step;
    const T* const end = row + a.columns;
    for (; row < end; row += kLanes, pixel += kLanes) {
      typename Vec<T>::Type g[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) g[r] = load(gradient[r] + pixel);
#pragma GCC unroll 9
      for (int t = 0; t < kTaps; ++t) {
        auto pixels = load(row + at[t]);
        if (kKeepsPixels) keep(pixels);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[r][t] += g[r] * pixels;
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) store(sums[r] + t * kLanes, sum[r][t]);
  }
}

template <class T, int kTaps, int kRows = kPlaneRows>
inline void multiply_plane_rows(int64_t rows, const Planes<T>& a, const T* const* gradients,
                                const int64_t* place, T* const* sums) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return multiply_planes<T, kTaps, kRows>(a, gradients, place, sums);
    multiply_plane_rows<T, kTaps, kRows - 1>(rows, a, gradients, place, sums);
  }
}

template <class T>
struct PlaneOuter {
  static constexpr int kLanes = Vec<T>::kLanes;

  Operand<T> operand;
  int64_t taps, channel_sums, channels;  // sums of an input channel, and channels of a block

  explicit PlaneOuter(const GatedOuterArgs<T>& a)
      : operand(a.y, a.x, a.y.grid), taps(a.y.kernel * a.x.kernel) {
    channel_sums = round_up(a.rows.channels * taps, kLanes) * kLanes;
    const int64_t fit = kPlaneSumBytes / int64_t{sizeof(T)} / channel_sums;
    channels = fit < 1 ? 1 : smaller(fit, a.in_channels);
  }
  int64_t place_elements() const {
    return round_up(taps * int64_t{sizeof(int64_t)}, 64) / int64_t{sizeof(T)};
  }
  int64_t operand_elements() const { return round_up(operand.elements + kLanes, 16); }
};

// One channel of a sample.
template <class T>
void add_planes(const GatedOuterArgs<T>& a, const PlaneOuter<T>& plan, int64_t n, const T* operand,
                const int64_t* place, T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t pixels = a.y.grid * a.x.grid, rows = a.rows.channels;
  const bool direct = plan.operand.direct;
  const Planes<T> planes{operand, plan.operand.row_step(), direct ? a.y.grid : 1,
                         direct ? a.x.grid : pixels};
  const int32_t* listed = a.rows.index + n * rows;
  const int64_t kept = a.rows.count[n], groups = ceil_div(kept, kPlaneRows);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = kept * g / groups, count = kept * (g + 1) / groups - first;
    const T* gradients[kPlaneRows];
    T* to[kPlaneRows];
    for (int64_t i = 0; i < count; ++i) {
      gradients[i] = a.grad + (n * rows + listed[first + i]) * pixels;
      to[i] = sums + listed[first + i] * plan.taps * kLanes;
    }
    int64_t t = 0;
    const auto advance = [&](int64_t taps) {
      for (int64_t i = 0; i < count; ++i) to[i] += taps * kLanes;
      t += taps;
    };
    while (t + kPlaneTaps <= plan.taps) {
      multiply_plane_rows<T, kPlaneTaps>(count, planes, gradients, place + t, to);
      advance(kPlaneTaps);
    }
    while (t < plan.taps) {
      multiply_plane_rows<T, 1>(count, planes, gradients, place + t, to);
      advance(1);
    }
  }
}

// grad_weight[:, c, :] from its sums by lane, which it overwrites.
template <class T>
void write_plane_sums(const GatedOuterArgs<T>& a, int64_t taps, int64_t c, T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t rows = a.rows.channels, weights = rows * taps;
  for (int64_t i = 0; i < weights; i += kLanes) {
    typename Vec<T>::Type v[kLanes];
    for (int j = 0; j < kLanes; ++j) v[j] = load(sums + (i + j) * kLanes);
    // Of what is read already.
    store(sums + i, sum_each<T>(v));
  }
  for (int64_t r = 0; r < rows; ++r) {
    T* to = a.grad_weight + (r * a.in_channels + c) * taps;
    for (int64_t t = 0; t < taps; ++t) to[t] = sums[r * taps + t];
  }
}

// Writes grad_weight[:, c, :] for the channels [first, last).
template <class T>
void plane_outer(const GatedOuterArgs<T>& a, int64_t first, int64_t last, T* scratch) {
  const PlaneOuter<T> plan(a);
  int64_t* const place = reinterpret_cast<int64_t*>(scratch);
  T* const operand = scratch + plan.place_elements();
  T* const sums = operand + plan.operand_elements();
  for (int64_t t = 0; t < plan.taps; ++t) {
    place[t] = plan.operand.place(t / a.x.kernel, t % a.x.kernel);
  }
  const int64_t plane = a.y.input * a.x.input;
  const T* const end = a.in + a.samples * a.in_channels * plane;
  for (int64_t begin = first; begin < last; begin += plan.channels) {
    const int64_t count = smaller(plan.channels, last - begin);
    fill_zero(sums, count * plan.channel_sums);
    for (int64_t n = 0; n < a.samples; ++n) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t channel = n * a.in_channels + begin + i;
        if (a.channels[channel] == 0 || a.rows.count[n] == 0) continue;
        plan.operand.read(a.in + channel * plane, a.in, end, 0, a.y.grid, operand);
        add_planes(a, plan, n, operand, place, sums + i * plan.channel_sums);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      write_plane_sums(a, plan.taps, begin + i, sums + i * plan.channel_sums);
    }
  }
}

template <class T>
int64_t plane_outer_scratch(const GatedOuterArgs<T>& a) {
  const PlaneOuter<T> plan(a);
  return plan.place_elements() + plan.operand_elements() + plan.channels * plan.channel_sums;
}

// Whether the pixels fill vectors, which the channels do not. With more of them, or with smaller
// images, for which sums are loaded and stored more often, channels in the lanes are faster (seen
// on one core at density .5: 16 channels of 32 x 32 70 against 40 GFLOP/s, 32 of 16 x 16 60 against
// 88 on AVX2; on two by AVX-512 250 against 201, 64 of 16 x 16 157 against 187).
template <class T>
bool fits_planes(const GatedOuterArgs<T>& a) {
  const int64_t pixels = a.y.grid * a.x.grid;
  return pixels % Vec<T>::kLanes == 0 && pixels >= kLeastPlane && a.rows.channels <= kMostPlaneRows;
}

}  // namespace
}  // namespace sparsefl
