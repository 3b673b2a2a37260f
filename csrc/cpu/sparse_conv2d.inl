// The kernels of sparse_conv2d.h, written once for every instruction set.

#include "cpu/simd.inl"
#include "cpu/sparse_conv2d_items.inl"
#include "cpu/weights.inl"

namespace sparsefl {
namespace {

// Writes a row's sums to the pixels of its tile. Whole vectors are read from registers: what was
// stored a moment before could not be loaded again for some 15 cycles.
template <class T, int kTile>
[[gnu::always_inline]] inline void write_tile(const Pixels<T>& tile,
                                              const typename Vec<T>::Type (&acc)[kTile], T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  if (tile.lanes == kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kTile; ++i) {
      if (tile.offsets[i] != kOutside) store(tile.first + tile.offsets[i], acc[i]);
    }
    return;
  }
  for (int i = 0; i < kTile; ++i) store(sums + i * kLanes, acc[i]);
  for (int64_t i = 0; i < tile.count; ++i, sums += tile.samples) {
    if (tile.offsets[i] == kOutside) continue;
    for (int64_t n = 0; n < tile.lanes; ++n) tile.first[tile.offsets[i] + n] = sums[n];
  }
}

// Asks the caches for the tile of a row that follows: its pixels lie in as many lines, and the
// stores of one row wait for them in turn (4 to 14 % of a pass).
template <class T>
[[gnu::always_inline]] inline void ask_ahead(const Pixels<T>& tile) {
  for (int64_t i = 0; i < tile.count; ++i) {
    if (tile.offsets[i] == kOutside) continue;
    __builtin_prefetch(tile.first + 2 * tile.plane + tile.offsets[i], 1, 2);
  }
}

// What one block of a view is to the rows of an item.
template <class T>
struct Block {
  const int32_t* begin;
  int64_t rows;
  const int32_t* places;  // of the first row's positions on
  const T* window;
  int64_t row_elements;

  Block(const Items<T>& items, int64_t block)
      : begin(items.begin(block)),
        rows(items.rows()),
        places(items.places(begin[0])),
        window(items.memory.window),
        row_elements(items.row_elements()) {}

  bool empty() const { return begin[0] == begin[rows]; }
};

// One block of all rows of a group: sums[row][r][v] += weight[k] * window[place(k) + (r, v)] over
// the row's k. A block is summed by itself, since a chain through all of them would round thousands
// of times. The first one starts from the bias; the last one writes to `tile`, which the others
// lack. Kept out of line: its accumulators and pointers take every register there is.
template <class T, int kRows, int kVectors>
__attribute__((noinline)) void gather_block(const Block<T>& block, const T* weight, bool first,
                                            const T* bias, T* sums, Pixels<T> tile,
                                            Lookahead<T> ahead) {
  constexpr int kLanes = Vec<T>::kLanes, kTile = kRows * kVectors;
  const bool last = tile.first != nullptr;
  const int64_t share = ahead.share(block.rows);
  const int32_t* begin = block.begin;
  for (int64_t row = 0; row < block.rows; ++row, sums += kTile * kLanes, tile.first += tile.plane) {
    ahead.fetch(share);
    if (last) ask_ahead(tile);
    typename Vec<T>::Type acc[kTile];
    if (first) {
      const auto start = broadcast<T>(bias == nullptr ? T{0} : bias[row]);
      for (int i = 0; i < kTile; ++i) acc[i] = start;
    } else if (begin[row] == begin[row + 1] && !last) {
      continue;
    } else {
      for (int i = 0; i < kTile; ++i) acc[i] = typename Vec<T>::Type{};
    }
    for (int64_t k = begin[row]; k < begin[row + 1]; ++k) {
      const auto w = broadcast<T>(weight[k]);
      const T* p = block.window + block.places[k - begin[0]];
      for (int r = 0; r < kRows; ++r, p += block.row_elements) {
        for (int v = 0; v < kVectors; ++v) acc[r * kVectors + v] += w * load(p + v * kLanes);
      }
    }
    if (!first) {
      for (int i = 0; i < kTile; ++i) acc[i] += load(sums + i * kLanes);
    }
    if (last) {
      write_tile<T, kTile>(tile, acc, sums);
    } else {
      for (int i = 0; i < kTile; ++i) store(sums + i * kLanes, acc[i]);
    }
  }
}

template <class T, int kRows, int kVectors>
void gather_item(const GatherArgs<T>& a, const Items<T>& items) {
  const int64_t blocks = a.view.blocks();
  const T* bias = a.bias == nullptr ? nullptr : a.bias + items.first_row(items.here);
  for (int64_t b = 0; b < blocks; ++b) {
    const Block<T> block(items, b);
    const bool last = b + 1 == blocks;
    if (block.empty() && b > 0 && !last) continue;
    if (!block.empty()) items.copy_window(b);
    const Pixels<T> tile =
        last ? items.tile(items.here, a.y) : Pixels<T>{nullptr, 0, nullptr, 0, 0, 0};
    gather_block<T, kRows, kVectors>(block, a.weights, b == 0, bias, items.memory.sums, tile,
                                     items.window_after(b));
  }
}

template <class T>
void gather(const GatherArgs<T>& a, int64_t begin, int64_t end, T* scratch) {
  for_items(a.view, a.pass, a.x, begin, end, scratch, [&](const Items<T>& items) {
    with_shape<T>(items.stretch().shape,
                  [&]<int kRows, int kVectors>() { gather_item<T, kRows, kVectors>(a, items); });
  });
}

// A vector as it waits for its lanes to be summed: where 16 lanes are to be, as the sum of its
// halves, half of what is stored and loaded again (4 % of a pass).
template <class T>
struct Waiting {
  static constexpr bool kFolded = Vec<T>::kLanes == 16;
  static constexpr int kLanes = kFolded ? 8 : Vec<T>::kLanes;
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));

  static Type of(typename Vec<T>::Type v) {
    if constexpr (kFolded) {
      return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    } else {
      return v;
    }
  }
  static Type sum(const Type* waiting) {
    if constexpr (kFolded) {
      return sum_eight(waiting);
    } else {
      return sum_each<T>(waiting);
    }
  }
};

