// The kernels of sparse_linear.h, written once for every instruction set.

#include "cpu/simd.inl"
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

template <class T>
bool copies_blocks(const SpmmArgs<T>& a) {
  return a.view.blocks() > 1 ||
         (a.ldx * int64_t{sizeof(T)} >= kPageBytes && a.view.columns <= kCopiedColumns);
}

template <class T>
int64_t spmm_scratch(const SpmmArgs<T>& a, const Part& part) {
  const int64_t lanes = kTileVectors<T> * Vec<T>::kLanes;
  const int64_t panel = a.view.blocks() > 1 ? (part.row_end - part.row_begin) * lanes : 0;
  const int64_t columns = a.view.block < a.view.columns ? a.view.block : a.view.columns;
  return panel + (copies_blocks(a) ? columns * lanes : 0);
}

template <class T, int kVectors>
inline void copy_block(const T* x, int64_t ldx, int64_t columns, T* buffer) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t c = 0; c < columns; ++c) {
    for (int v = 0; v < kVectors; ++v) {
      store(buffer + (c * kVectors + v) * kLanes, load(x + c * ldx + v * kLanes));
    }
  }
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

// One tile of lanes: column blocks outside, so that a block's rows of x stay in the L1 cache while
// all rows of the part meet it; the rows' sums wait in a panel between blocks. A block is summed by
// itself, since a chain through all of them would round thousands of times.
template <class T, int kVectors, class R>
void spmm_tile(const SpmmArgs<T>& a, const R& weight, const Part& part, int64_t lane, int64_t lanes,
               T* scratch) {
  constexpr int kLanes = Vec<T>::kLanes;
  const View& view = a.view;
  const int64_t blocks = view.blocks();
  const int64_t rows = part.row_end - part.row_begin;
  T* panel = scratch;
  T* buffer = scratch + (blocks > 1 ? rows * kVectors * kLanes : 0);
  const bool copies = copies_blocks(a) && a.ldx != kVectors * kLanes;
  for (int64_t b = 0; b < blocks; ++b) {
    const T* x = a.x + b * view.block * a.ldx + lane;
    int64_t ldx = a.ldx;
    if (copies) {
      const int64_t left = view.columns - b * view.block;
      copy_block<T, kVectors>(x, ldx, left < view.block ? left : view.block, buffer);
      x = buffer;
      ldx = kVectors * kLanes;
    }
    const int32_t* begin = view.begin + b * view.rows;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = part.row_begin + r;
      typename Vec<T>::Type acc[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        acc[v] = broadcast<T>(a.bias == nullptr || b > 0 ? T{0} : a.bias[row]);
      }
      accumulate<T, kVectors>(weight, view.index, begin[row], begin[row + 1], x, ldx, acc);
      if (b > 0) {
        for (int v = 0; v < kVectors; ++v) acc[v] += load(panel + (r * kVectors + v) * kLanes);
      }
      if (b + 1 == blocks) {
        store_row<T, kVectors>(a.y + row * a.ldy + lane, acc, lanes);
      } else {
        for (int v = 0; v < kVectors; ++v) store(panel + (r * kVectors + v) * kLanes, acc[v]);
      }
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
  constexpr int64_t kTile = kTileVectors<T> * kLanes;
  with_linear_reader<T>(a.weights, a.view.position, [&](const auto& weight) {
    if (a.ldx == 1) return spmv(a, weight, part);
    for (int64_t lane = part.lane_begin; lane < part.lane_end; lane += kTile) {
      const int64_t lanes = part.lane_end - lane < kTile ? part.lane_end - lane : kTile;
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

#define SPARSEFL_SPARSE_LINEAR_TABLE(T) \
  {spmm<T>, spmm_scratch<T>, spmv_transposed<T>, gradients<T>, gradients_scratch<T>, row_sums<T>}

}  // namespace sparsefl
