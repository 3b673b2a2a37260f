// A support as a kernel walks it, and the weights on it.
#pragma once

#include <cstdint>

namespace sparsefl {

// The most lanes of a vector. Linear kernels read batches padded to a multiple of it; operands that
// are turned for convolutions lie in groups of so many samples.
constexpr int64_t kLanePadding = 16;

// The kept positions of a [rows, columns] matrix, sorted by column block, row and column. A block
// is sized so that the operand's part that it meets stays in the L1 cache. A convolution's matrix
// is [out channels, in channels * kernel height * kernel width]; the input gradient's view is that
// of the transposed weight, with one view (a phase) for each residue of the stride.
struct View {
  int64_t rows;
  int64_t columns;
  int64_t block;          // columns of a block, at most 65536; the last block may be narrower
  const int32_t* begin;   // [phases * blocks * rows + 1] first kept position of (phase, block, row)
  const uint16_t* index;  // [nnz] column within its block
  const int32_t* position;  // [nnz] where the weight lies in `values`; null: in this order
  const int64_t* work;      // [rows + 1] running cost of the rows, to share them out evenly

  // Always inlined: the files of all instruction sets would share a copy of its own.
  [[gnu::always_inline]] int64_t blocks() const {
    return columns == 0 ? 1 : (columns + block - 1) / block;
  }
};

enum class WeightKind { kValues, kSignConstant, kSignTensor, kSignCoded };

// Where a view's index holds the sign of a weight too: its highest bit, set where that is negative.
constexpr uint16_t kNegative = 0x8000, kCodedColumn = 0x7fff;

// The weight of a kept position: values[p]; or magnitude * sgn(values[p]) with sgn(0) = +1, the
// magnitude being one constant or magnitudes[p]; or the constant with the sign that the index
// holds, which only the linear kernels read.
template <class T>
struct Weights {
  WeightKind kind;
  const T* values;
  const T* magnitudes;
  T constant;

  // Whether all weights have one magnitude.
  [[gnu::always_inline]] bool one_magnitude() const {
    return kind == WeightKind::kSignConstant || kind == WeightKind::kSignCoded;
  }
};

}  // namespace sparsefl
