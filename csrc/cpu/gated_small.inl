// The gated convolution of square images of at most 4 x 4 pixels with a 3 x 3 kernel, stride 1 and
// padding 1. A vector of their pixels would be mostly empty and a third to a half of the taps reach
// padding, so the lanes are output channels, skipped ones among them, and only the pairs of a pixel
// and a tap inside the image are multiplied. Skipped input channels are skipped.

namespace sparsefl {
namespace {

constexpr int kSmallTaps = 9;

// Rows of pixels, and vectors of output channels, whose sums the registers hold.
template <int kSide>
constexpr int kSmallRows = SPARSEFL_VECTOR_BYTES == 64 || kSide < 3 ? kSide : 1;
template <int kSide>
constexpr int kSmallVectors = kSide == 1                                  ? 8
                              : kSide == 2                                ? 2
                              : SPARSEFL_VECTOR_BYTES == 64 && kSide == 4 ? 1
                              : SPARSEFL_VECTOR_BYTES == 64               ? 2
                                                                          : 3;

// Forgets what registers hold of memory: without it the compiler keeps all pixels of a channel, for
// which there are too few.
inline void forget_memory() { asm volatile("" ::: "memory"); }

// Whether a tap of a row or column of pixels lies inside the image.
constexpr bool inside(int side, int pixel, int tap) {
  return pixel + tap >= 1 && pixel + tap <= side;
}

// sums[p][lanes] of the rows [kTop, kTop + kRows) of pixels; `weights` is [channels][taps][lanes]
// from channel `first` on.
template <class T, int kSide, int kTop, int kRows>
void small_multiply(const T* x, const int32_t* channels, int64_t count, int64_t first,
                    const T* weights, bool add, T* sums) {
  constexpr int kLanes = Vec<T>::kLanes, kVectors = kSmallVectors<kSide>;
  constexpr int kWidth = kVectors * kLanes;
  typename Vec<T>::Type sum[kRows * kSide][kVectors];
#pragma GCC unroll 16
  for (int p = 0; p < kRows * kSide; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const T* from = sums + (kTop * kSide + p) * kWidth + v * kLanes;
      sum[p][v] = add ? load(from) : typename Vec<T>::Type{};
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const T* plane = x + channels[i] * (kSide * kSide);
    const T* weight = weights + (channels[i] - first) * (kSmallTaps * kWidth);
#pragma GCC unroll 9
    for (int t = 0; t < kSmallTaps; ++t, weight += kWidth) {
      // Of a 1 x 1 image all taps but the middle one reach padding.
      if (kSide == 1 && t != 4) continue;
      typename Vec<T>::Type w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) w[v] = load(weight + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < kRows * kSide; ++p) {
        const int row = kTop + p / kSide, column = p % kSide;
        if (!inside(kSide, row, t / 3) || !inside(kSide, column, t % 3)) continue;
        const auto pixel = broadcast(plane[(row + t / 3 - 1) * kSide + column + t % 3 - 1]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[p][v] += pixel * w[v];
      }
      if constexpr (kSide > 2) forget_memory();
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kRows * kSide; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      store(sums + (kTop * kSide + p) * kWidth + v * kLanes, sum[p][v]);
    }
  }
}

template <class T, int kSide, int kTop = 0>
inline void small_rows(const T* x, const int32_t* channels, int64_t count, int64_t first,
                       const T* weights, bool add, T* sums) {
  if constexpr (kTop < kSide) {
    constexpr int kRows = kSmallRows<kSide>;
    small_multiply<T, kSide, kTop, kRows>(x, channels, count, first, weights, add, sums);
    small_rows<T, kSide, kTop + kRows>(x, channels, count, first, weights, add, sums);
  }
}

// Packs weight[(row + lane) * row_step + c * channel_step + t] as [c][t][lane], the channels
// [first, last), `lanes` lanes of which `rows` exist; the taps reversed where `flip`.
template <class T>
void pack_small(const GatedGatherArgs<T>& a, int64_t row, int64_t rows, int64_t lanes,
                int64_t first, int64_t last, bool flip, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const T* end = a.weight + a.rows.channels * a.channels.channels * kSmallTaps;
  for (int64_t c = first; c < last; ++c, to += kSmallTaps * lanes) {
    const T* from = a.weight + row * a.row_step + c * a.channel_step;
    for (int64_t l = 0; l < lanes; l += kLanes) {
      for (int64_t block = 0; block < kSmallTaps; block += kLanes) {
        const int64_t taps = smaller(kSmallTaps - block, kLanes);
        typename Vec<T>::Type v[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) {
          v[j] = typename Vec<T>::Type{};
          if (l + j >= rows) continue;
          const T* p = from + (l + j) * a.row_step + block;
          v[j] = end - p >= kLanes ? load(p) : load_some(p, taps);
        }
        transpose_square<T>(v);
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t tap = flip ? kSmallTaps - 1 - block - t : block + t;
          store(to + tap * lanes + l, v[t]);
        }
      }
    }
  }
}

// Of the packed weights of a block of channels. With few pixels a weight is used so seldom that it
// has to come from the L1 cache: 2.6 against 3.8 ms at 512 channels of 2 x 2.
template <int kSide>
constexpr int64_t kSmallBlockBytes = kSmallRows<kSide> < kSide || kSide <= 2 ? 20 << 10 : 256 << 10;

template <class T, int kSide>
struct SmallSizes {
  static constexpr int64_t kWidth = kSmallVectors<kSide> * Vec<T>::kLanes;
  static constexpr int64_t kSums = kSide * kSide * kWidth;
  static constexpr int64_t kChannels =
      kSmallBlockBytes<kSide> / int64_t{sizeof(T)} / (kSmallTaps * kWidth);
};

// The blocks [first_block, last_block) of kWidth rows, all samples.
template <class T, int kSide>
void small_gather_side(const GatedGatherArgs<T>& a, int64_t first_block, int64_t last_block,
                       T* scratch) {
  const int64_t samples = a.samples;
  typedef SmallSizes<T, kSide> Sizes;
  constexpr int64_t kPixels = kSide * kSide, kWidth = Sizes::kWidth;
  const int64_t rows = a.rows.channels, channels = a.channels.channels;
  // Taps of an input gradient run backwards.
  const bool flip = a.y.tap[0] > a.y.tap[2];
  T *sums = scratch, *packed = sums + samples * Sizes::kSums;
  int32_t* next = reinterpret_cast<int32_t*>(packed + smaller(Sizes::kChannels, channels) *
                                                          kSmallTaps * kWidth);
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t row = block * kWidth, present = smaller(kWidth, rows - row);
    for (int64_t first = 0; first == 0 || first < channels; first += Sizes::kChannels) {
      const int64_t last = smaller(channels, first + Sizes::kChannels);
      pack_small(a, row, present, kWidth, first, last, flip, packed);
      for (int64_t n = 0; n < samples; ++n) {
        const int32_t* listed = a.channels.index + n * channels;
        const int64_t begin = first == 0 ? 0 : next[n];
        int64_t end = begin;
        while (end < a.channels.count[n] && listed[end] < last) ++end;
        next[n] = static_cast<int32_t>(end);
        small_rows<T, kSide>(a.in + n * channels * kPixels, listed + begin, end - begin, first,
                             packed, first > 0, sums + n * Sizes::kSums);
      }
    }
    for (int64_t n = 0; n < samples; ++n) {
      T* out = a.out + (n * rows + row) * kPixels;
      const T* from = sums + n * Sizes::kSums;
      const int32_t* listed = a.rows.index + n * rows;
      const int32_t* end = listed + a.rows.count[n];
      while (listed < end && *listed < row) ++listed;
      for (int64_t r = 0; r < present; ++r) {
        const bool kept = listed < end && *listed == row + r;
        listed += kept;
        const T start = a.start == nullptr ? T{0} : a.start[n * a.start_step + row + r];
        for (int64_t p = 0; p < kPixels; ++p) {
          out[r * kPixels + p] = kept ? from[p * kWidth + r] + start : T{0};
        }
      }
    }
  }
}

