// The kernels of gated_conv2d.h, written once for every instruction set.

// clang-format off: the order matters.
#include "cpu/simd.inl"
#include "cpu/gated_plane.inl"
#include "cpu/gated_outer.inl"
#include "cpu/gated_small.inl"
// clang-format on

namespace sparsefl {
namespace {

// Vectors of pixels that a weight is broadcast to, and the most rows whose sums of so many vectors
// the registers hold beside them.
template <class T>
constexpr int kPixelVectors = SPARSEFL_VECTOR_BYTES == 64 ? 4 : 2;
template <class T, int kVectors>
constexpr int kRowsAtOnce = kVectors == kPixelVectors<T> ? 6 : 8;
constexpr int kMostRows = 8;
// Of the operand that a block of channels makes, so that it stays in the L1 cache.
constexpr int64_t kOperandBytes = 20 << 10;

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
  bool first;  // the sums begin with `start`, else with what y holds
};

template <class T, int kRows, int kVectors>
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
  const int64_t x_vector = b.x_vector, taps = b.taps;
  for (int64_t i = 0; i < b.count; ++i, x += b.x_channel) {
    const int64_t channel = b.channels[i] * b.channel_step;
    for (int64_t t = 0; t < taps; ++t) {
      const T* p = x + b.x_tap[t];
      const int64_t place = channel + b.w_tap[t];
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
    if (rows == kRows) return multiply<T, kRows, kVectors>(b, weights, start, y);
    multiply_rows<T, kVectors, kRows - 1>(rows, b, weights, start, y);
  }
}

// How the pixels of a pass are cut into tiles of a few vectors, and what each tile needs.
template <class T>
struct GatherPlan {
  static constexpr int kLanes = Vec<T>::kLanes;
  static constexpr int64_t kTile = kPixelVectors<T> * kLanes;

  bool contiguous;  // the grid's pixels are the output's
  bool direct;      // vectors are read from the padded rows; else each tap's are laid out
  Band band;
  int64_t taps, pixels, tile_rows, band_elements, channel_elements, block_channels;

  explicit GatherPlan(const GatedGatherArgs<T>& a)
      : contiguous(a.x.out_step == 1 && a.y.out_step == 1 && a.x.grid == a.x.output),
        direct(contiguous && a.x.in_step == 1 && a.x.grid % kLanes == 0),
        band(a.y, a.x, direct ? kLanes : 1),
        taps(0),
        pixels(a.y.grid * a.x.grid) {
    for (int64_t i = 0; i < a.y.kernel * a.x.kernel; ++i) {
      taps += a.y.tap[i / a.x.kernel] != Axis::kNoTap && a.x.tap[i % a.x.kernel] != Axis::kNoTap;
    }
    // Pixels of a tile begin anywhere in a row.
    tile_rows = direct ? kPixelVectors<T> : smaller(a.y.grid, (kTile - 1) / a.x.grid + 2);
    band_elements = taps == 0 ? 0 : round_up(band.elements(tile_rows) + kLanes, kLanes);
    channel_elements = direct ? band_elements : taps * smaller(kTile, round_up(pixels, kLanes));
    const int64_t fit = kOperandBytes / int64_t{sizeof(T)} / (channel_elements + 1);
    block_channels = fit < 1 ? 1 : smaller(fit, a.channels.channels);
  }

  int64_t table_elements() const {
    return round_up(3 * taps * int64_t{sizeof(int64_t)}, 64) / int64_t{sizeof(T)};
  }
  int64_t operand_elements() const {
    return round_up(block_channels * channel_elements + kLanes, 16);
  }
  int64_t sums_elements(const GatedGatherArgs<T>& a) const { return a.rows.channels * kTile; }
};

template <class T>
int64_t gather_scratch(const GatedGatherArgs<T>& a) {
  const GatherPlan<T> plan(a);
  return plan.table_elements() + round_up(plan.band_elements, 16) + plan.operand_elements() +
         plan.sums_elements(a);
}

// Where a tile's sums are kept while blocks of channels are added: in the output, or in a buffer of
// `width` elements a listed row.
template <class T>
struct Sums {
  T* to;
  int64_t row_step;  // between output channels; 0: a buffer
  int64_t width;
};

template <class T>
void multiply_tile(const GatedGatherArgs<T>& a, int64_t n, int64_t vectors, const Block<T>& block,
                   const Sums<T>& sums) {
  const int32_t* listed = a.rows.index + n * a.rows.channels;
  const int64_t rows = a.rows.count[n];
  const int64_t most = vectors == kPixelVectors<T> ? kRowsAtOnce<T, kPixelVectors<T>> : kMostRows;
  const int64_t groups = ceil_div(rows, most);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = rows * g / groups, count = rows * (g + 1) / groups - first;
    const T* weights[kMostRows];
    T* y[kMostRows];
    T start[kMostRows];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t r = listed[first + i];
      weights[i] = a.weight + r * a.row_step;
      start[i] = a.start == nullptr ? T{0} : a.start[n * a.start_step + r];
      y[i] = sums.to + (sums.row_step == 0 ? (first + i) * sums.width : r * sums.row_step);
    }
    if (vectors == 1) multiply_rows<T, 1>(count, block, weights, start, y);
    if (vectors == 2) multiply_rows<T, 2>(count, block, weights, start, y);
    if constexpr (kPixelVectors<T> == 4) {
      if (vectors == 3) multiply_rows<T, 3>(count, block, weights, start, y);
      if (vectors == 4) multiply_rows<T, 4>(count, block, weights, start, y);
    }
  }
}

