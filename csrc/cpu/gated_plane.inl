// Bands of a channel's rows with their padding, as the gated convolution's kernels read them.

namespace sparsefl {
namespace {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Integers as wide as an element, and vectors of them.
template <class T>
struct Index;
template <>
struct Index<float> {
  typedef int32_t Type;
  typedef int32_t Vector __attribute__((vector_size(SPARSEFL_VECTOR_BYTES)));
};
template <>
struct Index<double> {
  typedef int64_t Type;
  typedef int64_t Vector __attribute__((vector_size(SPARSEFL_VECTOR_BYTES)));
};
// The input coordinates that the taps of an axis reach from a grid point.
struct Span {
  int64_t low, high;

  explicit Span(const Axis& axis) : low(axis.tap[0]), high(axis.tap[0]) {
    for (int64_t t = 1; t < axis.kernel; ++t) {
      const int64_t tap = axis.tap[t];
      low = low < tap ? low : tap;
      high = high > tap ? high : tap;
    }
  }
};

// Some rows of the grid, all columns, and the input rows that they reach. A row lies sorted by the
// residue of its column modulo the step, so that neighbours on the grid are neighbours in memory.
struct Band {
  Span y, x;
  int64_t step_y, step_x, length, pitch, lead;

  // The first pixel of every row is aligned to `alignment` elements.
  Band(const Axis& axis_y, const Axis& axis_x, int64_t alignment)
      : y(axis_y),
        x(axis_x),
        step_y(axis_y.in_step),
        step_x(axis_x.in_step),
        length(axis_x.grid + (x.high - x.low) / step_x),
        pitch(round_up(step_x * length, alignment)),
        lead(step_x == 1 && x.low < 0 ? (alignment + x.low % alignment) % alignment : 0) {}

  int64_t rows(int64_t grid_rows) const { return (grid_rows - 1) * step_y + y.high - y.low + 1; }
  // With what a copy writes beyond.
  int64_t elements(int64_t grid_rows) const {
    return lead + rows(grid_rows) * pitch + kLanePadding;
  }
  // Of the pixel that a tap reaches from the band's first grid point.
  int64_t place(int64_t tap_y, int64_t tap_x) const {
    const int64_t column = tap_x - x.low;
    return lead + (tap_y - y.low) * pitch + column % step_x * length + column / step_x;
  }
};

// Vectors pass through `keep`: compilers would call memset and memcpy for a few of them.
template <class T>
inline typename Vec<T>::Type opaque(typename Vec<T>::Type v) {
  keep(v);
  return v;
}

template <class T>
inline void fill_zero(T* to, int64_t count) {
  constexpr int kLanes = Vec<T>::kLanes;
  const auto zero = opaque<T>(typename Vec<T>::Type{});
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, zero);
  for (; i < count; ++i) to[i] = T{0};
}

template <class T>
inline void copy_exactly(const T* from, int64_t count, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, opaque<T>(load(from + i)));
  for (; i < count; ++i) to[i] = from[i];
}

// Copies whole vectors: up to a vector more than `count` elements is written, but nothing is read
// from `end` on.
template <class T>
inline void copy_beyond(const T* from, int64_t count, const T* end, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  if (end - from >= round_up(count, kLanes)) {
    for (int64_t i = 0; i < count; i += kLanes) store(to + i, opaque<T>(load(from + i)));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

// Every second lane of a and b, from the first or from the second on.
template <class T, int kFirst, int... I>
inline typename Vec<T>::Type every_second(typename Vec<T>::Type a, typename Vec<T>::Type b,
                                          Lanes<I...>) {
  return __builtin_shufflevector(a, b, (2 * I + kFirst)...);
}
template <class T>
inline typename Vec<T>::Type even_lanes(typename Vec<T>::Type a, typename Vec<T>::Type b) {
  return every_second<T, 0>(a, b, typename FirstLanes<Vec<T>::kLanes>::Type{});
}
template <class T>
inline typename Vec<T>::Type odd_lanes(typename Vec<T>::Type a, typename Vec<T>::Type b) {
  return every_second<T, 1>(a, b, typename FirstLanes<Vec<T>::kLanes>::Type{});
}

// Every second element from `from` on, as copy_beyond.
template <class T>
inline void copy_halves(const T* from, int64_t count, const T* end, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  if (end - from < 2 * round_up(count, kLanes)) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * 2];
    return;
  }
  for (int64_t i = 0; i < count; i += kLanes) {
    const T* p = from + 2 * i;
    store(to + i, even_lanes<T>(load(p), load(p + kLanes)));
  }
}

