// The kernels of sparse_conv2d.h, written once for every instruction set.

#include "cpu/simd.inl"
#include "cpu/weights.inl"

namespace sparsefl {
namespace {

// A tile of grid points, one vector of samples each: as many accumulators as the registers hold
// beside a weight. 4 x 4 has the smallest halo for its size.
template <class T>
constexpr int kTileRows = Vec<T>::kLanes >= 16 ? 4 : 2;
constexpr int kTileColumns = 4;
template <class T>
constexpr int kTile = kTileRows<T> * kTileColumns;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

  Window(const View& view, const Pass& pass)
      : y(pass.y, kTileRows<T>),
        x(pass.x, kTileColumns),
        channels(0),
        taps(pass.y.kernel * pass.x.kernel) {
    const int64_t columns = view.block < view.columns ? view.block : view.columns;
    channels = columns / taps;
  }
  int64_t pixels() const { return y.size() * x.size(); }
  int64_t elements() const { return channels * pixels() * Vec<T>::kLanes; }
  int64_t table_elements() const {
    return ceil_div(channels * taps * int64_t{sizeof(int32_t)}, 64) * 64 / int64_t{sizeof(T)};
  }
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
        *table = static_cast<int32_t>((c * window.pixels() + place) * Vec<T>::kLanes);
      }
    }
  }
}

// One item: a tile of the grid, a vector of samples, a group of channels.
struct Item {
  int64_t group, lane, lanes, y, x;

  Item(int64_t item, const Pass& pass, int tile_rows, int tile_columns, int vector_lanes) {
    const int64_t across = ceil_div(pass.x.grid, tile_columns);
    const int64_t down = ceil_div(pass.y.grid, tile_rows);
    const int64_t vectors = ceil_div(pass.batch, vector_lanes);
    x = item % across * tile_columns;
    item /= across;
    y = item % down * tile_rows;
    item /= down;
    lane = item % vectors * vector_lanes;
    group = item / vectors;
    lanes = pass.batch - lane < vector_lanes ? pass.batch - lane : vector_lanes;
  }
};

template <class T>
Item make_item(int64_t item, const Pass& pass) {
  return Item(item, pass, kTileRows<T>, kTileColumns, Vec<T>::kLanes);
}

template <class T>
int64_t items(const Pass& pass) {
  return ceil_div(pass.x.grid, kTileColumns) * ceil_div(pass.y.grid, kTileRows<T>) *
         ceil_div(pass.batch, Vec<T>::kLanes) * pass.groups;
}

// Copies the window of a block's channels into contiguous memory; pixels outside the input are
// zero. Padding, stride and dilation end here.
template <class T>
void copy_window(const T* x, const Pass& pass, const Window<T>& window, const Item& item,
                 int64_t first_channel, int64_t channels, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t top = item.y * pass.y.in_step + window.y.low;
  const int64_t left = item.x * pass.x.in_step + window.x.low;
  for (int64_t c = 0; c < channels; ++c) {
    const T* plane = x + (first_channel + c) * pass.y.input * pass.x.input * pass.in.pixel +
                     pass.in.offset(item.lane);
    for (int64_t ry = 0; ry < window.y.residues; ++ry) {
      for (int64_t j = 0; j < window.y.length; ++j) {
        const int64_t row = top + ry + j * pass.y.in_step;
        const bool row_inside = row >= 0 && row < pass.y.input;
        for (int64_t rx = 0; rx < window.x.residues; ++rx) {
          for (int64_t i = 0; i < window.x.length; ++i, to += kLanes) {
            const int64_t column = left + rx + i * pass.x.in_step;
            if (row_inside && column >= 0 && column < pass.x.input) {
              store(to, load(plane + (row * pass.x.input + column) * pass.in.pixel));
            } else {
              store(to, typename Vec<T>::Type{});
            }
          }
        }
      }
    }
  }
}