// Of every tap: where it reaches in a band, where in the operand, and its place in a weight.
struct Tables {
  int64_t *band, *x, *weight;

  Tables(const Axis& y, const Axis& x_axis, const Band& in, int64_t taps, void* memory)
      : band(static_cast<int64_t*>(memory)), x(band + taps), weight(x + taps) {
    int64_t t = 0;
    for (int64_t ky = 0; ky < y.kernel; ++ky) {
      for (int64_t kx = 0; kx < x_axis.kernel; ++kx) {
        if (y.tap[ky] == Axis::kNoTap || x_axis.tap[kx] == Axis::kNoTap) continue;
        band[t] = x[t] = in.place(y.tap[ky], x_axis.tap[kx]);
        weight[t++] = ky * x_axis.kernel + kx;
      }
    }
  }
};

// Lays out, for the pixels [begin, end) of the grid, what each tap reaches of a channel.
template <class T>
void lay_out(const GatherPlan<T>& plan, const int64_t* place, int64_t columns, int64_t begin,
             int64_t end, const T* band, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t step = plan.band.step_y * plan.band.pitch, head = begin % columns;
  const int64_t width = round_up(end - begin, kLanes);
  for (int64_t t = 0; t < plan.taps; ++t, to += width) {
    // What a vector writes beyond its row is written again, or no pixel's.
    const T* row = band + place[t];
    T* const last = to + (end - begin);
    T* out = to;
    if (head > 0) {
      const int64_t run = smaller(columns - head, end - begin);
      for (int64_t i = 0; i < run; i += kLanes) store(out + i, load(row + head + i));
      out += run, row += step;
    }
    if (columns <= kLanes) {
      for (; out < last; out += columns, row += step) store(out, load(row));
      continue;
    }
    for (; out < last; out += columns, row += step) {
      const int64_t run = smaller(columns, last - out);
      for (int64_t i = 0; i < run; i += kLanes) store(out + i, load(row + i));
    }
  }
}

// Adds up one tile over blocks of channels; operand(channel, i) writes the i-th of a block.
template <class T, class Operand>
void gather_blocks(const GatedGatherArgs<T>& a, const GatherPlan<T>& plan, int64_t n,
                   const Operand& operand, Block<T> block, int64_t vectors, const Sums<T>& sums,
                   int64_t columns) {
  const int32_t* listed = a.channels.index + n * a.channels.channels;
  const int64_t channels = plan.taps == 0 ? 0 : a.channels.count[n];
  const T* x = block.x;
  for (int64_t done = 0; done == 0 || done < channels; done += plan.block_channels) {
    block.channels = listed + done;
    block.count = smaller(plan.block_channels, channels - done);
    block.first = done == 0;
    for (int64_t i = 0; i < block.count; ++i) operand(block.channels[i], i);
    for (int64_t column = 0; column < columns; column += Vec<T>::kLanes) {
      block.x = x + column;
      multiply_tile(a, n, vectors, block, {sums.to + column, sums.row_step, sums.width});
    }
  }
}

// Writes the pixels [begin, end) of the grid to an output channel; a null `from` is zeros.
template <class T>
void write_pixels(const Axis& y, const Axis& x, int64_t begin, int64_t end, const T* from,
                  T* channel) {
  int64_t row = begin / x.grid, column = begin % x.grid;
  for (int64_t left = end - begin; left > 0; ++row, column = 0) {
    const int64_t run = smaller(x.grid - column, left);
    T* to = channel + (y.origin + row * y.out_step) * x.output + x.origin + column * x.out_step;
    for (int64_t i = 0; i < run; ++i) to[i * x.out_step] = from == nullptr ? T{0} : from[i];
    if (from != nullptr) from += run;
    left -= run;
  }
}

template <class T>
void clear_unlisted(const GatedGatherArgs<T>& a, bool contiguous, int64_t n) {
  const int64_t plane = a.y.output * a.x.output, rows = a.rows.channels;
  const int32_t* listed = a.rows.index + n * rows;
  for (int64_t r = 0, i = 0; r < rows; ++r) {
    if (i < a.rows.count[n] && listed[i] == r) {
      ++i;
      continue;
    }
    T* out = a.out + (n * rows + r) * plane;
    if (contiguous) {
      fill_zero(out, plane);
    } else {
      write_pixels<T>(a.y, a.x, 0, a.y.grid * a.x.grid, nullptr, out);
    }
  }
}

