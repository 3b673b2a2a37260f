// Products with a matrix whose elements are -1, 0 and +1, packed into at most two bits each.
//
// Two layouts of a [rows, columns] matrix:
//
// Triples: the elements of 3 neighbouring columns are one of 27 patterns, and a table of 27 sums of
// 3 inputs tells what each adds: a vector permutation looks up as many rows as it has lanes. A word
// of 16 bits holds the patterns of a row in 9 columns, 5 bits each, the first lowest; a pattern is
// a number of base 3, the first column lowest, with the digits 0: 0, 1: +1, 2: -1. Words lie as
// they are read, [runs, ceil(rows / 32), 28, 32]: a run is 28 words wide, the last as many as there
// are; lane 2 i of a block's 32 is its row i, lane 2 i + 1 its row 16 + i, so that the halves of a
// vector of 32-bit lanes are rows in order. Absent rows and columns are zeros. The time does not
// depend on the density.
//
// Lists: the columns of every row's +1, then of its -1, in increasing order. The time is
// proportional to the density.
#pragma once

#include <cstdint>

namespace sparsefl {

constexpr int64_t kPackedRows = 32;    // of a block of words
constexpr int64_t kPackedColumns = 9;  // of a word
// Words that are summed before the sums leave their registers: 84 triples of inputs within
// [-127, 127] stay within 16 bits, and their tables within an L1 cache.
constexpr int64_t kPackedRun = 28;

// Always inlined: the files of all instruction sets would share a copy of its own.
[[gnu::always_inline]] inline int64_t packed_blocks(int64_t rows) {
  return (rows + kPackedRows - 1) / kPackedRows;
}
[[gnu::always_inline]] inline int64_t packed_words(int64_t columns) {
  return (columns + kPackedColumns - 1) / kPackedColumns;
}

// A matrix in triples, and what it is multiplied with.
struct TripleArgs {
  const uint16_t* words;
  int64_t rows;
  int64_t columns;
  const float* x;  // [samples, columns], a sample ldx elements after the other
  int64_t ldx;
  int64_t samples;
};

// A matrix in lists.
struct Lists {
  const int32_t* begin;   // [2 * rows + 1] first +1 and first -1 of every row
  const uint16_t* index;  // [nnz] columns
};

struct PackedSignKernels {
  // sums[s * ld + r] = sum_k w[r, k] * x[s * ldx + k] for the rows r of the blocks [begin, end),
  // those of block `begin` first, [samples, (end - begin) * 32].
  void (*triples)(const TripleArgs& args, int64_t begin, int64_t end, float* sums, int64_t ld);
  // The same for integers x within [-127, 127], exactly.
  void (*triples_int8)(const TripleArgs& args, int64_t begin, int64_t end, int32_t* sums,
                       int64_t ld);
  // sums[r - begin] = sum_k w[r, k] * x[k] for rows [begin, end).
  void (*lists)(const Lists& lists, const float* x, int64_t begin, int64_t end, float* sums);
  // sums[(r - begin) * ld + n] = sum_k w[r, k] * x[k * ldx + n] for rows [begin, end), n < lanes; x
  // can be read up to the next multiple of 16 lanes.
  void (*lists_batch)(const Lists& lists, const float* x, int64_t ldx, int64_t lanes, int64_t begin,
                      int64_t end, float* sums, int64_t ld);
};

const PackedSignKernels& packed_sign_kernels();

// A matrix as bitmaps: one bit an element, row-major, least significant bit first, set where it is
// not zero; and one bit for each of those, set where it is -1.
struct SignBits {
  const uint8_t* support;
  const uint8_t* negative;
  int64_t rows, columns;
};

// Writes all words, [packed_blocks(rows) * packed_words(columns) * 32], of rows [first, first +
// rows) of the bitmaps; the negative bits of the first of them start at bit `rank`. Returns the
// rank of the row after the last.
int64_t pack_triples(const SignBits& bits, int64_t first, int64_t rows, int64_t rank,
                     uint16_t* words);

// Writes begin [2 * rows + 1] and index [nnz].
void pack_lists(const SignBits& bits, int32_t* begin, uint16_t* index);

// The inverses: set bits of bitmaps that are zero. support is written from bit `first * columns`
// on, negative from bit `rank` on; returns the rank after the last.
int64_t unpack_triples(const uint16_t* words, int64_t first, int64_t rows, int64_t columns,
                       int64_t rank, uint8_t* support, uint8_t* negative);
void unpack_lists(const Lists& lists, int64_t rows, int64_t columns, uint8_t* support,
                  uint8_t* negative);

// Rounds x to integers within [-127, 127] of the returned scale, the largest |x| / 127: to[i] =
// round(x[i] / scale), ties to even. The scale is NaN where an element is not finite.
float quantise(const float* x, int64_t n, float* to);

// What turns sums into outputs: y = sum * scale + bias, bias being null for none.
template <class T>
void finish(const T* sums, int64_t rows, float scale, const float* bias, float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    const float product = static_cast<float>(sums[r]) * scale;
    y[r] = bias == nullptr ? product : product + bias[r];
  }
}

// A convolution's sizes; x is [channels, height, width] of one sample and group.
struct Window {
  int64_t channels, height, width, kernel_y, kernel_x, out_width;
  int64_t stride_y, stride_x, before_y, before_x, dilation_y, dilation_x;
};

// to[k * 16 + p] = what weight column k meets at output pixel first + p, for p < pixels <= 16; zero
// beyond the image and for other p.
void gather_window(const Window& window, const float* x, int64_t first, int64_t pixels, float* to);

}  // namespace sparsefl
