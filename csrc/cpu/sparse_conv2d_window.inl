// The windows of the input that the kernels of sparse_conv2d.h walk, and where they come from.

namespace sparsefl {
namespace {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A tile of grid points: `rows` of them, each of `vectors` vectors.
struct Shape {
  int rows, vectors;
};

// As many accumulators as the registers hold beside a weight, in the shape with the smallest halo;
// the others are for grids that it would not fill.
template <class T>
constexpr bool kManyRegisters = Vec<T>::kLanes >= 16;
constexpr int kShapes = 5;
template <class T>
constexpr Shape kShape[kShapes] = {{kManyRegisters<T> ? 4 : 2, 4},
                                   {kManyRegisters<T> ? 8 : 4, 2},
                                   {4, kManyRegisters<T> ? 2 : 1},
                                   {4, 1},
                                   {2, 2}};

// Calls run.operator()<rows, vectors>() of a shape.
template <class T, int kIndex = 0, class Run>
inline void with_shape(int index, Run run) {
  if constexpr (kIndex + 1 == kShapes) {
    run.template operator()<kShape<T>[kIndex].rows, kShape<T>[kIndex].vectors>();
  } else {
    if (index == kIndex) {
      return run.template operator()<kShape<T>[kIndex].rows, kShape<T>[kIndex].vectors>();
    }
    with_shape<T, kIndex + 1>(index, run);
  }
}

// A stretch of the batch and how it lies in vectors: `samples` of a pixel, and as many neighbours
// on the grid as fill the rest. A batch is whole vectors of one pixel each, and a rest whose
// vectors hold several pixels of few samples.
template <class T>
struct Stretch {
  int64_t begin, end, samples;
  int shape;
  int64_t rows, columns;  // of a tile, in grid points

  Stretch(const Pass& pass, int64_t begin, int64_t end, int64_t samples)
      : begin(begin), end(end), samples(samples) {
    int64_t least = INT64_MAX;
    for (int i = 0; i < kShapes; ++i) {
      constexpr int64_t kTileCost = 4;  // of starting and ending a row's sums, in vectors
      const int64_t across = kShape<T>[i].vectors * (Vec<T>::kLanes / samples);
      const int64_t cost = ceil_div(pass.y.grid, kShape<T>[i].rows) *
                           ceil_div(pass.x.grid, across) *
                           (kShape<T>[i].rows * kShape<T>[i].vectors + kTileCost);
      if (cost >= least) continue;
      least = cost;
      shape = i, rows = kShape<T>[i].rows, columns = across;
    }
  }

  int64_t tile_elements() const { return rows * columns * samples; }
  int64_t items(const Pass& pass) const {
    return ceil_div(pass.x.grid, columns) * ceil_div(pass.y.grid, rows) *
           ceil_div(end - begin, samples) * pass.groups;
  }
};

// Calls run(stretch) for the stretches of the batch.
template <class T, class Run>
inline void for_stretches(const Pass& pass, Run run) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t rest = pass.batch % kLanes;
  int64_t samples = 1;
  while (samples < rest) samples *= 2;
  const int64_t whole = samples == kLanes ? pass.batch : pass.batch - rest;
  if (whole > 0) run(Stretch<T>(pass, 0, whole, kLanes));
  if (whole < pass.batch) run(Stretch<T>(pass, whole, pass.batch, samples));
}

// One axis of the window of input pixels that a tile needs. Pixels are sorted by their residue
// modulo the step, so that neighbours on the grid are neighbours in the window at any stride.
struct WindowAxis {
  int64_t low, residues, length;

  WindowAxis(const Axis& axis, int64_t points) {
    int64_t high = low = 0;
    bool any = false;
    for (int64_t t = 0; t < axis.kernel; ++t) {
      const int64_t tap = axis.tap[t];
      if (tap == Axis::kNoTap) continue;
      low = any && low < tap ? low : tap;
      high = any && high > tap ? high : tap;
      any = true;
    }
    residues = high - low + 1 < axis.in_step ? high - low + 1 : axis.in_step;
    length = points + (high - low) / axis.in_step;
  }
  int64_t size() const { return residues * length; }
  int64_t place(int64_t tap, int64_t step) const {
    return (tap - low) % step * length + (tap - low) / step;
  }
};

template <class T>
struct Window {
  WindowAxis y, x;
  int64_t channels;  // of a block
  int64_t taps;
  int64_t samples;  // of a pixel