template <int kSide>
struct Side {
  static constexpr int value = kSide;
};

// Calls run with the Side of the images.
template <class Run>
inline void with_side(int64_t side, const Run& run) {
  if (side == 1) run(Side<1>{});
  if (side == 2) run(Side<2>{});
  if (side == 3) run(Side<3>{});
  if (side == 4) run(Side<4>{});
}

template <class T>
void small_gather(const GatedGatherArgs<T>& a, int64_t first, int64_t last, T* scratch) {
  with_side(a.y.grid, [&](auto side) {
    small_gather_side<T, decltype(side)::value>(a, first, last, scratch);
  });
}

template <class T>
int64_t small_blocks(const GatedGatherArgs<T>& a) {
  int64_t blocks = 0;
  with_side(a.y.grid, [&](auto side) {
    blocks = ceil_div(a.rows.channels, SmallSizes<T, decltype(side)::value>::kWidth);
  });
  return blocks;
}

template <class T>
int64_t small_gather_scratch(const GatedGatherArgs<T>& a) {
  int64_t elements = 0;
  with_side(a.y.grid, [&](auto side) {
    typedef SmallSizes<T, decltype(side)::value> Sizes;
    elements = a.samples * Sizes::kSums +
               smaller(Sizes::kChannels, a.channels.channels) * kSmallTaps * Sizes::kWidth +
               round_up(a.samples * int64_t{sizeof(int32_t)}, 64) / int64_t{sizeof(T)};
  });
  return elements;
}