// Calls pixel(i, offset) for tile point i inside the grid, offset being its place in an output
// channel.
template <class T, class Run>
inline void for_pixels(const Pass& pass, const Item& item, Run run) {
  const int64_t lane = pass.out.offset(item.lane);
  for (int r = 0; r < kTileRows<T>; ++r) {
    if (item.y + r >= pass.y.grid) break;
    const int64_t row = pass.y.origin + (item.y + r) * pass.y.out_step;
    for (int q = 0; q < kTileColumns; ++q) {
      if (item.x + q >= pass.x.grid) break;
      const int64_t column = pass.x.origin + (item.x + q) * pass.x.out_step;
      run(r * kTileColumns + q, (row * pass.x.output + column) * pass.out.pixel + lane);
    }
  }
}

// One block of all rows of a group: sums[row][r][q] += weight(k) * window[place(k) + (r, q)] over
// the row's k. The first block starts from the bias. Kept out of line: its accumulators and
// pointers take every register there is.
template <class T, class R>
__attribute__((noinline)) void gather_block(const R& weight, const uint16_t* index,
                                            const int32_t* begin, int64_t rows,
                                            const int32_t* table, const T* window,
                                            int64_t row_elements, bool first, const T* bias,
                                            T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t row = 0; row < rows; ++row, sums += kTile<T> * kLanes) {
    typename Vec<T>::Type acc[kTile<T>];
    if (first) {
      const auto start = broadcast<T>(bias == nullptr ? T{0} : bias[row]);
      for (int i = 0; i < kTile<T>; ++i) acc[i] = start;
    } else if (begin[row] == begin[row + 1]) {
      continue;
    } else {
      for (int i = 0; i < kTile<T>; ++i) acc[i] = load(sums + i * kLanes);
    }
    for (int64_t k = begin[row]; k < begin[row + 1]; ++k) {
      const auto w = broadcast<T>(weight(k));
      const T* p = window + table[index[k]];
      for (int r = 0; r < kTileRows<T>; ++r, p += row_elements) {
        for (int q = 0; q < kTileColumns; ++q) {
          acc[r * kTileColumns + q] += w * load(p + q * kLanes);
        }
      }
    }
    for (int i = 0; i < kTile<T>; ++i) store(sums + i * kLanes, acc[i]);
  }
}

// Writes the rows' sums to the pixels of the tile that lie inside the grid.
template <class T>
void write_tile(const GatherArgs<T>& a, const Item& item, int64_t rows, const T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t plane = a.pass.y.output * a.pass.x.output * a.pass.out.pixel;
  T* y = a.y + item.group * rows * plane;
  for (int64_t row = 0; row < rows; ++row, y += plane, sums += kTile<T> * kLanes) {
    for_pixels<T>(a.pass, item, [&](int i, int64_t offset) {
      if (item.lanes == kLanes) {
        store(y + offset, load(sums + i * kLanes));
      } else {
        store_some(y + offset, load(sums + i * kLanes), item.lanes);
      }
    });
  }
}

// Of either kernel: a table, a window, and a tile of all rows' sums or gradients.
template <class T>
int64_t scratch_elements(const View& view, const Pass& pass) {
  const Window<T> window(view, pass);
  return window.table_elements() + window.elements() +
         view.rows / pass.groups * kTile<T> * Vec<T>::kLanes;
}

template <class T, class R>
void gather_item(const GatherArgs<T>& a, const R& weight, const Window<T>& window, const Item& item,
                 const int32_t* table, T* window_data, T* sums) {
  const View& view = a.view;
  const int64_t rows = view.rows / a.pass.groups;
  const int64_t group_channels = view.columns / window.taps;
  const T* bias = a.bias == nullptr ? nullptr : a.bias + item.group * rows;
  for (int64_t b = 0; b < view.blocks(); ++b) {
    const int32_t* begin =
        view.begin + (a.pass.phase * view.blocks() + b) * view.rows + item.group * rows;
    if (b > 0 && begin[0] == begin[rows]) continue;
    const int64_t first = b * window.channels;
    const int64_t left = group_channels - first;
    copy_window(a.x, a.pass, window, item, item.group * group_channels + first,
                left < window.channels ? left : window.channels, window_data);
    gather_block<T>(weight, view.index, begin, rows, table, window_data,
                    window.x.size() * Vec<T>::kLanes, b == 0, bias, sums);
  }
  write_tile(a, item, rows, sums);
}

