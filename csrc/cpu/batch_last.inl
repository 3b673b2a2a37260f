// The kernels of batch_last.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

template <class T>
void transpose_edge(const T* from, int64_t ld_from, T* to, int64_t ld_to, int rows, int columns) {
  for (int c = 0; c < columns; ++c) {
    for (int r = 0; r < rows; ++r) to[c * ld_to + r] = from[r * ld_from + c];
  }
}

template <class T>
inline void transpose_block(const T* from, int64_t ld_from, T* to, int64_t ld_to) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type v[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) v[r] = load(from + r * ld_from);
  transpose_square<T>(v);
#pragma GCC unroll 16
  for (int c = 0; c < kLanes; ++c) store(to + c * ld_to, v[c]);
}

// Four lines of every source row at a time: with a line only, the rows of a large tensor are more
// streams than the prefetcher follows.
template <class T>
void transpose(const T* from, int64_t ld_from, T* to, int64_t ld_to, int64_t rows, int64_t begin,
               int64_t end) {
  constexpr int kLanes = Vec<T>::kLanes;
  constexpr int64_t kChunk = 256 / sizeof(T);
  for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
    const int64_t chunk_end = end - chunk < kChunk ? end : chunk + kChunk;
    for (int64_t r = 0; r < rows; r += kLanes) {
      const int block_rows = static_cast<int>(rows - r < kLanes ? rows - r : kLanes);
      for (int64_t c = chunk; c < chunk_end; c += kLanes) {
        const int columns = static_cast<int>(chunk_end - c < kLanes ? chunk_end - c : kLanes);
        const T* source = from + r * ld_from + c;
        T* target = to + c * ld_to + r;
        if (columns == kLanes && block_rows == kLanes) {
          transpose_block(source, ld_from, target, ld_to);
        } else {
          transpose_edge(source, ld_from, target, ld_to, block_rows, columns);
        }
      }
    }
  }
}

template <class T>
double sum(const T* x, int64_t n) {
  constexpr int kLanes = Vec<T>::kLanes, kVectors = 4;
  constexpr int64_t kStretch = 128 * kVectors * kLanes;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const int64_t end = n - begin < kStretch ? n : begin + kStretch;
    typename Vec<T>::Type sums[kVectors] = {};
    int64_t i = begin;
    for (; i + kVectors * kLanes <= end; i += kVectors * kLanes) {
      for (int v = 0; v < kVectors; ++v) sums[v] += load(x + i + v * kLanes);
    }
    for (; i + kLanes <= end; i += kLanes) sums[0] += load(x + i);
    if (i < end) sums[1] += load_some(x + i, end - i);
    const auto all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int lane = 0; lane < kLanes; ++lane) total += all[lane];
  }
  return total;
}

}  // namespace

#define SPARSEFL_BATCH_LAST_TABLE(T) {transpose<T>, sum<T>}

}  // namespace sparsefl
