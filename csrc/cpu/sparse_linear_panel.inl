// Samples on their way between operands as they lie and the buffers that sparse_linear.inl reads
// and writes, part of it. A buffer is [features][kVectors * kLanes].

namespace sparsefl {
namespace {

// Features that are turned at a time, four lines of every sample: with a line only, a large batch
// has more streams than the prefetcher follows.
template <class T>
constexpr int64_t kTurned = 256 / sizeof(T);

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// v with zeros in all lanes but the first `lanes`.
template <class T>
inline typename Vec<T>::Type first_lanes(typename Vec<T>::Type v, int64_t lanes) {
  auto place = v < v;
#pragma GCC unroll 16
  for (int i = 0; i < Vec<T>::kLanes; ++i) place[i] = i;
  return place < static_cast<decltype(place[0] + 0)>(lanes) ? v : typename Vec<T>::Type{};
}

// The first `lanes` elements from p on, of memory that can be read up to `end`.
template <class T>
inline typename Vec<T>::Type load_within(const T* p, int64_t lanes, const T* end) {
  if (end - p < Vec<T>::kLanes) return load_some(p, lanes);
  return first_lanes<T>(load(p), lanes);
}

// to[c * ld_to + r] = from[r * ld_from + c] for r < rows and c < columns, at most kLanes of each.
// kPads: and zeros for the other r < kLanes.
template <class T, bool kPads>
[[gnu::noinline]] void turn_square(const T* from, int64_t ld_from, int64_t rows, int64_t columns,
                                   T* to, int64_t ld_to) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type v[kLanes];
  if (rows == kLanes && columns == kLanes) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) v[r] = load(from + r * ld_from);
    transpose_square<T>(v);
#pragma GCC unroll 16
    for (int c = 0; c < kLanes; ++c) store(to + c * ld_to, v[c]);
    return;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) {
    v[r] = typename Vec<T>::Type{};
    if (r >= rows) continue;
    v[r] = columns == kLanes ? load(from + r * ld_from) : load_some(from + r * ld_from, columns);
  }
  transpose_square<T>(v);
#pragma GCC unroll 16
  for (int c = 0; c < kLanes; ++c) {
    if (c >= columns) continue;
    if (kPads || rows == kLanes) {
      store(to + c * ld_to, v[c]);
    } else {
      store_some(to + c * ld_to, v[c], rows);
    }
  }
}

// Whether `lanes` samples of x can be read as they lie, by kVectors vectors.
template <class T, int kVectors>
bool reads_in_place(const Panel<const T>& x, int64_t lanes) {
  return !x.row_major && lanes == kVectors * Vec<T>::kLanes;
}

// Brings samples [lane, lane + lanes) of `count` features of x, from `feature` on, into a buffer;
// zeros where the vectors hold more. x has `features` of `batch` samples.
template <class T, int kVectors>
[[gnu::noinline]] void read_features(const Panel<const T>& x, int64_t features, int64_t batch,
                                     int64_t feature, int64_t count, int64_t lane, int64_t lanes,
                                     T* to) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kWidth = kVectors * kLanes;
  if (!x.row_major) {
    const T* end = x.data + (features - 1) * x.ld + batch;
    for (int64_t c = 0; c < count; ++c) {
      const T* from = x.data + (feature + c) * x.ld + lane;
      for (int v = 0; v < kVectors; ++v) {
        const int64_t left = lanes - v * kLanes;
        store(to + c * kWidth + v * kLanes,
              left >= kLanes ? load(from + v * kLanes) : load_within(from + v * kLanes, left, end));
      }
    }
    return;
  }
  for (int64_t chunk = 0; chunk < count; chunk += kTurned<T>) {
    const int64_t stop = least(count, chunk + kTurned<T>);
    for (int v = 0; v < kVectors; ++v) {
      const T* from = x.data + (lane + v * kLanes) * x.ld + feature;
      for (int64_t c = chunk; c < stop; c += kLanes) {
        turn_square<T, true>(from + c, x.ld, least(kLanes, lanes - v * kLanes),
                             least(kLanes, stop - c), to + c * kWidth + v * kLanes, kWidth);
      }
    }
  }
}

// The reverse for `count` features, at most kTurned of them, of a row-major y.
template <class T, int kVectors>
[[gnu::noinline]] void write_features(const T* from, const Panel<T>& y, int64_t feature,
                                      int64_t count, int64_t lane, int64_t lanes) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kWidth = kVectors * kLanes;
  for (int v = 0; v < kVectors; ++v) {
    const int64_t samples = least(kLanes, lanes - v * kLanes);
    T* to = y.data + (lane + v * kLanes) * y.ld + feature;
    for (int64_t c = 0; c < count; c += kLanes) {
      turn_square<T, false>(from + c * kWidth + v * kLanes, kWidth, least(kLanes, count - c),
                            samples, to + c, y.ld);
    }
  }
}

}  // namespace
}  // namespace sparsefl
