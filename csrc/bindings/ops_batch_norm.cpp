// batch_norm for torch's CPU backend, on operands [N, C, ...] in batch-last memory: a channel is
// one row of it.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/norm.h"
#include "bindings/parallel.h"
#include "cpu/batch_norm.h"

namespace sparsefl {
namespace {

// Cuts the channels' rows into segments where there are too few channels for the threads.
struct Rows {
  int64_t channels, length, parts, segments;

  explicit Rows(const Tensor& x)
      : channels(x.size(1)),
        length(channels == 0 ? 0 : x.numel() / channels),
        parts(thread_parts(kFlopsAnElement * x.numel())),
        segments(channels % parts == 0 || channels >= 8 * parts ? 1 : parts) {}

  struct Segment {
    int64_t channel, index, begin, size;
  };
  Segment segment(int64_t channel, int64_t s) const {
    const int64_t begin = length * s / segments;
    return {channel, channel * segments + s, channel * length + begin,
            length * (s + 1) / segments - begin};
  }

  // measure(segment) for all segments of a channel, then settle(channel), then apply(segment). What
  // a thread measured of a channel is still in its cache when it applies.
  template <class Measure, class Settle, class Apply>
  void run(const Measure& measure, const Settle& settle, const Apply& apply) const {
    if (segments == 1) {
      for_parts(parts, [&](int64_t p) {
        for (int64_t c = channels * p / parts; c < channels * (p + 1) / parts; ++c) {
          measure(segment(c, 0));
          settle(c);
          apply(segment(c, 0));
        }
      });
      return;
    }
    for_parts(parts, [&](int64_t p) {
      for (int64_t c = 0; c < channels; ++c) measure(segment(c, p));
    });
    for (int64_t c = 0; c < channels; ++c) settle(c);
    for_parts(parts, [&](int64_t p) {
      for (int64_t c = 0; c < channels; ++c) apply(segment(c, p));
    });
  }
};

Moments together(const Moments& a, const Moments& b) {
  const int64_t count = a.count + b.count;
  if (count == 0) return a;
  const double share = static_cast<double>(b.count) / static_cast<double>(count);
  const double delta = b.mean - a.mean;
  return {count, a.mean + delta * share,
          a.squares + b.squares + delta * delta * share * static_cast<double>(a.count)};
}

using Normalised = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The normalised operand, and what it was normalised by: mean, variance (biased) and
// 1 / sqrt(variance + eps), [C]. Mean and variance are the batch's where none are given.
Normalised batch_norm(const Tensor& x, const std::optional<Tensor>& weight,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                      const std::optional<Tensor>& given_mean,
                      const std::optional<Tensor>& given_var, double eps, bool relu) {
  const Rows channels(x);
  Tensor y = empty_batch_last(x, sizes(x));
  Tensor mean = empty_of(x, {channels.channels}), var = empty_of(x, {channels.channels});
  Tensor invstd = empty_of(x, {channels.channels});
  with_type(x, [&]<class T>(T*) {
    const auto& kernels = batch_norm_kernels<T>();
    const T *from = rows<T>(x), *add = rows<T>(residual), *scale = data<T>(weight),
            *shift = data<T>(bias), *known_mean = data<T>(given_mean),
            *known_var = data<T>(given_var);
    T *to = mutable_data<T>(y), *means = mutable_data<T>(mean), *vars = mutable_data<T>(var),
      *invstds = mutable_data<T>(invstd);
    std::vector<Moments> moments(channels.channels * channels.segments);
    channels.run(
        [&](const Rows::Segment& s) {
          if (known_mean == nullptr) moments[s.index] = kernels.moments(from + s.begin, s.size);
        },
        [&](int64_t c) {
          double variance = 0;
          if (known_mean == nullptr) {
            Moments all{0, 0, 0};
            for (int64_t i = 0; i < channels.segments; ++i) {
              all = together(all, moments[c * channels.segments + i]);
            }
            variance = all.squares / static_cast<double>(all.count);
            means[c] = static_cast<T>(all.mean);
          } else {
            variance = known_var[c];
            means[c] = known_mean[c];
          }
          vars[c] = static_cast<T>(variance);
          invstds[c] = static_cast<T>(1 / std::sqrt(variance + eps));
        },
        [&](const Rows::Segment& s) {
          const int64_t c = s.channel;
          kernels.normalise(from + s.begin, add == nullptr ? nullptr : add + s.begin, to + s.begin,
                            s.size, {means[c], at(scale, c, T{1}) * invstds[c], at(shift, c, T{0})},
                            relu);
        });
  });
  return {y, mean, var, invstd};
}

// The output once more, from what batch_norm gave.
Tensor batch_norm_again(const Tensor& x, const std::optional<Tensor>& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                        const Tensor& mean, const Tensor& invstd, bool relu) {
  const Rows channels(x);
  Tensor y = empty_batch_last(x, sizes(x));
  with_type(x, [&]<class T>(T*) {
    const auto& kernels = batch_norm_kernels<T>();
    const T *from = rows<T>(x), *add = rows<T>(residual), *scale = data<T>(weight),
            *shift = data<T>(bias), *means = data<T>(mean), *invstds = data<T>(invstd);
    T* to = mutable_data<T>(y);
    channels.run([](const Rows::Segment&) {}, [](int64_t) {},
                 [&](const Rows::Segment& s) {
                   const int64_t c = s.channel;
                   kernels.normalise(
                       from + s.begin, add == nullptr ? nullptr : add + s.begin, to + s.begin,
                       s.size, {means[c], at(scale, c, T{1}) * invstds[c], at(shift, c, T{0})},
                       relu);
                 });
  });
  return y;
}

using NormGradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The gradients of x, weight, bias and residual; those that are not wanted are empty. y is read for
// the ReLU where it is given, else x is, and the residual.
NormGradients batch_norm_backward(const Tensor& grad, const Tensor& x,
                                  const std::optional<Tensor>& weight,
                                  const std::optional<Tensor>& bias,
                                  const std::optional<Tensor>& residual,
                                  const std::optional<Tensor>& y, const Tensor& mean,
                                  const Tensor& invstd, bool batch_statistics, bool relu,
                                  std::vector<int64_t> wanted) {
  const Rows channels(x);
  const bool wants_x = wanted.at(0) != 0, wants_residual = wanted.at(3) != 0;
  const auto like_x = [&](bool wanted) {
    return wanted ? empty_batch_last(x, sizes(x)) : empty_of(x, {0});
  };
  Tensor grad_x = like_x(wants_x), grad_residual = like_x(wants_residual);
  Tensor grad_weight = empty_of(x, {channels.channels}),
         grad_bias = empty_of(x, {channels.channels});
  with_type(x, [&]<class T>(T*) {
    const auto& kernels = batch_norm_kernels<T>();
    const T *to = rows<T>(grad), *from = rows<T>(x), *output = rows<T>(y),
            *added = rows<T>(residual), *scale = data<T>(weight), *shift = data<T>(bias),
            *means = data<T>(mean), *invstds = data<T>(invstd);
    const T* beside = output != nullptr ? output : added;
    const Gate gate = !relu               ? Gate::kOpen
                      : beside == nullptr ? Gate::kInput
                      : output == nullptr ? Gate::kSum
                                          : Gate::kOutput;
    T *inputs = wants_x ? mutable_data<T>(grad_x) : nullptr,
      *residuals = wants_residual ? mutable_data<T>(grad_residual) : nullptr,
      *weights = mutable_data<T>(grad_weight), *biases = mutable_data<T>(grad_bias);
    std::vector<double> sums(2 * channels.channels * channels.segments);
    std::vector<double> offset(channels.channels), tilt(channels.channels);
    const auto job = [&](const Rows::Segment& s) {
      const int64_t c = s.channel;
      const T slope = at(scale, c, T{1}) * invstds[c];
      return NormGradient<T>{gate,
                             {means[c], slope, at(shift, c, T{0})},
                             to + s.begin,
                             from + s.begin,
                             beside == nullptr ? nullptr : beside + s.begin,
                             slope,
                             static_cast<T>(offset[c]),
                             static_cast<T>(tilt[c]),
                             inputs == nullptr ? nullptr : inputs + s.begin,
                             residuals == nullptr ? nullptr : residuals + s.begin};
    };
    const bool sums_wanted =
        wanted.at(1) != 0 || wanted.at(2) != 0 || (wants_x && batch_statistics);
    channels.run(
        [&](const Rows::Segment& s) {
          if (sums_wanted) kernels.sums(job(s), s.size, sums.data() + 2 * s.index);
        },
        [&](int64_t c) {
          double sum = 0, product = 0;
          for (int64_t i = c * channels.segments; i < (c + 1) * channels.segments; ++i) {
            sum += sums[2 * i], product += sums[2 * i + 1];
          }
          const double inverse = invstds[c], slope = at(scale, c, T{1}) * inverse;
          weights[c] = static_cast<T>(product * inverse);
          biases[c] = static_cast<T>(sum);
          if (!batch_statistics) return;
          const double count = static_cast<double>(channels.length);
          offset[c] = -slope * sum / count;
          tilt[c] = -slope * inverse * inverse * product / count;
        },
        [&](const Rows::Segment& s) {
          if (wants_x || wants_residual) kernels.gradient(job(s), s.size);
        });
  });
  return {grad_x, wanted[1] != 0 ? grad_weight : empty_of(x, {0}),
          wanted[2] != 0 ? grad_bias : empty_of(x, {0}), grad_residual};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("batch_norm", TORCH_BOX(&batch_norm));
  m.impl("batch_norm_again", TORCH_BOX(&batch_norm_again));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

}  // namespace
}  // namespace sparsefl
