// Batch norm, gate and ReLU of the gated convolution for torch's CPU backend. Images are row-major
// [N, C, H, W]; gates and flags are [N, C].

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/gated_norm.h"

namespace sparsefl {
namespace {

// What an element of a selection costs beside a flop.
constexpr int64_t kFlopsASelection = 100;

// The images' sizes and how many threads share their samples.
struct Planes {
  int64_t batch, channels, pixels;

  explicit Planes(const Tensor& x)
      : batch(x.size(0)), channels(x.size(1)), pixels(x.size(2) * x.size(3)) {}

  int64_t pairs() const { return batch * channels; }

  // Calls run(first sample, last sample) on every thread.
  template <class Run>
  void for_samples(const Run& run) const {
    const int64_t wide = thread_parts(kFlopsAnElement * pairs() * pixels);
    const int64_t parts = std::max<int64_t>(1, std::min(batch, wide));
    for_parts(parts, [&](int64_t p) { run(batch * p / parts, batch * (p + 1) / parts); });
  }
};

// The mean of every plane, and whether any of its elements is not zero.
std::tuple<Tensor, Tensor> gated_pool(const Tensor& x) {
  const Planes planes(x);
  Tensor mean = empty_of(x, {planes.batch, planes.channels});
  Tensor nonzero = empty_of(x, {planes.batch, planes.channels}, ScalarType::Bool);
  with_type(x, [&]<class T>(T*) {
    uint8_t* flags = static_cast<uint8_t*>(nonzero.mutable_data_ptr());
    planes.for_samples([&](int64_t first, int64_t last) {
      gated_norm_kernels<T>().pool(data<T>(x), planes.pixels, first * planes.channels,
                                   last * planes.channels, mutable_data<T>(mean), flags);
    });
  });
  return {mean, nonzero};
}

// Numbers from zero on as integers in the same order.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// A number that at most k of n keys from 0 on exceed and at least k reach, k from 1 to n: the bits
// of the k-th largest from the highest on, until they tell it from the next. No other branch
// depends on a key (a partial sort of 512 takes 10 us, this at most 1).
template <class B>
B kth_largest(const B* keys, int64_t n, int64_t k) {
  B found = 0;
  for (int bit = 8 * int{sizeof(B)} - 2; bit >= 0; --bit) {
    const B least = found | B{1} << bit;
    B count = 0;
    for (int64_t i = 0; i < n; ++i) count += keys[i] >= least;
    if (count == k) return least - 1;
    if (count > k) found = least;
  }
  return found;
}

// relu(logits) [samples, channels] where it is among the `kept` largest of its sample, the first of
// equal ones, and zero elsewhere; and which are not zero. NaN is the largest.
std::tuple<Tensor, Tensor> gated_keep(const Tensor& logits, int64_t kept) {
  const int64_t batch = logits.size(0), channels = logits.size(1);
  Tensor gates = empty_of(logits, {batch, channels});
  Tensor open = empty_of(logits, {batch, channels}, ScalarType::Bool);
  with_type(logits, [&]<class T>(T*) {
    const T* from = data<T>(logits);
    T* to = mutable_data<T>(gates);
    uint8_t* flags = static_cast<uint8_t*>(open.mutable_data_ptr());
    const int64_t wide = std::min(batch, thread_parts(kFlopsASelection * batch * channels));
    const int64_t parts = std::max<int64_t>(1, wide);
    for_parts(parts, [&](int64_t p) {
      std::vector<Bits<T>> keys(channels);
      for (int64_t n = batch * p / parts; n < batch * (p + 1) / parts; ++n) {
        for (int64_t c = 0; c < channels; ++c) {
          const T value = from[n * channels + c];
          const T key = std::isnan(value) ? std::numeric_limits<T>::infinity() : value;
          keys[c] = key > 0 ? std::bit_cast<Bits<T>>(key) : 0;
        }
        const Bits<T> least = kth_largest(keys.data(), channels, kept);
        int64_t equal = kept;
        for (int64_t c = 0; c < channels; ++c) equal -= keys[c] > least;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t i = n * channels + c;
          const bool stays = keys[c] > least || (keys[c] == least && equal-- > 0);
          flags[i] = stays && keys[c] > 0;
          to[i] = flags[i] ? from[i] : T{0};
        }
      }
    });
  });
  return {gates, open};
}

// Moves running statistics towards a batch's, those of a channel without a value not at all, its
// variance not without two.
void gated_update(const Tensor& running_mean, const Tensor& running_variance, const Tensor& mean,
                  const Tensor& variance, const Tensor& count, int64_t pixels, double momentum) {
  with_type(mean, [&]<class T>(T*) {
    T *to_mean = mutable_data<T>(running_mean), *to_variance = mutable_data<T>(running_variance);
    for (int64_t c = 0; c < mean.numel(); ++c) {
      const double values = static_cast<double>(data<int64_t>(count)[c] * pixels);
      const auto move = [&](T& running, double target) {
        running = static_cast<T>(running + momentum * (target - running));
      };
      if (values > 0) move(to_mean[c], data<T>(mean)[c]);
      if (values > 1) move(to_variance[c], data<T>(variance)[c] * values / (values - 1));
    }
  });
}

// The statistics of the channels as scale * z + shift, and what a kernel needs beside.
template <class T>
class Normaliser {
 public:
  Normaliser(const Tensor& z, const Tensor& gate, const Tensor& active, const Tensor& mean,
             const Tensor& variance, const std::optional<Tensor>& weight,
             const std::optional<Tensor>& bias, double eps, bool relu)
      : scale_(mean.numel()), shift_(mean.numel()), inverse_(mean.numel()) {
    const T *average = data<T>(mean), *square = data<T>(variance);
    const T *gamma = data<T>(weight), *beta = data<T>(bias);
    for (size_t c = 0; c < scale_.size(); ++c) {
      inverse_[c] = static_cast<T>(1 / std::sqrt(static_cast<double>(square[c]) + eps));
      scale_[c] = gamma == nullptr ? inverse_[c] : gamma[c] * inverse_[c];
      shift_[c] = (beta == nullptr ? T{0} : beta[c]) - average[c] * scale_[c];
    }
    const Planes planes(z);
    STD_TORCH_CHECK(active.is_contiguous() && active.element_size() == 1, "bad flags");
    args_ = {planes.channels,
             planes.pixels,
             data<T>(z),
             data<T>(gate),
             static_cast<const uint8_t*>(active.const_data_ptr()),
             scale_.data(),
             shift_.data(),
             average,
             relu};
  }

