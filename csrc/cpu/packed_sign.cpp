// What packed_sign.h does in time proportional to the operands: packing, rounding, gathering. The
// files of the instruction sets share it, so that rounding gives the same bits in all.

#include "cpu/packed_sign.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/isa.h"

namespace sparsefl {
namespace {

constexpr int64_t kWindowLanes = 16;

bool bit(const uint8_t* bits, int64_t i) { return (bits[i / 8] >> i % 8 & 1) != 0; }

void set_bit(uint8_t* bits, int64_t i) { bits[i / 8] |= static_cast<uint8_t>(1 << i % 8); }

// Where the word of a row of the matrix and a group of 9 columns lies.
int64_t word_at(int64_t row, int64_t group, int64_t blocks, int64_t groups) {
  const int64_t run = group / kPackedRun * kPackedRun, in_block = row % kPackedRows;
  const int64_t width = groups - run < kPackedRun ? groups - run : kPackedRun;
  const int64_t word = run * blocks + row / kPackedRows * width + (group - run);
  return word * kPackedRows + in_block % 16 * 2 + in_block / 16;
}

constexpr int kPlace[3] = {1, 3, 9};  // of a digit in its pattern

// Calls run(row, column, negative) for the kept elements of rows [first, first + rows).
template <class Run>
int64_t for_each_sign(const SignBits& bits, int64_t first, int64_t rows, int64_t rank,
                      const Run& run) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < bits.columns; ++c) {
      const int64_t at = (first + r) * bits.columns + c;
      if (at % 8 == 0 && c + 8 <= bits.columns && bits.support[at / 8] == 0) {
        c += 7;
        continue;
      }
      if (bit(bits.support, at)) run(r, c, bit(bits.negative, rank++));
    }
  }
  return rank;
}

}  // namespace

int64_t pack_triples(const SignBits& bits, int64_t first, int64_t rows, int64_t rank,
                     uint16_t* words) {
  const int64_t groups = packed_words(bits.columns), blocks = packed_blocks(rows);
  for (int64_t i = 0; i < blocks * groups * kPackedRows; ++i) words[i] = 0;
  return for_each_sign(bits, first, rows, rank, [&](int64_t r, int64_t c, bool negative) {
    const int64_t in_word = c % kPackedColumns;
    const int digit = (negative ? 2 : 1) * kPlace[in_word % 3];
    uint16_t& word = words[word_at(r, c / kPackedColumns, blocks, groups)];
    word = static_cast<uint16_t>(word + (digit << in_word / 3 * 5));
  });
}

void pack_lists(const SignBits& bits, int32_t* begin, uint16_t* index) {
  int64_t rank = 0;
  int32_t filled = 0;
  for (int64_t r = 0; r < bits.rows; ++r) {
    int64_t next = rank;
    for (int wanted = 0; wanted < 2; ++wanted) {
      begin[2 * r + wanted] = filled;
      next = for_each_sign(bits, r, 1, rank, [&](int64_t, int64_t c, bool negative) {
        if (negative == (wanted == 1)) index[filled++] = static_cast<uint16_t>(c);
      });
    }
    rank = next;
  }
  begin[2 * bits.rows] = filled;
}

int64_t unpack_triples(const uint16_t* words, int64_t first, int64_t rows, int64_t columns,
                       int64_t rank, uint8_t* support, uint8_t* negative) {
  const int64_t groups = packed_words(columns), blocks = packed_blocks(rows);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t in_word = c % kPackedColumns;
      const int pattern =
          words[word_at(r, c / kPackedColumns, blocks, groups)] >> in_word / 3 * 5 & 31;
      const int digit = pattern / kPlace[in_word % 3] % 3;
      if (digit == 0) continue;
      set_bit(support, (first + r) * columns + c);
      if (digit == 2) set_bit(negative, rank);
      ++rank;
    }
  }
  return rank;
}

void unpack_lists(const Lists& lists, int64_t rows, int64_t columns, uint8_t* support,
                  uint8_t* negative) {
  int64_t rank = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t *plus = lists.begin + 2 * r, *minus = plus + 1;
    int32_t p = *plus, m = *minus;
    while (p < plus[1] || m < minus[1]) {
      const bool take_minus = p == plus[1] || (m < minus[1] && lists.index[m] < lists.index[p]);
      set_bit(support, r * columns + lists.index[take_minus ? m : p]);
      if (take_minus) set_bit(negative, rank);
      (take_minus ? m : p)++;
      ++rank;
    }
  }
}

float quantise(const float* x, int64_t n, float* to) {
  constexpr int kLevels = 127;
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    const float size = std::fabs(x[i]);
    finite &= size <= std::numeric_limits<float>::max();
    largest = size > largest ? size : largest;
  }
  if (!finite || largest == 0) {
    for (int64_t i = 0; i < n; ++i) to[i] = 0;
    return finite ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  // Adding this rounds to an integer, ties to even; double, as 127 / largest may overflow a float.
  constexpr double kRounder = 6755399441055744.0;
  const double inverse = kLevels / static_cast<double>(largest);
  for (int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<float>(static_cast<double>(x[i]) * inverse + kRounder - kRounder);
  }
  return largest / kLevels;
}

void gather_window(const Window& w, const float* x, int64_t first, int64_t pixels, float* to) {
  for (int64_t i = 0; i < w.channels * w.kernel_y * w.kernel_x * kWindowLanes; ++i) to[i] = 0;
  const int64_t taps = w.kernel_y * w.kernel_x;
  // A stretch of pixels in one row of the output at a time.
  for (int64_t p = 0; p < pixels;) {
    const int64_t row = (first + p) / w.out_width, column = (first + p) % w.out_width;
    const int64_t left = w.out_width - column;
    const int64_t width = pixels - p < left ? pixels - p : left;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t y = row * w.stride_y - w.before_y + tap / w.kernel_x * w.dilation_y;
      if (y < 0 || y >= w.height) continue;
      // Pixel i of the stretch meets column start + i * stride_x; those within the image do.
      const int64_t start = column * w.stride_x - w.before_x + tap % w.kernel_x * w.dilation_x;
      const int64_t begin = start < 0 ? (-start + w.stride_x - 1) / w.stride_x : 0;
      const int64_t after = start < w.width ? (w.width - start - 1) / w.stride_x + 1 : 0;
      const int64_t end = after < width ? after : width;
      const float* from = x + y * w.width + start;
      float* target = to + tap * kWindowLanes + p;
      for (int64_t c = 0; c < w.channels; ++c) {
        if (w.stride_x == 1) {
          for (int64_t i = begin; i < end; ++i) target[i] = from[i];
        } else {
          for (int64_t i = begin; i < end; ++i) target[i] = from[i * w.stride_x];
        }
        from += w.height * w.width;
        target += taps * kWindowLanes;
      }
    }
    p += width;
  }
}

extern const PackedSignKernels kPackedSignScalar;
#if defined(__x86_64__)
extern const PackedSignKernels kPackedSignAvx2, kPackedSignAvx512;

const PackedSignKernels& packed_sign_kernels() {
  return pick(kPackedSignScalar, kPackedSignAvx2, kPackedSignAvx512);
}
#else
const PackedSignKernels& packed_sign_kernels() { return kPackedSignScalar; }
#endif

}  // namespace sparsefl
