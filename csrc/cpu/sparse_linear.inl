// The kernels of sparse_linear.h, written once for every instruction set.

#include "cpu/simd.inl"
#include "cpu/sparse_linear_panel.inl"
#include "cpu/sparse_linear_vector.inl"
#include "cpu/weights.inl"

namespace sparsefl {
namespace {

// Lanes of a tile: 64 floats, so that a block of 128 columns is 32 KB, or what the registers hold.
template <class T>
constexpr int kTileVectors = Vec<T>::kLanes >= 16 ? 4 : 8;

// Rows farther apart than a page are copied first: every one would need a TLB entry of its own.
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kCopiedColumns = 2048;

inline int64_t columns_of_block(const View& view) {
  return view.block < view.columns ? view.block : view.columns;
}

inline int64_t whole_vectors(int64_t samples, int64_t lanes) {
  return (samples + lanes - 1) / lanes * lanes;
}

// Above this a block's rows of x would leave the L2 cache at the widest tile.
constexpr int64_t kWidestColumns = 1024;

// What rows that wait beside such a block may take at the widest tile.
constexpr int64_t kTileBytes = 1536 << 10;

// Whether a tile of four full vectors, with `rows` that wait between blocks, leaves the L2 cache.
template <class T>
bool is_large(const View& view, int64_t rows) {
  const int64_t bytes = (view.block + rows) * 4 * SPARSEFL_VECTOR_BYTES;
  return view.blocks() > 1 && view.block > kWidestColumns && bytes >= kTileBytes;
}

// Samples of the widest tile of a part.
template <class T>
int64_t tile_width(const View& view, const Part& part) {
  const int64_t most = kTileVectors<T> * Vec<T>::kLanes, rows = part.row_end - part.row_begin;
  const int64_t lanes = whole_vectors(part.lane_end - part.lane_begin, Vec<T>::kLanes);
  return least(lanes, is_large<T>(view, rows) ? most / 2 : most);
}

template <class T>
bool copies_blocks(const SpmmArgs<T>& a) {
  return a.view.blocks() > 1 ||
         (a.x.ld * int64_t{sizeof(T)} >= kPageBytes && a.view.columns <= kCopiedColumns);
}

// Rows whose sums wait: all between blocks, or as many as are turned together.
template <class T>
int64_t waiting_rows(const SpmmArgs<T>& a, const Part& part) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  if (a.view.blocks() > 1) return whole_vectors(part.row_end - part.row_begin, kLanes);
  return a.y.row_major ? kTurned<T> : 0;
}

template <class T>
int64_t spmm_scratch(const SpmmArgs<T>& a, const Part& part) {
  const bool in_place = !a.x.row_major && a.batch % Vec<T>::kLanes == 0 && !copies_blocks(a);
  const int64_t rows = waiting_rows(a, part) + (in_place ? 0 : columns_of_block(a.view));
  return rows * tile_width<T>(a.view, part);
}

// acc[v] += weight of k * x[column of index[k]][v] over k in [begin, end). Few vectors need several
// chains: an FMA takes four cycles and one can start every cycle.
template <class T, int kVectors, class R>
inline void accumulate(const R& weight, const uint16_t* index, int64_t begin, int64_t end,
                       const T* x, int64_t ldx, typename Vec<T>::Type* acc) {
  constexpr int kLanes = Vec<T>::kLanes;
  constexpr int kChains = kVectors >= 4 ? 1 : 4 / kVectors;
  int64_t k = begin;
  if constexpr (kChains > 1) {
    typename Vec<T>::Type more[kChains - 1][kVectors] = {};
    for (; k + kChains <= end; k += kChains) {
      for (int c = 0; c < kChains; ++c) {
        const auto w = broadcast<T>(weight(k + c, index[k + c]));
        const T* row = x + weight.column(index[k + c]) * ldx;
        for (int v = 0; v < kVectors; ++v) {
          (c == 0 ? acc[v] : more[c - 1][v]) += w * load(row + v * kLanes);
        }
      }
    }
    for (int c = 0; c < kChains - 1; ++c) {
      for (int v = 0; v < kVectors; ++v) acc[v] += more[c][v];
    }
  }
  for (; k < end; ++k) {
    const auto w = broadcast<T>(weight(k, index[k]));
    const T* row = x + weight.column(index[k]) * ldx;
    for (int v = 0; v < kVectors; ++v) acc[v] += w * load(row + v * kLanes);
  }
}

// Only the last vector of a tile can reach beyond the batch.
template <class T, int kVectors>
inline void store_row(T* y, const typename Vec<T>::Type* acc, int64_t lanes) {
  constexpr int kLast = kVectors - 1, kBefore = kLast * Vec<T>::kLanes;
  for (int v = 0; v < kLast; ++v) store(y + v * Vec<T>::kLanes, acc[v]);
  if (lanes >= kBefore + Vec<T>::kLanes) {
    store(y + kBefore, acc[kLast]);
  } else {
    store_some(y + kBefore, acc[kLast], lanes - kBefore);
  }
}

// Reads what store_row wrote.
template <class T, int kVectors>
inline void load_row(const T* y, typename Vec<T>::Type* acc, int64_t lanes) {
  constexpr int kLast = kVectors - 1, kBefore = kLast * Vec<T>::kLanes;
  for (int v = 0; v < kLast; ++v) acc[v] = load(y + v * Vec<T>::kLanes);
  const bool whole = lanes >= kBefore + Vec<T>::kLanes;
  acc[kLast] = whole ? load(y + kBefore) : load_some(y + kBefore, lanes - kBefore);
}

// The rows of one block that a call of multiply_rows meets.
template <class T>
struct Rows {
  const uint16_t* index;
  const int32_t* begin;  // of each row, and where the last one ends
  int64_t count;
  const T* x;  // of the block's first column
  int64_t ldx;
  const T* bias;    // or null
  const T* before;  // their sums of earlier blocks, one vector of lanes after the other, or null
  T* out;
  int64_t ld_out, lanes;
};

// A function of its own: in a larger one the loop's addresses do not stay in registers.
template <class T, int kVectors, class R>
[[gnu::noinline]] void multiply_rows(const R weight, const Rows<T>& given) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const Rows<T> rows = given;
  for (int64_t r = 0; r < rows.count; ++r) {
    typename Vec<T>::Type acc[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      acc[v] = broadcast<T>(rows.bias == nullptr ? T{0} : rows.bias[r]);
    }
    accumulate<T, kVectors>(weight, rows.index, rows.begin[r], rows.begin[r + 1], rows.x, rows.ldx,
                            acc);
    if (rows.before != nullptr) {
      for (int v = 0; v < kVectors; ++v) {
        acc[v] += load(rows.before + (r * kVectors + v) * kLanes);
      }
    }
    store_row<T, kVectors>(rows.out + r * rows.ld_out, acc, rows.lanes);
  }
}