template <class T>
inline void zero_beyond(T* to, int64_t count) {
  const auto zero = opaque<T>(typename Vec<T>::Type{});
  for (int64_t i = 0; i < count; i += Vec<T>::kLanes) store(to + i, zero);
}

// What a row of a band holds of one residue: points before the input, points inside, the first of
// which is column `from`, and points behind.
struct Strip {
  int64_t before = 0, from = 0, inside = 0, behind = 0;

  Strip() = default;
  Strip(const Band& band, const Axis& x, int64_t residue) {
    // Columns low + i * step for the i in [before, last) lie inside.
    const int64_t low = band.x.low + residue, step = band.step_x;
    before = low < 0 ? smaller(ceil_div(-low, step), band.length) : 0;
    int64_t last = low < x.input ? smaller(ceil_div(x.input - low, step), band.length) : 0;
    last = last < before ? before : last;
    from = low + before * step, inside = last - before, behind = band.length - last;
  }
};

// The strips of a band's rows. Those of the usual steps are found once: a division takes as long
// as a row.
struct Strips {
  static constexpr int64_t kFound = 2;
  const Band& band;
  const Axis& x;
  Strip found[kFound] = {};

  Strips(const Band& band, const Axis& x) : band(band), x(x) {
    for (int64_t i = 0; i < kFound && i < band.step_x; ++i) found[i] = Strip(band, x, i);
  }
  Strip operator[](int64_t residue) const {
    return residue < kFound ? found[residue] : Strip(band, x, residue);
  }
  // Whether two strips take the columns inside in turn, whole vectors of each.
  bool in_turn(int64_t lanes) const {
    const int64_t distance = found[1].from - found[0].from;
    return band.step_x == 2 && (distance == 1 || distance == -1) &&
           found[0].inside == found[1].inside && found[0].inside % lanes == 0;
  }
};

// A row of two strips that take its columns in turn.
template <class T>
inline void copy_in_turn(const Strips& strips, const T* row, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const Strip &first = strips.found[0], &second = strips.found[1];
  T *one = to + first.before, *other = to + strips.band.length + second.before;
  zero_beyond(to, first.before);
  zero_beyond(one + first.inside, first.behind + second.before);
  zero_beyond(other + second.inside, second.behind);
  const bool ahead = first.from < second.from;
  T *even = ahead ? one : other, *odd = ahead ? other : one;
  row += ahead ? first.from : second.from;
  for (int64_t i = 0; i < first.inside; i += kLanes) {
    const auto a = load(row + 2 * i), b = load(row + 2 * i + kLanes);
    store(even + i, even_lanes<T>(a, b));
    store(odd + i, odd_lanes<T>(a, b));
  }
}

// One row of a channel, sorted by residue; zero outside the input. Writes up to a vector beyond the
// row.
template <class T>
inline void copy_row(const Strips& strips, const T* row, const T* end, T* to) {
  const int64_t step = strips.band.step_x;
  for (int64_t residue = 0; residue < step; ++residue) {
    const Strip strip = strips[residue];
    const T* from = row + strip.from;
    zero_beyond(to, strip.before);
    to += strip.before;
    if (step == 1) {
      copy_beyond(from, strip.inside, end, to);
    } else if (step == 2) {
      copy_halves(from, strip.inside, end, to);
    } else {
      for (int64_t i = 0; i < strip.inside; ++i) to[i] = from[i * step];
    }
    to += strip.inside;
    zero_beyond(to, strip.behind);
    to += strip.behind;
  }
}

// Copies the input rows of `grid_rows` rows of the grid from `first` on; zero outside the input.
// Writes up to a vector beyond the band's elements and reads nothing from `end` on.
template <class T>
void copy_band(const Band& band, const Axis& y, const Axis& x, const T* plane, const T* end,
               int64_t first, int64_t grid_rows, T* to) {
  to += band.lead;
  const Strips strips(band, x);
  const bool in_turn = strips.in_turn(Vec<T>::kLanes);
  const int64_t top = first * band.step_y + band.y.low, rows = band.rows(grid_rows);
  for (int64_t r = 0; r < rows; ++r, to += band.pitch) {
    const int64_t row = top + r;
    if (row < 0 || row >= y.input) {
      zero_beyond(to, band.pitch);
    } else if (in_turn) {
      copy_in_turn(strips, plane + row * x.input, to);
    } else {
      copy_row(strips, plane + row * x.input, end, to);
    }
  }
}

}  // namespace
}  // namespace sparsefl
