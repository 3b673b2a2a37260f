// What a gather reads of a block of channels, laid out in the L1 cache, and how it is cut into
// tiles.

namespace sparsefl {
namespace {

// Vectors of pixels that a weight is broadcast to.
template <class T>
constexpr int kPixelVectors = SPARSEFL_VECTOR_BYTES == 64 ? 4 : 2;
// Of the operand that a block of channels makes, so that it stays in the L1 cache.
constexpr int64_t kOperandBytes = 20 << 10;
// Channels that a block should have at least, for which its sums are loaded and stored.
constexpr int64_t kLeastBlock = 12;
// Of the weights of a range of channels, so that they stay in the L2 cache.
constexpr int64_t kWeightBytes = 512 << 10;

// The grid points of a row whose tap lies inside the input: [first, last).
struct Inside {
  int64_t low, first, last;  // low: what the tap reaches from the row's first point

  Inside(const Axis& axis, int64_t tap) : low(tap) {
    first = low < 0 ? smaller(ceil_div(-low, axis.in_step), axis.grid) : 0;
    last = low < axis.input ? smaller(ceil_div(axis.input - low, axis.in_step), axis.grid) : 0;
    last = last < first ? first : last;
  }
};

// Where rows are no whole number of vectors: for every different tap of the x axis and every
// residue of input rows modulo the y axis' step, the rows that the tap reaches, without gaps, so
// that a vector runs over several.
struct Rows {
  Span y;
  int64_t step_y, columns, variants;

  Rows(const Axis& axis_y, const Axis& axis_x)
      : y(axis_y), step_y(axis_y.in_step), columns(axis_x.grid), variants(0) {
    for (int64_t t = 0; t < axis_x.kernel; ++t) variants += first_like(axis_x, t) == t;
  }

  // The first tap that reaches what tap t does.
  static int64_t first_like(const Axis& x, int64_t t) {
    int64_t first = 0;
    while (x.tap[first] != x.tap[t]) ++first;
    return first;
  }
  // Of a residue.
  int64_t rows(int64_t grid_rows) const { return grid_rows + (y.high - y.low) / step_y; }
  int64_t elements(int64_t grid_rows) const {
    return variants * step_y * rows(grid_rows) * columns;
  }
  // Of the pixel that tap_y reaches, and a variant, from a tile's first grid point.
  int64_t place(int64_t tap_y, int64_t variant, int64_t grid_rows) const {
    const int64_t row = tap_y - y.low;
    return ((variant * step_y + row % step_y) * rows(grid_rows) + row / step_y) * columns;
  }
};

template <class T>
struct LaneNumbers {
  typedef typename Index<T>::Type Lane;
  alignas(SPARSEFL_VECTOR_BYTES) Lane lane[Vec<T>::kLanes];