// One tile of lanes: column blocks outside, so that a block's rows of x stay in the L1 cache while
// all rows of the part meet it; the rows' sums wait in a panel between blocks. A block is summed by
// itself, since a chain through all of them would round thousands of times.
template <class T, int kVectors, class R>
void spmm_tile(const SpmmArgs<T>& a, const R& weight, const Part& part, int64_t lane, int64_t lanes,
               T* scratch) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kWidth = kVectors * kLanes;
  const View view = a.view;
  const int64_t blocks = view.blocks(), rows = part.row_end - part.row_begin;
  T* const buffer = scratch + waiting_rows(a, part) * kWidth;
  const bool in_place =
      reads_in_place<T, kVectors>(a.x, lanes) && (!copies_blocks(a) || a.x.ld == kWidth);
  for (int64_t b = 0; b < blocks; ++b) {
    const bool first = b == 0, last = b + 1 == blocks;
    const T* x = a.x.data + b * view.block * a.x.ld + lane;
    int64_t ldx = a.x.ld;
    if (!in_place) {
      const int64_t left = view.columns - b * view.block;
      read_features<T, kVectors>(a.x, view.columns, a.batch, b * view.block,
                                 left < view.block ? left : view.block, lane, lanes, buffer);
      x = buffer;
      ldx = kWidth;
    }
    const bool turns = last && a.y.row_major;
    const int32_t* begin = view.begin + b * view.rows;
    const int64_t step = turns ? kTurned<T> : rows;
    for (int64_t done = 0; done < rows; done += step) {
      const int64_t row = part.row_begin + done, count = rows - done < step ? rows - done : step;
      T* const sums = scratch + (blocks > 1 ? done * kWidth : 0);
      const bool waits = turns || !last;
      multiply_rows<T, kVectors>(
          weight, Rows<T>{view.index, begin + row, count, x, ldx,
                          first && a.bias != nullptr ? a.bias + row : nullptr,
                          first ? nullptr : sums, waits ? sums : a.y.data + row * a.y.ld + lane,
                          waits ? kWidth : a.y.ld, waits ? kWidth : lanes});
      if (turns) write_features<T, kVectors>(sums, a.y, row, count, lane, lanes);
    }
  }
}

// Calls run with the tile's vector count as a constant.
template <int kMost, class Run>
inline void with_vectors(int vectors, Run run) {
  if constexpr (kMost == 1) {
    run(Lanes<1>{});
  } else {
    if (vectors == kMost) return run(Lanes<kMost>{});
    with_vectors<kMost - 1>(vectors, run);
  }
}

template <class T>
void spmm(const SpmmArgs<T>& a, const Part& part, T* scratch) {
  if (part.lane_begin >= part.lane_end) return;
  constexpr int kLanes = Vec<T>::kLanes;
  with_linear_reader<T>(a.weights, a.view.position, [&](const auto& weight) {
    if (a.x.is_vector()) return spmv(a, weight, part);
    const int64_t width = tile_width<T>(a.view, part);
    for (int64_t lane = part.lane_begin; lane < part.lane_end; lane += width) {
      const int64_t lanes = least(part.lane_end - lane, width);
      with_vectors<kTileVectors<T>>(static_cast<int>((lanes + kLanes - 1) / kLanes),
                                    [&]<int kVectors>(Lanes<kVectors>) {
                                      spmm_tile<T, kVectors>(a, weight, part, lane, lanes, scratch);
                                    });
    }
  });
}

}  // namespace
}  // namespace sparsefl

#include "cpu/sparse_linear_gradients.inl"

namespace sparsefl {

#define SPARSEFL_SPARSE_LINEAR_TABLE(T)                    \
  {spmm<T>,      spmm_scratch<T>,      spmv_transposed<T>, \
   gradients<T>, gradients_scratch<T>, feature_sums<T>}

}  // namespace sparsefl
