// The weight's gradient of the gated convolution: for every sample, products of the input's kept
// channels with the gradient's kept channels, which lie in the lanes.

namespace sparsefl {
namespace {

// Vectors of gradients that a pixel is broadcast to, and taps whose sums of so many the registers
// hold: with one vector alone every product would take a load.
constexpr int kGradientVectors = 3;
constexpr int taps_at_once(int vectors) {
  if (SPARSEFL_VECTOR_BYTES == 64 || vectors == 1) return 9;
  return vectors == 2 ? 5 : 3;
}

template <class T>
int64_t turned_channels(int64_t channels) {
  return round_up(channels, Vec<T>::kLanes);
}

// The vectors of a sample's listed channels, in groups of nearly as many each.
template <class T>
struct Groups {
  int64_t vectors, count;

  explicit Groups(int64_t listed)
      : vectors(ceil_div(listed, Vec<T>::kLanes)), count(ceil_div(vectors, kGradientVectors)) {}
  // The group's first vector.
  int64_t begin(int64_t group) const { return vectors * group / count; }
};

// Turns up to kLanes listed channels of [channels, pixels] into to[pixel * ld + channel].
template <class T>
inline void turn_vector(const T* from, const int32_t* listed, int64_t channels, int64_t pixels,
                        T* to, int64_t ld) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t p = 0; p < pixels; p += kLanes) {
    const int64_t width = smaller(kLanes, pixels - p);
    typename Vec<T>::Type v[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      v[j] = typename Vec<T>::Type{};
      if (j >= channels) continue;
      const T* row = from + listed[j] * pixels + p;
      v[j] = width == kLanes ? load(row) : load_some(row, width);
    }
    transpose_square<T>(v);
    for (int64_t j = 0; j < width; ++j) store(to + (p + j) * ld, v[j]);
  }
}

// Turns the listed channels of every sample into [group][pixel][channels of the group].
template <class T>
void turn(const ChannelLists& lists, const T* grad, int64_t pixels, int64_t first_sample,
          int64_t last_sample, T* turned) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t n = first_sample; n < last_sample; ++n) {
    const int32_t* listed = lists.index + n * lists.channels;
    const T* from = grad + n * lists.channels * pixels;
    T* to = turned + n * pixels * turned_channels<T>(lists.channels);
    const Groups<T> groups(lists.count[n]);
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t first = groups.begin(g), last = groups.begin(g + 1);
      const int64_t ld = (last - first) * kLanes;
      for (int64_t v = first; v < last; ++v) {
        turn_vector(from, listed + v * kLanes, lists.count[n] - v * kLanes, pixels,
                    to + (v - first) * kLanes, ld);
      }
      to += pixels * ld;
    }
  }
}

// What the products of one sample's channel with some gradients read.
template <class T>
struct Product {
  const T* turned;  // a group's
  const T* band;
  int64_t row_step, rows, columns;
};

// to[t * ld_to + lane] = or += sum over pixels of band[pixel + place[t]] * turned[pixel][lane].
template <class T, int kTaps, int kVectors>
void outer_tile(const Product<T>& a, const int64_t* place, bool add, T* to, int64_t ld_to) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type sum[kTaps][kVectors];
  int64_t at[kTaps];
#pragma GCC unroll 9
  for (int t = 0; t < kTaps; ++t) {
    at[t] = place[t];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      sum[t][v] = add ? load(to + t * ld_to + v * kLanes) : typename Vec<T>::Type{};
    }
  }
  const T* gradient = a.turned;
  const auto add_pixel = [&](const T* pixel) __attribute__((always_inline)) {
    typename Vec<T>::Type g[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) g[v] = load(gradient + v * kLanes);
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) {
      const auto x = broadcast(pixel[at[t]]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sum[t][v] += x * g[v];
    }
    gradient += kVectors * kLanes;
  };
  for (int64_t y = 0; y < a.rows; ++y) {
    const T* row = a.band + y * a.row_step;
    int64_t x = 0;
    for (; x + 4 <= a.columns; x += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) add_pixel(row + x + i);
    }
    for (; x < a.columns; ++x) add_pixel(row + x);
  }
#pragma GCC unroll 9
  for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) store(to + t * ld_to + v * kLanes, sum[t][v]);
  }
}

template <class T, int kVectors, int kTaps = taps_at_once(kVectors)>
inline void outer_taps(int64_t taps, const Product<T>& a, const int64_t* place, bool add, T* to,
                       int64_t ld_to) {
  if constexpr (kTaps > 0) {
    if (taps == kTaps) return outer_tile<T, kTaps, kVectors>(a, place, add, to, ld_to);
    outer_taps<T, kVectors, kTaps - 1>(taps, a, place, add, to, ld_to);
  }
}

// All taps of a group of kVectors vectors, nearly as many at once each time.
template <class T, int kVectors = kGradientVectors>
inline void outer_group(int64_t vectors, const Product<T>& a, const int64_t* place, int64_t taps,
                        bool add, T* to, int64_t ld_to) {
  if constexpr (kVectors > 0) {
    if (vectors != kVectors) {
      return outer_group<T, kVectors - 1>(vectors, a, place, taps, add, to, ld_to);
    }
    const int64_t tiles = ceil_div(taps, taps_at_once(kVectors));
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t t = taps * i / tiles, count = taps * (i + 1) / tiles - t;
      outer_taps<T, kVectors>(count, a, place + t, add, to + t * ld_to, ld_to);
    }
  }
}

