// Sparse 2-d convolution without im2col, with the batch in the lanes.
//
// Images are batch-last, or groups of kLanePadding samples are, one after the other (Samples). One
// pass gathers, for every point of a grid of output pixels, the kept taps of a window of the input.
// The forward is one pass. The input gradient has stride^2 passes (phases): the output pixels with
// one residue meet only the taps of that residue, and meet them at stride 1.
#pragma once

#include <cstdint>

#include "cpu/view.h"

namespace sparsefl {

// One axis of a pass: grid point j lies at output coordinate origin + j * out_step and its tap t at
// input coordinate j * in_step + tap[t], if that tap belongs to the pass at all.
struct Axis {
  static constexpr int32_t kNoTap = INT32_MIN;
  int64_t input, output;  // extents in pixels
  int64_t grid, origin, out_step, in_step;
  const int32_t* tap;  // [kernel]
  int64_t kernel;
};

// Where a pixel's samples lie: pixel p of channel c has sample n at
// (c * pixels + p) * pixel + n / kLanePadding * group + n % kLanePadding.
struct Samples {
  int64_t pixel, group;

  // Always inlined: the files of all instruction sets would share a copy of its own.
  [[gnu::always_inline]] int64_t offset(int64_t sample) const {
    return sample / kLanePadding * group + sample % kLanePadding;
  }
};

struct Pass {
  Axis y, x;
  int64_t groups;
  int64_t phase;                // which phase of the view this pass walks
  int64_t row_part, row_parts;  // which of so many parts of every group's rows it computes
  int64_t batch;
  Samples in, out;
};

// The view's rows are all groups' output channels; its columns one group's input channels times
// kernel taps, its block a whole number of channels.
template <class T>
struct GatherArgs {
  View view;
  Pass pass;
  const T* weights;  // [nnz], in the view's order
  const T* bias;     // [rows], or null
  const T* x;
  T* y;  // must not alias x; only the grid's pixels and the batch's samples are written
};

template <class T>
struct SampleArgs {
  View view;  // the forward one: position is null
  Pass pass;
  const T* grad;  // of the output
  const T* x;
  T* grad_weights;  // [nnz], added to
};

// One way of walking a pass.
template <class T>
struct Conv2dWalk {
  // Work items of a pass.
  int64_t (*items)(const Pass&);
  // y[n, o, p] = bias[o] + sum over kept (c, t) of weight[o, c, t] * x[n, c, p * in_step + tap[t]],
  // for the items [begin, end); pixels outside the input count as zero.
  void (*gather)(const GatherArgs<T>&, int64_t begin, int64_t end, T* scratch);
  // grad_weights[k] += sum over n, p of grad[n, o, p] * x[n, c, p * in_step + tap[t]].
  void (*sample)(const SampleArgs<T>&, int64_t begin, int64_t end, T* scratch);
  // Elements of either one's scratch, 64-byte aligned.
  int64_t (*scratch)(const View&, const Pass&);
};

template <class T>
struct SparseConv2dKernels {
  // to[k] = the weight of the view's kept position k, for k in [begin, end).
  void (*read_weights)(const Weights<T>&, const int32_t* position, int64_t begin, int64_t end,
                       T* to);
  // Tiles of the grid times vectors of samples, whose windows of the input are copied.
  Conv2dWalk<T> tiles;
  // Strips of the output's rows, which read the input where it lies: for passes of step 1 from
  // batch-last images to batch-last images, a block of whose input has fewer than 2^31 elements.
  Conv2dWalk<T> strips;
};

template <class T>
const SparseConv2dKernels<T>& sparse_conv2d_kernels();

}  // namespace sparsefl