  constexpr LaneNumbers() : lane() {
    for (int i = 0; i < Vec<T>::kLanes; ++i) lane[i] = i;
  }
};
template <class T>
constexpr LaneNumbers<T> kLaneNumbers;

// Lanes whose column, of rows of `columns`, is in [first, last).
template <class T>
inline typename Index<T>::Vector columns_between(int64_t columns, int64_t first, int64_t last) {
  typedef typename Index<T>::Type Lane;
  typedef typename Index<T>::Vector Vector;
  Vector column = *reinterpret_cast<const Vector*>(kLaneNumbers<T>.lane);
  // A power of two, where a vector holds several rows.
  if (columns < Vec<T>::kLanes) column &= static_cast<Lane>(columns - 1);
  return (column >= static_cast<Lane>(first)) & (column < static_cast<Lane>(last));
}

template <class T>
inline typename Vec<T>::Type masked(typename Vec<T>::Type v, typename Index<T>::Vector mask) {
  return reinterpret_cast<typename Vec<T>::Type>(reinterpret_cast<typename Index<T>::Vector>(v) &
                                                 mask);
}

// Input rows one after the other in memory, without padding, of which a vector holds a whole number
// or is a part. Reads [from, from + elements) and what fills the last vector.
template <class T>
inline void lay_plane(const T* from, const Inside& inside, int64_t columns, int64_t elements,
                      T* to) {
  const auto mask = columns_between<T>(columns, inside.first, inside.last);
  for (int64_t i = 0; i < elements; i += Vec<T>::kLanes) {
    store(to + i, masked<T>(load(from + i), mask));
  }
}

// Rows of no more points than lanes, every second element.
template <class T>
inline void lay_halves(const T* from, const Inside& inside, int64_t columns, int64_t pitch,
                       int64_t rows, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const auto mask = columns_between<T>(kLanes, inside.first, inside.last);
  for (int64_t i = 0; i < rows; ++i, from += pitch, to += columns) {
    store(to, masked<T>(even_lanes<T>(load(from), load(from + kLanes)), mask));
  }
}

template <class T>
void lay_row(const T* from, const Inside& inside, int64_t step, int64_t columns, const T* end,
             T* to) {
  zero_beyond(to, inside.first);
  if (step == 1) {
    copy_beyond(from + inside.first, inside.last - inside.first, end, to + inside.first);
  } else {
    for (int64_t i = inside.first; i < inside.last; ++i) to[i] = from[i * step];
  }
  zero_beyond(to + inside.last, columns - inside.last);
}

// Lays out what `grid_rows` rows of the grid from `top` on reach of a channel; a tile has no more
// than `tile_rows`. Reads nothing outside [begin, end) and writes up to a vector beyond.
template <class T>
void lay_rows(const Rows& rows, const Axis& y, const Axis& x, int64_t top, int64_t grid_rows,
              int64_t tile_rows, const T* plane, const T* begin, const T* end, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t columns = rows.columns, step_x = x.in_step, step_y = rows.step_y;
  const int64_t count = rows.rows(grid_rows), pitch = step_y * x.input;
  const bool plain = step_x == 1 && pitch == columns && kLanes % columns == 0;
  const bool halves = step_x == 2 && columns <= kLanes;
  for (int64_t t = 0; t < x.kernel; ++t) {
    if (Rows::first_like(x, t) != t) continue;
    const Inside inside(x, x.tap[t]);
    for (int64_t residue = 0; residue < step_y; ++residue) {
      T* out = to;
      to += rows.rows(tile_rows) * columns;
      const int64_t row = top * step_y + rows.y.low + residue;
      // Rows [above, below) lie inside the input.
      const int64_t above = row < 0 ? smaller(ceil_div(-row, step_y), count) : 0;
      int64_t below = row < y.input ? smaller(ceil_div(y.input - row, step_y), count) : 0;
      below = below < above ? above : below;
      zero_beyond(out, above * columns);
      out += above * columns;
      const T* from = plane + (row + above * step_y) * x.input + inside.low;
      const int64_t present = below - above, space = end - from - (present - 1) * pitch;
      if (plain && from >= begin && space >= columns + kLanes) {
        lay_plane(from, inside, columns, present * columns, out);
        out += present * columns;
      } else if (halves && from >= begin && space >= 2 * kLanes) {
        lay_halves(from, inside, columns, pitch, present, out);
        out += present * columns;
      } else {
        for (int64_t i = 0; i < present; ++i, from += pitch, out += columns) {
          lay_row(from, inside, step_x, columns, end, out);
        }
      }
      zero_beyond(out, (count - below) * columns);
    }
  }
}

// What a tile of grid rows reaches of a channel, in vectors.
template <class T>
struct Operand {
  static constexpr int kLanes = Vec<T>::kLanes;

  Axis y, x;
  bool direct;  // rows are whole vectors, read from a padded band; else rows lie without gaps
  Band band;
  Rows rows;
  int64_t tile_rows, elements;

  Operand(const Axis& axis_y, const Axis& axis_x, int64_t tile_rows)
      : y(axis_y),
        x(axis_x),
        direct(has_whole_vectors(axis_x)),
        band(y, x, direct ? kLanes : 1),
        rows(y, x),
        tile_rows(tile_rows) {
    // A copy writes up to a vector beyond.
    const int64_t filled = direct ? band.elements(tile_rows) : rows.elements(tile_rows);
    elements = round_up(filled + kLanes, kLanes);
  }

  static bool has_whole_vectors(const Axis& x) { return x.grid % kLanes == 0; }

  // From a row of the grid to the next, of a band.
  int64_t row_step() const { return band.step_y * band.pitch; }

  // Of the pixel that a tap reaches from the first grid point.
  int64_t place(int64_t ky, int64_t kx) const {
    if (direct) return band.place(y.tap[ky], x.tap[kx]);
    int64_t variant = 0;
    for (int64_t t = 0; t < Rows::first_like(x, kx); ++t) variant += Rows::first_like(x, t) == t;
    return rows.place(y.tap[ky], variant, tile_rows);
  }

  // Lays out rows of a channel of the tensor [begin, end).
  void read(const T* plane, const T* begin, const T* end, int64_t top, int64_t grid_rows,
            T* to) const {
    if (direct) {
      copy_band(band, y, x, plane, end, top, grid_rows, to);
    } else {
      lay_rows(rows, y, x, top, grid_rows, tile_rows, plane, begin, end, to);
    }
  }
};

// How the grid is cut into tiles of a few vectors, and what each tile needs.
template <class T>
struct GatherPlan {
  static constexpr int kLanes = Vec<T>::kLanes;
  static constexpr int64_t kTile = kPixelVectors<T> * kLanes;

  Operand<T> operand;
  bool buffered;  // sums of a sample are kept apart from the output
  int64_t taps, phases, pixels, padded_pixels, columns;
  int64_t block_channels, range_channels, x_vector, y_vector;

