// The operators of the gated convolution for torch's CPU backend. Images are row-major [N, C, H,
// W]; which (sample, channel) pairs are kept come as bool tensors [N, C].

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/gated_conv2d.h"
#include "cpu/plan.h"

namespace sparsefl {
namespace {

const uint8_t* flags(const Tensor& x) {
  STD_TORCH_CHECK(x.is_contiguous() && x.element_size() == 1, "bad flags");
  return static_cast<const uint8_t*>(x.const_data_ptr());
}

// The kept channels of every sample.
class OwningLists {
 public:
  explicit OwningLists(const Tensor& kept)
      : samples_(kept.size(0)),
        channels_(kept.size(1)),
        index_(samples_ * channels_ + 1),
        count_(samples_) {
    const uint8_t* flag = flags(kept);
    for (int64_t n = 0; n < samples_; ++n) {
      int32_t count = 0;
      int32_t* index = index_.data() + n * channels_;
      // Without a branch, of which a third would be mispredicted.
      for (int64_t c = 0; c < channels_; ++c) {
        index[count] = static_cast<int32_t>(c);
        count += flag[n * channels_ + c] != 0;
      }
      count_[n] = count;
    }
  }

  ChannelLists lists() const { return {index_.data(), count_.data(), channels_}; }
  // Over all samples.
  int64_t kept() const { return std::accumulate(count_.begin(), count_.end(), int64_t{0}); }

  // Pairs of kept channels of both, over the samples.
  int64_t pairs(const OwningLists& other) const {
    int64_t sum = 0;
    for (int64_t n = 0; n < samples_; ++n) sum += int64_t{count_[n]} * other.count_[n];
    return sum;
  }

 private:
  int64_t samples_, channels_;
  std::vector<int32_t> index_, count_;
};

// What an operator's `geometry` holds, in this order: the axes y and x of input, output, kernel,
// stride, zeros before, dilation.
struct GatedGeometry {
  Extent y, x;

  explicit GatedGeometry(const std::vector<int64_t>& g)
      : y{g.at(0), g.at(1), g.at(2), g.at(3), g.at(4), g.at(5)},
        x{g.at(6), g.at(7), g.at(8), g.at(9), g.at(10), g.at(11)} {}