// Sums over lanes, added to consecutive elements. Vectors wait until there are some: a branch a
// vector, taken every so many lanes and out of step with the rows, could not be predicted. No more
// than the processor looks ahead over, so that others are multiplied meanwhile (4 % of a pass).
template <class T>
class LaneSums {
 public:
  explicit LaneSums(T* out) : out_(out) {}

  int room() const { return kMost - count_; }
  void push(typename Vec<T>::Type v) { waiting_[count_++] = Waiting<T>::of(v); }
  void flush() {
    int i = 0;
    for (; i + kLanes <= count_; i += kLanes, out_ += kLanes) {
      typename Waiting<T>::Type total;
      __builtin_memcpy(&total, out_, sizeof(total));
      total += Waiting<T>::sum(waiting_ + i);
      __builtin_memcpy(out_, &total, sizeof(total));
    }
    const int rest = count_ - i;
    count_ = 0;
    if (rest == 0) return;
    typename Waiting<T>::Type last[kLanes] = {};
    for (int j = 0; j < rest; ++j) last[j] = waiting_[i + j];
    const auto each = Waiting<T>::sum(last);
    for (int j = 0; j < kLanes; ++j) {
      if (j < rest) out_[j] += each[j];
    }
    out_ += rest;
  }

 private:
  static constexpr int kLanes = Waiting<T>::kLanes, kMost = 32;

  T* out_;
  int count_ = 0;
  typename Waiting<T>::Type waiting_[kMost];
};

// Dot products of one window with the tile's gradients: a vector a kept position, summed over its
// lanes later.
template <class T, int kRows, int kVectors>
void sample_block(const Block<T>& block, const T* gradients, T* grad_weights, Lookahead<T> ahead,
                  Lookahead<T>& gradients_ahead, int64_t gradients_share) {
  constexpr int kLanes = Vec<T>::kLanes, kTile = kRows * kVectors;
  const int64_t share = ahead.share(block.rows);
  const int32_t* begin = block.begin;
  LaneSums<T> sums(grad_weights + begin[0]);
  for (int64_t row = 0; row < block.rows; ++row) {
    ahead.fetch(share);
    gradients_ahead.fetch(gradients_share);
    if (begin[row] == begin[row + 1]) continue;
    typename Vec<T>::Type g[kTile];
    for (int i = 0; i < kTile; ++i) g[i] = load(gradients + (row * kTile + i) * kLanes);
    for (int64_t k = begin[row]; k < begin[row + 1];) {
      const int64_t left = begin[row + 1] - k;
      const int64_t stop = k + (left < sums.room() ? left : sums.room());
      for (; k < stop; ++k) {
        const T* p = block.window + block.places[k - begin[0]];
        typename Vec<T>::Type sum[2] = {};
        for (int r = 0; r < kRows; ++r, p += block.row_elements) {
          for (int v = 0; v < kVectors; ++v) {
            sum[(r + v) & 1] += g[r * kVectors + v] * load(p + v * kLanes);
          }
        }
        sums.push(sum[0] + sum[1]);
      }
      if (sums.room() == 0) sums.flush();
    }
  }
  sums.flush();
}

template <class T, int kRows, int kVectors>
void sample_item(const SampleArgs<T>& a, const Items<T>& items) {
  const int64_t rows = items.rows(), blocks = a.view.blocks();
  copy_pixels(items.tile(items.here, a.grad), 0, rows, items.memory.sums);
  Lookahead<T> gradients;
  if (!items.last()) {
    gradients = Lookahead<T>(items.tile(items.next, a.grad), 0, rows);
  }
  const int64_t share = gradients.share(rows * blocks);
  for (int64_t b = 0; b < blocks; ++b) {
    const Block<T> block(items, b);
    if (block.empty()) continue;
    items.copy_window(b);
    sample_block<T, kRows, kVectors>(block, items.memory.sums, a.grad_weights,
                                     items.window_after(b), gradients, share);
  }
}

template <class T>
void sample(const SampleArgs<T>& a, int64_t begin, int64_t end, T* scratch) {
  for_items(a.view, a.pass, a.x, begin, end, scratch, [&](const Items<T>& items) {
    with_shape<T>(items.stretch().shape,
                  [&]<int kRows, int kVectors>() { sample_item<T, kRows, kVectors>(a, items); });
  });
}

}  // namespace
}  // namespace sparsefl

#include "cpu/sparse_conv2d_strips.inl"
// After the strips that it walks.
#include "cpu/sparse_conv2d_runs.inl"

#define SPARSEFL_SPARSE_CONV2D_TABLE(T)                                               \
  {                                                                                   \
      read_weights<T>,                                                                \
      {items<T>, gather<T>, sample<T>, Scratch<T>::elements},                         \
      {count_runs<T>, gather_strips<T>, sample_strips<T>, StripScratch<T>::elements}, \
  }