  explicit GatherPlan(const GatedGatherArgs<T>& a)
      : operand(a.y, a.x, tile_rows(a)),
        taps(a.y.kernel * a.x.kernel),
        phases(a.y.out_step * a.x.out_step),
        pixels(a.y.grid * a.x.grid),
        padded_pixels(round_up(pixels, kLanes)),
        columns(operand.direct ? a.x.grid : kLanes) {
    buffered = phases > 1 || pixels % kLanes != 0;
    const int64_t fit = kOperandBytes / int64_t{sizeof(T)} / operand.elements;
    const int64_t most = smaller(fit, a.channels.channels);
    block_channels = most < 1 ? 1 : most;
    const int64_t weight_bytes = a.rows.channels * taps * int64_t{sizeof(T)};
    const int64_t range = kWeightBytes / weight_bytes;
    range_channels = pixels > 2 * kTile ? a.channels.channels : range < 16 ? 16 : range;
    x_vector = operand.direct ? operand.row_step() : kLanes;
    y_vector = operand.direct ? a.x.grid : kLanes;
  }

  // Rows of a tile. More of them share what they reach beyond, which is laid out once, but then
  // blocks have few channels; pixels of a tile without whole rows begin anywhere in one.
  static int64_t tile_rows(const GatedGatherArgs<T>& a) {
    if (!Operand<T>::has_whole_vectors(a.x)) {
      return smaller(a.y.grid, (kTile - 1) / a.x.grid + 2);
    }
    const Band band(a.y, a.x, kLanes);
    const int64_t fit = kOperandBytes / int64_t{sizeof(T)} / kLeastBlock;
    int64_t tiles = 1;
    while (rows_of(a, tiles) > kPixelVectors<T> && band.elements(rows_of(a, tiles)) > fit) ++tiles;
    return smaller(a.y.grid, rows_of(a, tiles));
  }
  // Of one of so many tiles, whole numbers of what is multiplied at once.
  static int64_t rows_of(const GatedGatherArgs<T>& a, int64_t tiles) {
    return round_up(ceil_div(a.y.grid, tiles), kPixelVectors<T>);
  }
  int64_t table_elements() const {
    return round_up((2 * taps + phases + 1) * int64_t{sizeof(int64_t)}, 64) / int64_t{sizeof(T)};
  }
  // The last vectors of a tile reach beyond its rows.
  int64_t operand_elements() const {
    return round_up(block_channels * operand.elements + kTile, 16);
  }
  int64_t sums_elements(const GatedGatherArgs<T>& a) const {
    return buffered ? phases * a.rows.channels * padded_pixels + kLanes : 0;
  }
};

// Of every tap, phase after phase: where it reaches in an operand, and its place in a weight. The
// taps of a phase are [begin[phase], begin[phase + 1]).
struct Tables {
  int64_t *x, *weight, *begin;
};

// A gather's plan and memory.
template <class T>
struct Gather {
  GatherPlan<T> plan;
  Tables tables;
  T *operand, *sums;

  Gather(const GatedGatherArgs<T>& a, T* scratch) : plan(a) {
    int64_t* const table = reinterpret_cast<int64_t*>(scratch);
    tables = {table, table + plan.taps, table + 2 * plan.taps};
    operand = scratch + plan.table_elements();
    sums = operand + plan.operand_elements();
    int64_t filled = 0;
    for (int64_t phase = 0; phase < plan.phases; ++phase) {
      tables.begin[phase] = filled;
      for (int64_t t = 0; t < plan.taps; ++t) {
        const int64_t ky = t / a.x.kernel, kx = t % a.x.kernel;
        const int64_t of_y = a.y.out_step == 1 ? 0 : a.phase_y[ky];
        const int64_t of_x = a.x.out_step == 1 ? 0 : a.phase_x[kx];
        if (of_y * a.x.out_step + of_x != phase) continue;
        tables.x[filled] = plan.operand.place(ky, kx);
        tables.weight[filled++] = t;
      }
    }
    tables.begin[plan.phases] = filled;
  }
};

template <class T>
int64_t gather_scratch(const GatedGatherArgs<T>& a) {
  const GatherPlan<T> plan(a);
  return plan.table_elements() + plan.operand_elements() + plan.sums_elements(a);
}

// Half of the lanes of a and b in turn: the lower or the upper ones.
template <class T, int kHalf, int... I>
inline typename Vec<T>::Type in_turn(typename Vec<T>::Type a, typename Vec<T>::Type b,
                                     Lanes<I...>) {
  constexpr int kLanes = Vec<T>::kLanes;
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * kLanes + kHalf * (kLanes / 2))...);
}

// to[i] = from[i % phases * phase_step + i / phases] for i < width. Up to a vector beyond is read.
template <class T>
void interleave(const T* from, int64_t phase_step, int64_t phases, int64_t width, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  typedef typename FirstLanes<kLanes>::Type Sequence;
  if (phases == 1) return copy_exactly(from, width, to);
  int64_t i = 0;
  if (phases == 2) {
    for (; i + kLanes <= width; i += 2 * kLanes) {
      const auto a = load(from + i / 2), b = load(from + phase_step + i / 2);
      store(to + i, in_turn<T, 0>(a, b, Sequence{}));
      if (i + 2 * kLanes > width) {
        i += kLanes;
        break;
      }
      store(to + i + kLanes, in_turn<T, 1>(a, b, Sequence{}));
    }
  }
  for (; i < width; ++i) to[i] = from[i % phases * phase_step + i / phases];
}

}  // namespace
}  // namespace sparsefl
