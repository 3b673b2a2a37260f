// The kernels of gated_conv2d.h, written once for every instruction set.

// clang-format off: the order matters.
#include "cpu/simd.inl"
#include "cpu/gated_plane.inl"
#include "cpu/gated_operand.inl"
#include "cpu/gated_multiply.inl"
#include "cpu/gated_outer.inl"
#include "cpu/gated_planes.inl"
#include "cpu/gated_small.inl"
// clang-format on

namespace sparsefl {
namespace {

// Where the sums of a sample lie while blocks of channels are added: row r of phase f from
// to[f * phase_step + r * row_step] on, r counting all rows or, of a buffer, the listed ones.
template <class T>
struct Sums {
  T* to;
  int64_t phase_step, row_step;
  bool buffer;
};

// One sample's rows of a tile's vectors.
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
      y[i] = sums.to + (sums.buffer ? first + i : r) * sums.row_step;
    }
    if (vectors == 1) multiply_rows<T, 1>(count, block, weights, start, y);
    if (vectors == 2) multiply_rows<T, 2>(count, block, weights, start, y);
    if constexpr (kPixelVectors<T> == 4) {
      if (vectors == 3) multiply_rows<T, 3>(count, block, weights, start, y);
      if (vectors == 4) multiply_rows<T, 4>(count, block, weights, start, y);
    }
  }
}

// Rows of the grid, the vectors of pixels among them and where they begin: in every channel's
// operand, and in a plane of the grid.
struct Tile {
  int64_t top, rows, vectors, head, pixel;
};

// Adds a block of channels, whose operands are laid out, to a tile's sums.
template <class T>
void multiply_block(const GatedGatherArgs<T>& a, const Gather<T>& g, int64_t n, const Tile& tile,
                    Block<T> block, const Sums<T>& sums) {
  const GatherPlan<T>& plan = g.plan;
  for (int64_t v = 0; v < tile.vectors; v += kPixelVectors<T>) {
    const int64_t vectors = smaller(kPixelVectors<T>, tile.vectors - v);
    for (int64_t column = 0; column < plan.columns; column += Vec<T>::kLanes) {
      for (int64_t phase = 0; phase < plan.phases; ++phase) {
        const int64_t begin = g.tables.begin[phase];
        block.x = g.operand + tile.head + v * plan.x_vector + column;
        block.x_tap = g.tables.x + begin, block.w_tap = g.tables.weight + begin;
        block.taps = g.tables.begin[phase + 1] - begin;
        block.in_order = plan.phases == 1;
        T* to = sums.to + tile.pixel + v * plan.y_vector + column + phase * sums.phase_step;
        multiply_tile(a, n, vectors, block, Sums<T>{to, 0, sums.row_step, sums.buffer});
      }
    }
  }
}

// Adds listed channels of a sample, from the i-th to the one before the last, to a tile's sums.
template <class T>
void gather_tile(const GatedGatherArgs<T>& a, const Gather<T>& g, int64_t n, const Tile& tile,
                 int64_t first, int64_t last, const Sums<T>& sums) {
  const GatherPlan<T>& plan = g.plan;
  const int64_t in_plane = a.y.input * a.x.input;
  const T* in = a.in + n * a.channels.channels * in_plane;
  const T* end = a.in + a.samples * a.channels.channels * in_plane;
  const int32_t* listed = a.channels.index + n * a.channels.channels;
  Block<T> block{};
  block.x_channel = plan.operand.elements, block.channel_step = a.channel_step;
  block.x_vector = plan.x_vector, block.y_vector = plan.y_vector;
  for (int64_t done = first; done == first || done < last; done += plan.block_channels) {
    block.channels = listed + done;
    block.count = smaller(plan.block_channels, last - done);
    block.first = done == 0;
    for (int64_t i = 0; i < block.count; ++i) {
      plan.operand.read(in + block.channels[i] * in_plane, a.in, end, tile.top, tile.rows,
                        g.operand + i * plan.operand.elements);
    }
    multiply_block(a, g, n, tile, block, sums);
  }
}