  Window(const View& view, const Pass& pass, const Stretch<T>& stretch)
      : y(pass.y, stretch.rows),
        x(pass.x, stretch.columns),
        channels(0),
        taps(pass.y.kernel * pass.x.kernel),
        samples(stretch.samples) {
    const int64_t columns = view.block < view.columns ? view.block : view.columns;
    channels = columns / taps;
  }
  int64_t pixels() const { return y.size() * x.size(); }
  int64_t elements() const { return channels * pixels() * samples; }
  int64_t row_elements() const { return x.size() * samples; }
};

// Where a block's column lies in the window: one entry a (channel, tap).
template <class T>
void fill_table(const Window<T>& window, const Pass& pass, int32_t* table) {
  for (int64_t c = 0; c < window.channels; ++c) {
    for (int64_t ky = 0; ky < pass.y.kernel; ++ky) {
      for (int64_t kx = 0; kx < pass.x.kernel; ++kx, ++table) {
        if (pass.y.tap[ky] == Axis::kNoTap || pass.x.tap[kx] == Axis::kNoTap) continue;
        const int64_t place = window.y.place(pass.y.tap[ky], pass.y.in_step) * window.x.size() +
                              window.x.place(pass.x.tap[kx], pass.x.in_step);
        *table = static_cast<int32_t>((c * window.pixels() + place) * window.samples);
      }
    }
  }
}

// One item: a tile of the grid, the samples of a vector, a group of channels. Samples come first:
// they lie side by side.
struct Item {
  int64_t group, lane, lanes, y, x;

