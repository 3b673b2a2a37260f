// Builds the views of a support, by a counting sort that is linear in the kept positions, and the
// axes of the passes of a convolution.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/sparse_conv2d.h"

namespace sparsefl {

// The kept positions of a [rows, columns] matrix (row-major, ascending) as the forward walks them.
// Sizes: begin [blocks * rows + 1], index and order [nnz], work [rows + 1]. order[k] is the
// row-major rank of the k-th position of the view.
void build_forward_view(const int64_t* indices, int64_t nnz, int64_t rows, int64_t columns,
                        int64_t block, int32_t* begin, int16_t* index, int64_t* order,
                        int64_t* work);

// A weight [out, in, taps] of `groups` groups (in: channels of one group), seen transposed.
struct Transposed {
  int64_t out, in, groups, block;
  std::vector<int64_t> tap_phase;  // [taps] phase that a tap belongs to, in [0, phases)
  int64_t phases;

  int64_t taps() const { return static_cast<int64_t>(tap_phase.size()); }
  int64_t rows() const { return in * groups; }
  int64_t columns() const { return out / groups * taps(); }
};

// The same positions as the input gradient walks them: rows are input channels, columns a group's
// output channels times taps. Sizes: begin [phases * blocks * rows + 1], index and position [nnz],
// work [rows + 1]. order: of the forward view.
void build_transposed_view(const int64_t* indices, const int64_t* order, int64_t nnz,
                           const Transposed& shape, int32_t* begin, int16_t* index,
                           int32_t* position, int64_t* work);

// One axis of a convolution; `before` is the padding at its low end.
struct Extent {
  int64_t input, output, kernel, stride, before, dilation;
};

// The axis of the forward pass. The result points into `taps`, which the function fills.
Axis forward_axis(const Extent& e, std::vector<int32_t>& taps);

// The axis of the input gradient at all input coordinates: grid point j of phase[t] modulo the
// stride meets tap t. The grid has a point beyond the input where a phase is shorter than the
// first.
Axis joint_axis(const Extent& e, std::vector<int32_t>& taps, std::vector<int32_t>& phase);

// The axis of the input gradient at the input coordinates of one residue modulo the stride.
Axis transposed_axis(const Extent& e, int64_t residue, std::vector<int32_t>& taps);

}  // namespace sparsefl