// Vectors of gradients that the sums of all taps are kept of.
constexpr int kSmallGradients = SPARSEFL_VECTOR_BYTES == 64 ? 2 : 1;

template <class T>
constexpr int64_t kSmallGroup = kSmallGradients * Vec<T>::kLanes;

// Turns grad [samples, channels, kPixels] into [group][sample][pixel][lanes of the group], skipped
// channels being zero, for the samples [first, last).
template <class T>
void small_turn(const ChannelLists& lists, const T* grad, int64_t pixels, int64_t samples,
                int64_t first, int64_t last, T* turned) {
  constexpr int64_t kWidth = kSmallGroup<T>;
  const int64_t groups = ceil_div(lists.channels, kWidth);
  for (int64_t n = first; n < last; ++n) {
    const int32_t* listed = lists.index + n * lists.channels;
    const int32_t* end = listed + lists.count[n];
    for (int64_t g = 0; g < groups; ++g) {
      T* to = turned + (g * samples + n) * pixels * kWidth;
      for (int64_t l = 0; l < kWidth; ++l) {
        const int64_t c = g * kWidth + l;
        const bool kept = listed < end && *listed == c;
        listed += kept;
        const T* from = grad + (n * lists.channels + c) * pixels;
        for (int64_t p = 0; p < pixels; ++p) to[p * kWidth + l] = kept ? from[p] : T{0};
      }
    }
  }
}

// sums[tap][lanes] of a channel over its samples, in registers throughout.
template <class T, int kSide>
void small_outer_channel(const GatedOuterArgs<T>& a, int64_t c, const int32_t* samples,
                         int64_t count, const T* turned, T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  constexpr int64_t kPixels = kSide * kSide, kWidth = kSmallGroup<T>;
  typename Vec<T>::Type sum[kSmallTaps][kSmallGradients] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t n = samples[i];
    const T* plane = a.in + (n * a.in_channels + c) * kPixels;
    const T* gradients = turned + n * kPixels * kWidth;
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      typename Vec<T>::Type g[kSmallGradients];
#pragma GCC unroll 2
      for (int v = 0; v < kSmallGradients; ++v) g[v] = load(gradients + p * kWidth + v * kLanes);
#pragma GCC unroll 9
      for (int t = 0; t < kSmallTaps; ++t) {
        const int row = p / kSide, column = p % kSide;
        if (!inside(kSide, row, t / 3) || !inside(kSide, column, t % 3)) continue;
        const auto pixel = broadcast(plane[(row + t / 3 - 1) * kSide + column + t % 3 - 1]);
#pragma GCC unroll 2
        for (int v = 0; v < kSmallGradients; ++v) sum[t][v] += pixel * g[v];
      }
      if constexpr (kSide > 2) forget_memory();
    }
  }
#pragma GCC unroll 9
  for (int t = 0; t < kSmallTaps; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < kSmallGradients; ++v) store(sums + t * kWidth + v * kLanes, sum[t][v]);
  }
}

// grad_weight[:, c, :] for the channels [first, last).
template <class T>
void small_outer(const GatedOuterArgs<T>& a, int64_t first, int64_t last, T* scratch) {
  constexpr int64_t kWidth = kSmallGroup<T>;
  const int64_t rows = a.rows.channels, pixels = a.y.grid * a.x.grid;
  T* sums = scratch;
  int32_t* listed = reinterpret_cast<int32_t*>(scratch + kSmallTaps * kWidth);
  with_side(a.y.grid, [&](auto side) {
    for (int64_t row = 0; row < rows; row += kWidth) {
      const T* turned = a.turned + row * a.samples * pixels;
      for (int64_t c = first; c < last; ++c) {
        // Without a branch a sample, of which a third would be mispredicted.
        int64_t count = 0;
        for (int64_t n = 0; n < a.samples; ++n) {
          listed[count] = static_cast<int32_t>(n);
          count += a.channels[n * a.in_channels + c] != 0;
        }
        small_outer_channel<T, decltype(side)::value>(a, c, listed, count, turned, sums);
        for (int64_t r = row; r < rows && r < row + kWidth; ++r) {
          T* to = a.grad_weight + (r * a.in_channels + c) * kSmallTaps;
          for (int64_t t = 0; t < kSmallTaps; ++t) to[t] = sums[t * kWidth + r - row];
        }
      }
    }
  });
}

template <class T>
int64_t small_outer_scratch(const GatedOuterArgs<T>& a) {
  const int64_t bytes = (a.samples + 1) * int64_t{sizeof(int32_t)};
  return kSmallTaps * kSmallGroup<T> + round_up(bytes, 64) / int64_t{sizeof(T)};
}

template <class T>
int64_t small_turned_channels(int64_t channels) {
  return round_up(channels, kSmallGroup<T>);
}

}  // namespace
}  // namespace sparsefl