  template <class T>
  static Item of(int64_t item, const Pass& pass, const Stretch<T>& stretch) {
    const int64_t across = ceil_div(pass.x.grid, stretch.columns);
    const int64_t down = ceil_div(pass.y.grid, stretch.rows);
    const int64_t vectors = ceil_div(stretch.end - stretch.begin, stretch.samples);
    Item made;
    made.lane = stretch.begin + item % vectors * stretch.samples;
    item /= vectors;
    made.x = item % across * stretch.columns;
    item /= across;
    made.y = item % down * stretch.rows;
    made.group = item / down;
    const int64_t left = stretch.end - made.lane;
    made.lanes = left < stretch.samples ? left : stretch.samples;
    return made;
  }
};

// Offset of what lies outside an image.
constexpr int64_t kOutside = -1;

// Where the pixels of an item's window lie in an input channel.
template <class T>
void fill_window_offsets(const Window<T>& window, const Pass& pass, const Item& item,
                         int64_t* offsets) {
  const int64_t top = item.y * pass.y.in_step + window.y.low;
  const int64_t left = item.x * pass.x.in_step + window.x.low;
  for (int64_t ry = 0; ry < window.y.residues; ++ry) {
    for (int64_t j = 0; j < window.y.length; ++j) {
      const int64_t row = top + ry + j * pass.y.in_step;
      const bool row_inside = row >= 0 && row < pass.y.input;
      for (int64_t rx = 0; rx < window.x.residues; ++rx) {
        for (int64_t i = 0; i < window.x.length; ++i, ++offsets) {
          const int64_t column = left + rx + i * pass.x.in_step;
          const bool inside = row_inside && column >= 0 && column < pass.x.input;
          *offsets = inside ? (row * pass.x.input + column) * pass.in.pixel : kOutside;
        }
      }
    }
  }
}

// Where the points of an item's tile lie in an output channel.
template <class T>
void fill_tile_offsets(const Stretch<T>& stretch, const Pass& pass, const Item& item,
                       int64_t* offsets) {
  for (int64_t r = item.y; r < item.y + stretch.rows; ++r) {
    for (int64_t q = item.x; q < item.x + stretch.columns; ++q, ++offsets) {
      const int64_t row = pass.y.origin + r * pass.y.out_step;
      const int64_t column = pass.x.origin + q * pass.x.out_step;
      const bool inside = r < pass.y.grid && q < pass.x.grid;
      *offsets = inside ? (row * pass.x.output + column) * pass.out.pixel : kOutside;
    }
  }
}

// The same pixels of several channels of an image; E is T or const T.
template <class E>
struct Pixels {
  E* first;  // channel, at the item's samples
  int64_t plane;
  const int64_t* offsets;
  int64_t count;
  int64_t samples, lanes;  // of a pixel: in a vector, and of these the image's
};

// Copies one channel's pixels; those outside the image, and samples beyond its own, are zero.
// kSamples: of a pixel and all its own, or 0 where they are few.
template <int kSamples, class T>
inline T* copy_channel(const Pixels<const T>& pixels, const T* from, T* to) {
  for (int64_t i = 0; i < pixels.count; ++i) {
    const bool inside = pixels.offsets[i] != kOutside;
    if constexpr (kSamples == Vec<T>::kLanes) {
      store(to, inside ? load(from + pixels.offsets[i]) : typename Vec<T>::Type{});
    } else if constexpr (kSamples > 0) {
      struct Samples {
        T of[kSamples];
      } copied = {};
      if (inside) __builtin_memcpy(&copied, from + pixels.offsets[i], sizeof(copied));
      __builtin_memcpy(to, &copied, sizeof(copied));
    } else {
      const int64_t lanes = inside ? pixels.lanes : 0;
      for (int64_t n = 0; n < lanes; ++n) to[n] = from[pixels.offsets[i] + n];
      for (int64_t n = lanes; n < pixels.samples; ++n) to[n] = T{0};
    }
    to += pixels.samples;
  }
  return to;
}

// Calls run.operator()<samples>() with the samples of a pixel, or 0 if not all are its own.
template <class T, int kMost = Vec<T>::kLanes, class Run>
inline void with_samples(const Pixels<const T>& pixels, Run run) {
  if constexpr (kMost == 0) {
    run.template operator()<0>();
  } else {
    if (pixels.lanes == kMost && pixels.samples == kMost) return run.template operator()<kMost>();
    with_samples<T, kMost / 2>(pixels, run);
  }
}

// Copies the pixels of the channels [begin, end) into contiguous memory. Padding, stride and
// dilation end here.
template <class T>
void copy_pixels(const Pixels<const T>& pixels, int64_t begin, int64_t end, T* to) {
  with_samples(pixels, [&]<int kSamples>() {
    const T* from = pixels.first + begin * pixels.plane;
    T* next = to;
    for (int64_t c = begin; c < end; ++c, from += pixels.plane) {
      next = copy_channel<kSamples>(pixels, from, next);
    }
  });
}

// Asks the caches for pixels while others are computed with: what lies a pixel apart is no stream
// that the hardware sees coming (8 to 10 % of a pass whose operands are 8 MB).
template <class T>
class Lookahead {
 public:
  Lookahead() : pixels_{nullptr, 0, nullptr, 0, 0, 0}, left_(0), i_(0) {}
  Lookahead(const Pixels<const T>& pixels, int64_t begin, int64_t end)
      : pixels_(pixels), left_((end - begin) * pixels.count), i_(0) {
    pixels_.first += begin * pixels.plane;
  }

  // Pixels that each of so many fetches has to ask for.
  int64_t share(int64_t fetches) const { return fetches == 0 ? 0 : ceil_div(left_, fetches); }

  void fetch(int64_t count) {
    if (count > left_) count = left_;
    left_ -= count;
    for (; count > 0; --count) {
      if (pixels_.offsets[i_] != kOutside) {
        __builtin_prefetch(pixels_.first + pixels_.offsets[i_], 0, 2);
      }
      if (++i_ == pixels_.count) {
        i_ = 0;
        pixels_.first += pixels_.plane;
      }
    }
  }

 private:
  Pixels<const T> pixels_;
  int64_t left_, i_;
};

}  // namespace
}  // namespace sparsefl