  const GatedNormArgs<T>& args() const { return args_; }
  double inverse(int64_t c) const { return inverse_[c]; }

 private:
  std::vector<T> scale_, shift_, inverse_;
  GatedNormArgs<T> args_;
};

// Mean and (biased) variance of every channel over its active planes, and their number. Of a
// channel without any, both are zero.
std::tuple<Tensor, Tensor, Tensor> gated_moments(const Tensor& z, const Tensor& active) {
  const Planes planes(z);
  Tensor mean = empty_of(z, {planes.channels}), variance = empty_of(z, {planes.channels});
  Tensor count = empty_of(z, {planes.channels}, ScalarType::Long);
  with_type(z, [&]<class T>(T*) {
    const Workspace memory(2 * planes.pairs() * int64_t{sizeof(T)});
    T *means = memory.as<T>(), *squares = means + planes.pairs();
    STD_TORCH_CHECK(active.is_contiguous() && active.element_size() == 1, "bad flags");
    const uint8_t* kept = static_cast<const uint8_t*>(active.const_data_ptr());
    const GatedNormArgs<T> args{planes.channels, planes.pixels, data<T>(z), nullptr, kept,
                                nullptr,         nullptr,       nullptr,    false};
    planes.for_samples([&](int64_t first, int64_t last) {
      gated_norm_kernels<T>().moments(args, first, last, means, squares);
    });
    // Chan, Golub and LeVeque 1979: the planes' own sums of squares, and that of their means.
    std::vector<double> sum(planes.channels), square(planes.channels);
    std::vector<int64_t> number(planes.channels);
    for (int64_t i = 0; i < planes.pairs(); ++i) {
      if (kept[i] == 0) continue;
      sum[i % planes.channels] += means[i];
      ++number[i % planes.channels];
    }
    for (int64_t i = 0; i < planes.pairs(); ++i) {
      const int64_t c = i % planes.channels;
      if (kept[i] == 0) continue;
      const double distance = means[i] - sum[c] / static_cast<double>(number[c]);
      square[c] += squares[i] + static_cast<double>(planes.pixels) * distance * distance;
    }
    for (int64_t c = 0; c < planes.channels; ++c) {
      const double n = std::max<double>(1, static_cast<double>(number[c]));
      mutable_data<T>(mean)[c] = static_cast<T>(sum[c] / n);
      mutable_data<T>(variance)[c] =
          static_cast<T>(square[c] / (n * static_cast<double>(planes.pixels)));
      mutable_data<int64_t>(count)[c] = number[c];
    }
  });
  return {mean, variance, count};
}

Tensor gated_norm(const Tensor& z, const Tensor& gate, const Tensor& active, const Tensor& mean,
                  const Tensor& variance, const std::optional<Tensor>& weight,
                  const std::optional<Tensor>& bias, double eps, bool relu) {
  Tensor y = empty_of(z, {z.size(0), z.size(1), z.size(2), z.size(3)});
  with_type(z, [&]<class T>(T*) {
    const Normaliser<T> norm(z, gate, active, mean, variance, weight, bias, eps, relu);
    Planes(z).for_samples([&](int64_t first, int64_t last) {
      gated_norm_kernels<T>().apply(norm.args(), first, last, mutable_data<T>(y));
    });
  });
  return y;
}

// The gradients of z, the gates, weight and bias. `count` says over how many planes the statistics
// were taken; null: they are constants.
std::tuple<Tensor, Tensor, Tensor, Tensor> gated_norm_backward(
    const Tensor& grad, const Tensor& z, const Tensor& gate, const Tensor& active,
    const Tensor& mean, const Tensor& variance, const std::optional<Tensor>& count,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps, bool relu) {
  const Planes planes(z);
  const int64_t channels = planes.channels;
  Tensor grad_z = empty_of(z, {z.size(0), z.size(1), z.size(2), z.size(3)});
  Tensor grad_gate = empty_of(z, {planes.batch, channels});
  Tensor grad_weight = empty_of(z, {channels}), grad_bias = empty_of(z, {channels});
  with_type(z, [&]<class T>(T*) {
    const Normaliser<T> norm(z, gate, active, mean, variance, weight, bias, eps, relu);
    const GatedNormArgs<T>& args = norm.args();
    const Workspace memory(2 * planes.pairs() * int64_t{sizeof(T)});
    T *plain = memory.as<T>(), *centred = plain + planes.pairs();
    planes.for_samples([&](int64_t first, int64_t last) {
      gated_norm_kernels<T>().sums(args, data<T>(grad), first, last, plain, centred);
    });
    // d(gate * (weight * h + bias)) with h = (z - mean) * inverse: sums of gate * dv and
    // gate * dv * h over all planes.
    std::vector<double> sum(channels), product(channels);
    T* to = mutable_data<T>(grad_gate);
    const T *gamma = data<T>(weight), *beta = data<T>(bias);
    for (int64_t i = 0; i < planes.pairs(); ++i) {
      const int64_t c = i % channels;
      const double h = norm.inverse(c) * centred[i];
      to[i] = static_cast<T>((gamma == nullptr ? 1 : gamma[c]) * h +
                             (beta == nullptr ? 0 : beta[c]) * plain[i]);
      sum[c] += static_cast<double>(args.gate[i]) * plain[i];
      product[c] += args.gate[i] * h;
    }
    std::vector<T> offset(channels), slope(channels);
    for (int64_t c = 0; c < channels; ++c) {
      mutable_data<T>(grad_bias)[c] = static_cast<T>(sum[c]);
      mutable_data<T>(grad_weight)[c] = static_cast<T>(product[c]);
      if (!count.has_value() || data<int64_t>(*count)[c] == 0) continue;
      const double each =
          args.scale[c] / static_cast<double>(data<int64_t>(*count)[c] * planes.pixels);
      offset[c] = static_cast<T>(-each * sum[c]);
      slope[c] = static_cast<T>(-each * norm.inverse(c) * product[c]);
    }
    planes.for_samples([&](int64_t first, int64_t last) {
      gated_norm_kernels<T>().differentiate(args, data<T>(grad), offset.data(), slope.data(), first,
                                            last, mutable_data<T>(grad_z));
    });
  });
  return {grad_z, grad_gate, grad_weight, grad_bias};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("gated_pool", TORCH_BOX(&gated_pool));
  m.impl("gated_keep", TORCH_BOX(&gated_keep));
  m.impl("gated_update", TORCH_BOX(&gated_update));
  m.impl("gated_moments", TORCH_BOX(&gated_moments));
  m.impl("gated_norm", TORCH_BOX(&gated_norm));
  m.impl("gated_norm_backward", TORCH_BOX(&gated_norm_backward));
}

}  // namespace
}  // namespace sparsefl