template <class T>
void gather_tiles(const GatedGatherArgs<T>& a, const Gather<T>& g, int64_t n, int64_t first,
                  int64_t last, const Sums<T>& sums) {
  const GatherPlan<T>& plan = g.plan;
  const int64_t columns = a.x.grid;
  if (plan.operand.direct) {
    for (int64_t y = 0; y < a.y.grid; y += plan.operand.tile_rows) {
      const int64_t rows = smaller(plan.operand.tile_rows, a.y.grid - y);
      gather_tile(a, g, n, {y, rows, rows, 0, y * columns}, first, last, sums);
    }
    return;
  }
  for (int64_t begin = 0; begin < plan.pixels; begin += plan.kTile) {
    const int64_t end = smaller(plan.pixels, begin + plan.kTile), top = begin / columns;
    const int64_t vectors = ceil_div(end - begin, Vec<T>::kLanes);
    gather_tile(a, g, n, {top, (end - 1) / columns - top + 1, vectors, begin % columns, begin},
                first, last, sums);
  }
}

template <class T>
void clear_unlisted(const GatedGatherArgs<T>& a, int64_t n) {
  const int64_t plane = a.y.output * a.x.output, rows = a.rows.channels;
  const int32_t* listed = a.rows.index + n * rows;
  for (int64_t r = 0, i = 0; r < rows; ++r) {
    if (i < a.rows.count[n] && listed[i] == r) {
      ++i;
    } else {
      fill_zero(a.out + (n * rows + r) * plane, plane);
    }
  }
}

// Writes a sample's sums to its listed rows, the phases interleaved.
template <class T>
void write_sums(const GatedGatherArgs<T>& a, const GatherPlan<T>& plan, int64_t n,
                const Sums<T>& sums) {
  const int64_t height = a.y.output, width = a.x.output, rows = a.rows.channels;
  for (int64_t i = 0; i < a.rows.count[n]; ++i) {
    T* out = a.out + (n * rows + a.rows.index[n * rows + i]) * height * width;
    const T* row = sums.to + i * sums.row_step;
    if (plan.phases == 1) {
      copy_exactly(row, plan.pixels, out);
      continue;
    }
    for (int64_t y = 0; y < height; ++y, out += width) {
      const int64_t phase = y % a.y.out_step * a.x.out_step;
      interleave(row + phase * sums.phase_step + y / a.y.out_step * a.x.grid, sums.phase_step,
                 a.x.out_step, width, out);
    }
  }
}

// The first of n ascending numbers that is not below the least.
inline int64_t first_from(const int32_t* sorted, int64_t n, int64_t least) {
  int64_t low = 0;
  while (low < n) {
    const int64_t middle = (low + n) / 2;
    if (sorted[middle] < least) {
      low = middle + 1;
    } else {
      n = middle;
    }
  }
  return low;
}

// Sums in the output: of a range of channels for all samples, then of the next, so that a range's
// weights come from the L2 cache.
template <class T>
void gather_ranges(const GatedGatherArgs<T>& a, const Gather<T>& g, int64_t first_sample,
                   int64_t last_sample) {
  const int64_t channels = a.channels.channels, rows = a.rows.channels;
  const int64_t plane = a.y.output * a.x.output, step = g.plan.range_channels;
  for (int64_t n = first_sample; n < last_sample; ++n) clear_unlisted(a, n);
  for (int64_t least = 0; least == 0 || least < channels; least += step) {
    for (int64_t n = first_sample; n < last_sample; ++n) {
      const int32_t* listed = a.channels.index + n * channels;
      const int64_t count = a.channels.count[n];
      const int64_t first = first_from(listed, count, least);
      const int64_t last = first_from(listed, count, least + step);
      // The first block of a sample starts the sums, even without any channel.
      if (first == last && (first > 0 || least > 0)) continue;
      gather_tiles(a, g, n, first, last, {a.out + n * rows * plane, 0, plane, false});
    }
  }
}

template <class T>
void gather(const GatedGatherArgs<T>& a, int64_t first_sample, int64_t last_sample, T* scratch) {
  const Gather<T> g(a, scratch);
  if (!g.plan.buffered) return gather_ranges(a, g, first_sample, last_sample);
  const int64_t row_step = g.plan.padded_pixels;
  const Sums<T> sums{g.sums, a.rows.channels * row_step, row_step, true};
  for (int64_t n = first_sample; n < last_sample; ++n) {
    clear_unlisted(a, n);
    gather_tiles(a, g, n, 0, a.channels.count[n], sums);
    write_sums(a, g.plan, n, sums);
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
   fits_planes<T>,                     \
   plane_outer<T>,                     \
   plane_outer_scratch<T>,             \
   small_gather<T>,                    \
   small_blocks<T>,                    \
   small_gather_scratch<T>,            \
   small_turn<T>,                      \
   small_turned_channels<T>,           \
   small_outer<T>,                     \
   small_outer_scratch<T>}

}  // namespace sparsefl
