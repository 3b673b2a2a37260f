// The kernel of batch_last.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

template <class T>
void transpose_block(const T* from, int64_t ld_from, T* to, int64_t ld_to, int rows, int columns) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type v[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    v[r] = r >= rows           ? typename Vec<T>::Type{}
           : columns == kLanes ? load(from + r * ld_from)
                               : load_some(from + r * ld_from, columns);
  }
  transpose_square<T>(v);
  for (int c = 0; c < columns; ++c) {
    if (rows == kLanes) {
      store(to + c * ld_to, v[c]);
    } else {
      store_some(to + c * ld_to, v[c], rows);
    }
  }
}

template <class T>
void transpose(const T* from, int64_t ld_from, T* to, int64_t ld_to, int64_t rows, int64_t begin,
               int64_t end) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t c = begin; c < end; c += kLanes) {
    const int columns = static_cast<int>(end - c < kLanes ? end - c : kLanes);
    for (int64_t r = 0; r < rows; r += kLanes) {
      const int block_rows = static_cast<int>(rows - r < kLanes ? rows - r : kLanes);
      transpose_block(from + r * ld_from + c, ld_from, to + c * ld_to + r, ld_to, block_rows,
                      columns);
    }
  }
}

}  // namespace

#define SPARSEFL_BATCH_LAST_TABLE(T) {transpose<T>}

}  // namespace sparsefl