  int64_t taps() const { return y.kernel * x.kernel; }
  int64_t out_pixels() const { return y.output * x.output; }
};

// Whether the small images' kernels, which multiply pixels inside the image alone but skip no rows,
// have less to do than those whose lanes are pixels.
template <class T>
bool is_small_work(const GatedGatherArgs<T>& args, const OwningLists& rows,
                   const OwningLists& channels) {
  if (!is_small(args.y, args.x)) return false;
  // Smaller ones would fill a part of a vector alone.
  if (args.y.grid < 4) return true;
  const int64_t inside = 100, all = 144;
  const int64_t multiplied = channels.kept() * args.rows.channels;
  return inside * multiplied < all * rows.pairs(channels);
}

template <class T>
void run_gather(const GatedGatherArgs<T>& args, const OwningLists& rows,
                const OwningLists& channels, int64_t flops_a_pair) {
  const int64_t samples = args.samples, flops = rows.pairs(channels) * flops_a_pair;
  const auto& kernels = gated_conv2d_kernels<T>();
  if (is_small_work(args, rows, channels)) {
    const int64_t blocks = kernels.small_blocks(args);
    const int64_t parts = std::min(blocks, thread_parts(flops));
    for_parts(parts, [&](int64_t p) {
      const Workspace scratch(kernels.small_gather_scratch(args) * int64_t{sizeof(T)});
      kernels.small_gather(args, blocks * p / parts, blocks * (p + 1) / parts, scratch.as<T>());
    });
    return;
  }
  const int64_t parts = std::min(samples, thread_parts(flops));
  for_parts(parts, [&](int64_t p) {
    const Workspace scratch(kernels.gather_scratch(args) * int64_t{sizeof(T)});
    kernels.gather(args, samples * p / parts, samples * (p + 1) / parts, scratch.as<T>());
  });
}

Tensor gated_conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                    const Tensor& in_kept, const Tensor& out_kept, std::vector<int64_t> geometry) {
  const GatedGeometry g(geometry);
  const int64_t batch = x.size(0), in = x.size(1), out = weight.size(0);
  Tensor y = empty_of(x, {batch, out, g.y.output, g.x.output});
  if (y.numel() == 0) return y;
  const OwningLists channels(in_kept), rows(out_kept);
  std::vector<int32_t> taps_y, taps_x;
  const Axis axis_y = forward_axis(g.y, taps_y), axis_x = forward_axis(g.x, taps_x);
  with_type(x, [&]<class T>(T*) {
    const GatedGatherArgs<T> args{axis_y,
                                  axis_x,
                                  nullptr,
                                  nullptr,
                                  channels.lists(),
                                  rows.lists(),
                                  data<T>(weight),
                                  in * g.taps(),
                                  g.taps(),
                                  data<T>(bias),
                                  0,
                                  batch,
                                  data<T>(x),
                                  mutable_data<T>(y)};
    run_gather(args, rows, channels, 2 * g.taps() * g.out_pixels());
  });
  return y;
}

template <class T>
void input_gradient(const GatedGeometry& g, const Tensor& grad, const Tensor& weight,
                    const OwningLists& rows, const OwningLists& wanted,
                    const std::optional<Tensor>& start, const Tensor& result) {
  const int64_t in = weight.size(1);
  std::vector<int32_t> taps_y, taps_x, phase_y, phase_x;
  const Axis y = joint_axis(g.y, taps_y, phase_y), x = joint_axis(g.x, taps_x, phase_x);
  const GatedGatherArgs<T> args{y,
                                x,
                                phase_y.data(),
                                phase_x.data(),
                                rows.lists(),
                                wanted.lists(),
                                data<T>(weight),
                                g.taps(),
                                in * g.taps(),
                                data<T>(start),
                                in,
                                grad.size(0),
                                data<T>(grad),
                                mutable_data<T>(result)};
  run_gather(args, wanted, rows, 2 * g.taps() * g.out_pixels());
}

template <class T>
void weight_gradient(const GatedGeometry& g, const Tensor& grad, const Tensor& x,
                     const Tensor& in_kept, const OwningLists& rows, const Tensor& result) {
  const auto& kernels = gated_conv2d_kernels<T>();
  const int64_t batch = grad.size(0), in = x.size(1), out = grad.size(1);
  std::vector<int32_t> taps_y, taps_x;
  const int64_t flops = 2 * rows.pairs(OwningLists(in_kept)) * g.taps() * g.out_pixels();
  const Axis y = forward_axis(g.y, taps_y), x_axis = forward_axis(g.x, taps_x);
  GatedOuterArgs<T> args{y,     x_axis,     rows.lists(),  flags(in_kept), in,
                         batch, data<T>(x), data<T>(grad), nullptr,        mutable_data<T>(result)};
  const auto run = [&](auto outer, auto outer_scratch) {
    const int64_t parts = std::min(in, thread_parts(flops));
    for_parts(parts, [&](int64_t p) {
      const Workspace scratch(outer_scratch(args) * int64_t{sizeof(T)});
      outer(args, in * p / parts, in * (p + 1) / parts, scratch.as<T>());
    });
  };
  const bool small = is_small(y, x_axis);
  if (!small && kernels.fits_planes(args)) {
    return run(kernels.plane_outer, kernels.plane_outer_scratch);
  }
  const int64_t lanes = small ? kernels.small_turned_channels(out) : kernels.turned_channels(out);
  const Workspace turned(batch * g.out_pixels() * lanes * int64_t{sizeof(T)});
  args.turned = turned.as<T>();
  const int64_t turns = std::min(batch, thread_parts(flops));
  for_parts(turns, [&](int64_t p) {
    const int64_t first = batch * p / turns, last = batch * (p + 1) / turns;
    if (small) {
      kernels.small_turn(args.rows, args.grad, g.out_pixels(), batch, first, last, turned.as<T>());
    } else {
      kernels.turn(args.rows, args.grad, g.out_pixels(), first, last, turned.as<T>());
    }
  });
  if (small) return run(kernels.small_outer, kernels.small_outer_scratch);
  run(kernels.outer, kernels.outer_scratch);
}

// The gradients of the input, [N, C, H, W], and of the weight; what is not wanted is empty. The
// input's begins with start[n, c] at every pixel and is zero where in_wanted is not set.
std::tuple<Tensor, Tensor> gated_conv2d_backward(
    const Tensor& grad, const std::optional<Tensor>& x, const Tensor& weight,
    const std::optional<Tensor>& start, const Tensor& in_kept, const Tensor& in_wanted,
    const Tensor& out_kept, std::vector<int64_t> geometry, std::vector<int64_t> wanted) {
  const GatedGeometry g(geometry);
  const int64_t batch = grad.size(0), in = weight.size(1);
  Tensor grad_x = empty_of(grad, {0}), grad_weight = empty_of(grad, {0});
  const OwningLists rows(out_kept);
  with_type(grad, [&]<class T>(T*) {
    if (wanted.at(0) != 0) {
      grad_x = empty_of(grad, {batch, in, g.y.input, g.x.input});
      if (grad_x.numel() > 0) {
        input_gradient<T>(g, grad, weight, rows, OwningLists(in_wanted), start, grad_x);
      }
    }
    if (wanted.at(1) != 0) {
      grad_weight = empty_of(grad, {weight.size(0), in, g.y.kernel, g.x.kernel});
      if (grad_weight.numel() > 0)
        weight_gradient<T>(g, grad, x.value(), in_kept, rows, grad_weight);
    }
  });
  return {grad_x, grad_weight};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("gated_conv2d", TORCH_BOX(&gated_conv2d));
  m.impl("gated_conv2d_backward", TORCH_BOX(&gated_conv2d_backward));
}

}  // namespace
}  // namespace sparsefl