// All taps, all `listed` gradients of a sample.
template <class T>
void outer_product(Product<T> a, const int64_t* place, int64_t taps, int64_t listed, bool add,
                   T* to, int64_t ld_to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t pixels = a.rows * a.columns;
  const Groups<T> groups(listed);
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t vectors = groups.begin(g + 1) - groups.begin(g);
    outer_group(vectors, a, place, taps, add, to, ld_to);
    a.turned += pixels * vectors * kLanes;
    to += vectors * kLanes;
  }
}

// Where a vector of channels finds its products among the listed channels'. Lane l of the channels
// from c on takes product first + lane[l], or zero where lane[l] is kLanes.
template <class T>
struct Spread {
  typedef typename Index<T>::Type Lane;
  int64_t first;
  alignas(SPARSEFL_VECTOR_BYTES) Lane lane[Vec<T>::kLanes];
};

template <class T>
void fill_spreads(const int32_t* listed, int64_t count, int64_t channels, Spread<T>* spreads) {
  constexpr int kLanes = Vec<T>::kLanes;
  typedef typename Index<T>::Type Lane;
  for (int64_t c = 0, i = 0; c < channels; c += kLanes, ++spreads) {
    spreads->first = i;
    for (int l = 0; l < kLanes; ++l) {
      const bool kept = i < count && listed[i] == c + l;
      spreads->lane[l] = kept ? static_cast<Lane>(i - spreads->first) : Lane{kLanes};
      i += kept;
    }
  }
}

// sums[t * ld + c] += products[t * ld + i] for every listed channel c, the i-th.
template <class T>
void add_spread(const Spread<T>* spreads, const T* products, int64_t taps, int64_t ld, T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  typedef typename Index<T>::Type Lane;
  typedef Lane Lanes __attribute__((vector_size(SPARSEFL_VECTOR_BYTES)));
  for (int64_t c = 0; c < ld; c += kLanes, ++spreads) {
    const Lanes lanes = *reinterpret_cast<const Lanes*>(spreads->lane);
    const T* from = products + spreads->first;
    T* to = sums + c;
    for (int64_t t = 0; t < taps; ++t, from += ld, to += ld) {
      const auto spread = __builtin_shuffle(load(from), typename Vec<T>::Type{}, lanes);
      store(to, load(to) + spread);
    }
  }
}

// Elements of the scratch: the places of the taps, a channel's padded rows, one channel's sums over
// the samples, one sample's products.
template <class T>
struct OuterSizes {
  int64_t place, band, sums, spreads;

  OuterSizes(const GatedOuterArgs<T>& a, const Band& in) {
    const int64_t taps = a.y.kernel * a.x.kernel;
    place = round_up(taps * int64_t{sizeof(int64_t)}, 64) / int64_t{sizeof(T)};
    band = round_up(in.elements(a.y.grid), 16);
    const int64_t lanes = turned_channels<T>(a.rows.channels);
    // A spread reads a vector from any product on.
    sums = round_up(lanes * taps + Vec<T>::kLanes, 16);
    const int64_t bytes = a.samples * (lanes / Vec<T>::kLanes) * int64_t{sizeof(Spread<T>)};
    spreads = round_up(bytes, 64) / int64_t{sizeof(T)};
  }
};

template <class T>
int64_t outer_scratch(const GatedOuterArgs<T>& a) {
  const OuterSizes<T> sizes(a, Band(a.y, a.x, 1));
  return sizes.place + sizes.band + 2 * sizes.sums + sizes.spreads;
}

template <class T>
void outer(const GatedOuterArgs<T>& a, int64_t first, int64_t last, T* scratch) {
  const Band band(a.y, a.x, 1);
  const OuterSizes<T> sizes(a, band);
  int64_t* place = reinterpret_cast<int64_t*>(scratch);
  T* padded = scratch + sizes.place;
  T *sums = padded + sizes.band, *products = sums + sizes.sums;
  const int64_t taps = a.y.kernel * a.x.kernel, rows = a.rows.channels;
  const int64_t ld = turned_channels<T>(rows), pixels = a.y.grid * a.x.grid;
  Spread<T>* spreads = reinterpret_cast<Spread<T>*>(products + sizes.sums);
  const int64_t vectors = ld / Vec<T>::kLanes;
  for (int64_t n = 0; n < a.samples; ++n) {
    fill_spreads(a.rows.index + n * rows, a.rows.count[n], ld, spreads + n * vectors);
  }
  for (int64_t t = 0; t < taps; ++t) {
    place[t] = band.place(a.y.tap[t / a.x.kernel], a.x.tap[t % a.x.kernel]);
  }
  fill_zero(products, sizes.sums);
  const T* end = a.in + a.samples * a.in_channels * a.y.input * a.x.input;
  for (int64_t c = first; c < last; ++c) {
    fill_zero(sums, taps * ld);
    for (int64_t n = 0; n < a.samples; ++n) {
      const int64_t count = a.rows.count[n];
      if (a.channels[n * a.in_channels + c] == 0 || count == 0) continue;
      const T* plane = a.in + (n * a.in_channels + c) * a.y.input * a.x.input;
      copy_band(band, a.y, a.x, plane, end, 0, a.y.grid, padded);
      const Product<T> product{a.turned + n * pixels * ld, padded, band.step_y * band.pitch,
                               a.y.grid, a.x.grid};
      const bool all = count == rows;
      outer_product(product, place, taps, count, all, all ? sums : products, ld);
      if (!all) add_spread(spreads + n * vectors, products, taps, ld, sums);
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* to = a.grad_weight + (r * a.in_channels + c) * taps;
      for (int64_t t = 0; t < taps; ++t) to[t] = sums[t * ld + r];
    }
  }
}

}  // namespace
}  // namespace sparsefl
