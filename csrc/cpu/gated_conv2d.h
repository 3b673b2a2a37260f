// 2-d convolution that skips channels sample by sample: what is skipped of the input, of the output
// and of the input's gradient is listed for every sample.
//
// Images are row-major, [N, C, H, W]. The lanes are pixels of one sample where channels are
// gathered, and pixels or output channels of one sample where the weight's gradient is summed.
#pragma once

#include <cstdint>

#include "cpu/sparse_conv2d.h"

namespace sparsefl {

// The channels of every sample that are not skipped, ascending.
struct ChannelLists {
  const int32_t* index;  // [samples, channels], the first count[n] of row n are valid
  const int32_t* count;  // [samples]
  int64_t channels;
};

// out[n, r, p * out_step + phase] = start + sum over listed channels c and the taps t of that phase
// of weight[r * row_step + c * channel_step + t] * x[n, c, p * in_step + tap[t]] for the listed
// rows r, the pixels p of the grid and all phases, where that is a pixel of the output; pixels
// outside the input count as zero. The rows that are not listed are set to zero.
template <class T>
struct GatedGatherArgs {
  Axis y, x;                         // every tap belongs to the pass; origin 0
  const int32_t *phase_y, *phase_x;  // [kernel], below out_step; not read where that is 1
  ChannelLists channels, rows;
  const T* weight;
  int64_t row_step, channel_step;
  const T* start;  // null, or start[n * start_step + r]
  int64_t start_step;
  int64_t samples;
  const T* in;
  T* out;  // must not alias in
};

// Sums over the samples of products of an output's gradient with the input.
template <class T>
struct GatedOuterArgs {
  Axis y, x;                // of the forward pass
  ChannelLists rows;        // the output channels
  const uint8_t* channels;  // [samples, in_channels], not 0 where a channel is not skipped
  int64_t in_channels, samples;
  const T* in;
  const T* grad;    // read by plane_outer alone
  const T* turned;  // what `turn` wrote for the samples; read by the others
  T* grad_weight;   // [rows, in_channels, taps]
};

constexpr int64_t kMostSmallSide = 4;

// Whether the small images' kernels take a pass: square, at most kMostSmallSide pixels wide, a 3 x
// 3 kernel with stride 1 and padding 1.
[[gnu::always_inline]] inline bool is_small(const Axis& y, const Axis& x) {
  const auto fits = [](const Axis& a) {
    return a.input == a.output && a.grid == a.output && a.grid >= 1 && a.grid <= kMostSmallSide &&
           a.in_step == 1 && a.out_step == 1 && a.kernel == 3 && a.tap[1] == 0 &&
           (a.tap[0] == 1 || a.tap[0] == -1) && a.tap[2] == -a.tap[0];
  };
  return fits(y) && fits(x) && y.grid == x.grid && y.tap[0] == x.tap[0];
}

template <class T>
struct GatedConv2dKernels {
  // Scratch is 64-byte aligned; its elements are what the functions with `scratch` in their names
  // return.
  void (*gather)(const GatedGatherArgs<T>&, int64_t first_sample, int64_t last_sample, T* scratch);
  int64_t (*gather_scratch)(const GatedGatherArgs<T>&);
  // Turns the listed channels of grad [samples, channels, pixels] into lanes, a few vectors of them
  // after the other; turned has turned_channels for every pixel and sample.
  void (*turn)(const ChannelLists&, const T* grad, int64_t pixels, int64_t first_sample,
               int64_t last_sample, T* turned);
  int64_t (*turned_channels)(int64_t channels);
  // Writes grad_weight[:, c, :] for the channels [first, last).
  void (*outer)(const GatedOuterArgs<T>&, int64_t first, int64_t last, T* scratch);
  int64_t (*outer_scratch)(const GatedOuterArgs<T>&);
  // The same with pixels in the lanes, where they fit.
  bool (*fits_planes)(const GatedOuterArgs<T>&);
  void (*plane_outer)(const GatedOuterArgs<T>&, int64_t first, int64_t last, T* scratch);
  int64_t (*plane_outer_scratch)(const GatedOuterArgs<T>&);
  // The same for small images. Blocks of output channels are gathered, for all samples. Lanes of
  // turned gradients are all channels, group after group, and the skipped ones are zero.
  void (*small_gather)(const GatedGatherArgs<T>&, int64_t first_block, int64_t last_block,
                       T* scratch);
  int64_t (*small_blocks)(const GatedGatherArgs<T>&);
  int64_t (*small_gather_scratch)(const GatedGatherArgs<T>&);
  void (*small_turn)(const ChannelLists&, const T* grad, int64_t pixels, int64_t samples,
                     int64_t first_sample, int64_t last_sample, T* turned);
  int64_t (*small_turned_channels)(int64_t channels);
  void (*small_outer)(const GatedOuterArgs<T>&, int64_t first, int64_t last, T* scratch);
  int64_t (*small_outer_scratch)(const GatedOuterArgs<T>&);
};

template <class T>
const GatedConv2dKernels<T>& gated_conv2d_kernels();

}  // namespace sparsefl