// The memory of a part of a gather.
template <class T>
struct GatherMemory {
  T *band, *operand, *sums;

  GatherMemory(const GatherPlan<T>& plan, T* scratch)
      : band(scratch + plan.table_elements()),
        operand(band + round_up(plan.band_elements, 16)),
        sums(operand + plan.operand_elements()) {}
};

// One sample whose padded rows are read as they are.
template <class T>
void gather_direct(const GatedGatherArgs<T>& a, const GatherPlan<T>& plan, int64_t n,
                   const Tables& tables, Block<T> block, const GatherMemory<T>& memory) {
  const int64_t in_plane = a.y.input * a.x.input, out_plane = a.y.output * a.x.output;
  const T* in = a.in + n * a.channels.channels * in_plane;
  const T* in_end = a.in + a.samples * a.channels.channels * in_plane;
  T* out = a.out + n * a.rows.channels * out_plane;
  block.x = memory.operand, block.x_tap = tables.band, block.x_channel = plan.band_elements;
  block.x_vector = plan.band.step_y * plan.band.pitch, block.y_vector = a.x.grid;
  for (int64_t y = 0; y < a.y.grid; y += kPixelVectors<T>) {
    const int64_t vectors = smaller(kPixelVectors<T>, a.y.grid - y);
    const auto read = [&](int64_t c, int64_t i) {
      copy_band(plan.band, a.y, a.x, in + c * in_plane, in_end, y, vectors,
                memory.operand + i * plan.band_elements);
    };
    gather_blocks(a, plan, n, read, block, vectors, {out + y * a.x.grid, out_plane, 0}, a.x.grid);
  }
}

// One sample, every tap's pixels laid out in vectors first.
template <class T>
void gather_laid_out(const GatedGatherArgs<T>& a, const GatherPlan<T>& plan, int64_t n,
                     const Tables& tables, Block<T> block, const GatherMemory<T>& memory) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t in_plane = a.y.input * a.x.input, out_plane = a.y.output * a.x.output;
  const T* in = a.in + n * a.channels.channels * in_plane;
  const T* in_end = a.in + a.samples * a.channels.channels * in_plane;
  T* out = a.out + n * a.rows.channels * out_plane;
  const int32_t* rows = a.rows.index + n * a.rows.channels;
  block.x = memory.operand, block.x_tap = tables.x;
  block.y_vector = block.x_vector = kLanes;
  for (int64_t begin = 0; begin < plan.pixels; begin += plan.kTile) {
    const int64_t end = smaller(plan.pixels, begin + plan.kTile), top = begin / a.x.grid;
    const int64_t vectors = ceil_div(end - begin, kLanes), width = vectors * kLanes;
    const bool whole = plan.contiguous && end - begin == width;
    const Sums<T> sums =
        whole ? Sums<T>{out + begin, out_plane, 0} : Sums<T>{memory.sums, 0, width};
    block.x_channel = plan.taps * width;
    for (int64_t t = 0; t < plan.taps; ++t) tables.x[t] = t * width;
    const auto read = [&](int64_t c, int64_t i) {
      copy_band(plan.band, a.y, a.x, in + c * in_plane, in_end, top, (end - 1) / a.x.grid - top + 1,
                memory.band);
      lay_out(plan, tables.band, a.x.grid, begin, end, memory.band,
              memory.operand + i * block.x_channel);
    };
    gather_blocks(a, plan, n, read, block, vectors, sums, 1);
    if (whole) continue;
    for (int64_t i = 0; i < a.rows.count[n]; ++i) {
      write_pixels<T>(a.y, a.x, begin, end, memory.sums + i * width, out + rows[i] * out_plane);
    }
  }
}

template <class T>
void gather(const GatedGatherArgs<T>& a, int64_t first_sample, int64_t last_sample, T* scratch) {
  const GatherPlan<T> plan(a);
  const Tables tables(a.y, a.x, plan.band, plan.taps, scratch);
  const GatherMemory<T> memory(plan, scratch);
  Block<T> block{};
  block.w_tap = tables.weight, block.taps = plan.taps, block.channel_step = a.channel_step;
  for (int64_t n = first_sample; n < last_sample; ++n) {
    clear_unlisted(a, plan.contiguous, n);
    const auto run = plan.direct ? gather_direct<T> : gather_laid_out<T>;
    run(a, plan, n, tables, block, memory);
  }
}

}  // namespace

#define SPARSEFL_GATED_CONV2D_TABLE(T) \
  {gather<T>,                          \
   gather_scratch<T>,                  \
   turn<T>,                            \
   turned_channels<T>,                 \
   outer<T>,                           \
   outer_scratch<T>,                   \
   small_gather<T>,                    \
   small_blocks<T>,                    \
   small_gather_scratch<T>,            \
   small_turn<T>,                      \
   small_turned_channels<T>,           \
   small_outer<T>,                     \
   small_outer_scratch<T>}

}  // namespace sparsefl