template <class T>
void gather(const GatherArgs<T>& a, int64_t begin, int64_t end, T* scratch) {
  const Window<T> window(a.view, a.pass);
  int32_t* table = reinterpret_cast<int32_t*>(scratch);
  T* window_data = scratch + window.table_elements();
  fill_table(window, a.pass, table);
  with_reader<T>(a.weights, a.view.position, [&](const auto& weight) {
    for (int64_t i = begin; i < end; ++i) {
      gather_item(a, weight, window, make_item<T>(i, a.pass), table, window_data,
                  window_data + window.elements());
    }
  });
}

// The tile's gradients of all rows of the group; points outside the grid are zero.
template <class T>
void copy_gradients(const SampleArgs<T>& a, const Item& item, int64_t rows, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t plane = a.pass.y.output * a.pass.x.output * a.pass.out.pixel;
  for (int64_t i = 0; i < rows * kTile<T>; ++i) store(to + i * kLanes, typename Vec<T>::Type{});
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = a.grad + (item.group * rows + r) * plane;
    for_pixels<T>(a.pass, item, [&](int i, int64_t offset) {
      store(to + (r * kTile<T> + i) * kLanes, load(from + offset));
    });
  }
}

// Dot products of one window with the tile's gradients. Each kept position's products stay a vector
// until there are as many as lanes; one shuffle tree then sums them all, across the ends of rows.
template <class T>
void sample_block(const uint16_t* index, const int32_t* begin, int64_t rows, const int32_t* table,
                  const T* gradients, const T* window, int64_t row_elements, T* grad_weights) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type waiting[kLanes];
  int count = 0;
  T* out = grad_weights + begin[0];
  const auto flush = [&] {
    const auto sums = sum_each<T>(waiting);
    count == kLanes ? store(out, load(out) + sums)
                    : store_some(out, load_some(out, count) + sums, count);
    out += count;
    count = 0;
  };
  for (int64_t r = 0; r < rows; ++r) {
    if (begin[r] == begin[r + 1]) continue;
    typename Vec<T>::Type g[kTile<T>];
    for (int i = 0; i < kTile<T>; ++i) g[i] = load(gradients + (r * kTile<T> + i) * kLanes);
    for (int64_t k = begin[r]; k < begin[r + 1]; ++k) {
      const T* p = window + table[index[k]];
      typename Vec<T>::Type sum[2] = {};
      for (int y = 0; y < kTileRows<T>; ++y, p += row_elements) {
        for (int x = 0; x < kTileColumns; ++x) {
          sum[x & 1] += g[y * kTileColumns + x] * load(p + x * kLanes);
        }
      }
      waiting[count] = sum[0] + sum[1];
      if (++count == kLanes) flush();
    }
  }
  if (count > 0) {
    for (int i = count; i < kLanes; ++i) waiting[i] = typename Vec<T>::Type{};
    flush();
  }
}

template <class T>
void sample(const SampleArgs<T>& a, int64_t begin, int64_t end, T* scratch) {
  const View& view = a.view;
  const Window<T> window(view, a.pass);
  int32_t* table = reinterpret_cast<int32_t*>(scratch);
  T* window_data = scratch + window.table_elements();
  T* gradients = window_data + window.elements();
  fill_table(window, a.pass, table);
  const int64_t rows = view.rows / a.pass.groups;
  const int64_t group_channels = view.columns / window.taps;
  for (int64_t i = begin; i < end; ++i) {
    const Item item = make_item<T>(i, a.pass);
    copy_gradients(a, item, rows, gradients);
    for (int64_t b = 0; b < view.blocks(); ++b) {
      const int32_t* rows_begin = view.begin + b * view.rows + item.group * rows;
      if (rows_begin[0] == rows_begin[rows]) continue;
      const int64_t first = b * window.channels;
      const int64_t left = group_channels - first;
      copy_window(a.x, a.pass, window, item, item.group * group_channels + first,
                  left < window.channels ? left : window.channels, window_data);
      sample_block<T>(view.index, rows_begin, rows, table, gradients, window_data,
                      window.x.size() * Vec<T>::kLanes, a.grad_weights);
    }
  }
}

}  // namespace

#define SPARSEFL_SPARSE_CONV2D_TABLE(T) {items<T>, gather<T>, sample<T>, scratch_elements<T>}

}  // namespace sparsefl
