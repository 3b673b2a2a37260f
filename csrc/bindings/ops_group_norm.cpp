// group_norm for torch's CPU backend, on operands [N, C, ...] in batch-last memory: a group of
// channels is one stretch of it, with the samples innermost.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/norm.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/group_norm.h"

namespace sparsefl {
namespace {

// The groups of an operand, shared out whole where there are enough for the threads; else threads
// share a group's channels, and each has sums of its own.
struct Groups {
  int64_t batch, channels, groups, size, plane, columns, parts, slots;

  Groups(const Tensor& x, int64_t groups_of_x)
      : batch(x.size(0)),
        channels(x.size(1)),
        groups(groups_of_x),
        size(channels / groups),
        plane(channels == 0 ? 0 : x.numel() / channels),
        columns(x.numel() == 0 ? 0 : sample_columns(batch)),
        parts(x.numel() == 0 ? 0 : thread_parts(kFlopsAnElement * x.numel())),
        slots(parts < 2 || groups % parts == 0 || groups >= 8 * parts ? 1 : parts) {}

  int64_t group_of(int64_t channel) const { return channel / size; }
  double count() const { return static_cast<double>(size * plane / std::max<int64_t>(batch, 1)); }
  // Sums of a slot's samples of a group begin here, [batch].
  int64_t sums(int64_t slot, int64_t group) const { return (slot * groups + group) * batch; }
  int64_t statistics() const { return slots * groups * batch; }

  // Channels of a group that a part works on.
  struct Share {
    int64_t part, slot, group, begin, end;
  };

  // measure(share) for all shares of a group, settle(group), apply(share). What a thread measured
  // last is still in its cache when it applies: shares are applied from their end.
  template <class Measure, class Settle, class Apply>
  void run(const Measure& measure, const Settle& settle, const Apply& apply) const {
    if (parts == 0) return;
    if (slots == 1) {
      for_parts(parts, [&](int64_t p) {
        for (int64_t g = groups * p / parts; g < groups * (p + 1) / parts; ++g) {
          const Share all{p, 0, g, g * size, (g + 1) * size};
          measure(all);
          settle(g);
          apply(all);
        }
      });
      return;
    }
    for_parts(parts, [&](int64_t p) { for_shares(p, measure); });
    for (int64_t g = 0; g < groups; ++g) settle(g);
    for_parts(parts, [&](int64_t p) { for_shares(p, apply); });
  }

 private:
  template <class Run>
  void for_shares(int64_t part, const Run& run) const {
    int64_t begin = channels * part / parts;
    const int64_t end = channels * (part + 1) / parts;
    while (begin < end) {
      const int64_t group = group_of(begin), next = std::min(end, (group + 1) * size);
      run(Share{part, part, group, begin, next});
      begin = next;
    }
  }
};

// Copies what belongs to samples, [batch], into all columns.
template <class T>
void repeat(const T* of_samples, const Groups& g, T* columns) {
  for (int64_t c = 0; c < g.columns; c += g.batch) {
    std::copy(of_samples, of_samples + g.batch, columns + c);
  }
}

// Rows of `columns` elements for a part's own use.
template <class T>
class Columns {
 public:
  Columns(const Groups& g, int64_t rows)
      : columns_(g.columns),
        rows_(rows),
        memory_(g.parts * rows * g.columns * int64_t{sizeof(T)}) {}
  T* row(int64_t part, int64_t row) const {
    return memory_.as<T>() + (part * rows_ + row) * columns_;
  }

 private:
  int64_t columns_, rows_;
  Workspace memory_;
};

// Mean and 1 / sqrt(variance + eps) of a group's samples, from the moments of all slots.
template <class T>
void settle_moments(const Groups& g, int64_t group, const std::vector<SampleMoments>& moments,
                    double eps, T* mean, T* invstd) {
  for (int64_t s = 0; s < g.batch; ++s) {
    double count = 0, middle = 0, squares = 0;
    for (int64_t slot = 0; slot < g.slots; ++slot) {
      const SampleMoments& m = moments[slot * g.groups + group];
      if (m.count == 0) continue;
      const double more = static_cast<double>(m.count), share = more / (count + more);
      const double delta = m.mean[s] - middle;
      squares += m.squares[s] + delta * delta * share * count;
      middle += delta * share;
      count += more;
    }
    if (squares < 0) squares = 0;
    mean[group * g.batch + s] = static_cast<T>(middle);
    invstd[group * g.batch + s] = static_cast<T>(1 / std::sqrt(squares / count + eps));
  }
}

template <class T>
struct Forward {
  const T *x, *weight, *bias, *residual, *mean, *invstd;
  T* y;
  bool relu;
};

template <class T>
void normalise_share(const Groups& g, const Groups::Share& share, const Forward<T>& f,
                     const Columns<T>& columns) {
  T *mean = columns.row(share.part, 0), *invstd = columns.row(share.part, 1);
  repeat(f.mean + share.group * g.batch, g, mean);
  repeat(f.invstd + share.group * g.batch, g, invstd);
  for (int64_t c = share.end; c-- > share.begin;) {
    const int64_t at_channel = c * g.plane;
    group_norm_kernels<T>().normalise(
        f.x + at_channel, f.residual == nullptr ? nullptr : f.residual + at_channel,
        f.y + at_channel, g.plane,
        {g.columns, mean, invstd, at(f.weight, c, T{1}), at(f.bias, c, T{0})}, f.relu);
  }
}

// The normalised operand, and mean and 1 / sqrt(variance + eps) of every sample's groups, [G, N].
std::tuple<Tensor, Tensor, Tensor> group_norm(const Tensor& x, int64_t groups,
                                              const std::optional<Tensor>& weight,
                                              const std::optional<Tensor>& bias,
                                              const std::optional<Tensor>& residual, double eps,
                                              bool relu) {
  const Groups g(x, groups);
  Tensor y = empty_batch_last(x, sizes(x));
  Tensor mean = empty_of(x, {g.groups, g.batch}), invstd = empty_of(x, {g.groups, g.batch});
  with_type(x, [&]<class T>(T*) {
    const auto& kernels = group_norm_kernels<T>();
    T *means = mutable_data<T>(mean), *invstds = mutable_data<T>(invstd);
    const Forward<T> forward{rows<T>(x), data<T>(weight), data<T>(bias),      rows<T>(residual),
                             means,      invstds,         mutable_data<T>(y), relu};
    const Columns<T> columns(g, kGroupNormScratch);
    std::vector<double> sums(2 * g.statistics());
    std::vector<SampleMoments> moments(g.slots * g.groups);
    for (int64_t slot = 0; slot < g.slots; ++slot) {
      for (int64_t group = 0; group < g.groups; ++group) {
        double* first = sums.data() + g.sums(slot, group);
        moments[slot * g.groups + group] = {0, first, first + g.statistics()};
      }
    }
    g.run(
        [&](const Groups::Share& s) {
          kernels.moments(forward.x + s.begin * g.plane, (s.end - s.begin) * g.plane, g.batch,
                          columns.row(s.part, 0), &moments[s.slot * g.groups + s.group]);
        },
        [&](int64_t group) { settle_moments(g, group, moments, eps, means, invstds); },
        [&](const Groups::Share& s) { normalise_share(g, s, forward, columns); });
  });
  return {y, mean, invstd};
}

// The output once more, from what group_norm gave.
Tensor group_norm_again(const Tensor& x, const std::optional<Tensor>& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                        const Tensor& mean, const Tensor& invstd, bool relu) {
  const Groups g(x, mean.size(0));
  Tensor y = empty_batch_last(x, sizes(x));
  with_type(x, [&]<class T>(T*) {
    const Forward<T> forward{rows<T>(x),    data<T>(weight), data<T>(bias),      rows<T>(residual),
                             data<T>(mean), data<T>(invstd), mutable_data<T>(y), relu};
    const Columns<T> columns(g, 2);
    g.run([](const Groups::Share&) {}, [](int64_t) {},
          [&](const Groups::Share& s) { normalise_share(g, s, forward, columns); });
  });
  return y;
}

// What the gradients are made of.
template <class T>
struct Backward {
  Gate gate;
  const T *grad, *x, *beside, *weight, *bias, *mean, *invstd;
  T *grad_x, *grad_residual;
  // Of every slot, group and sample: sums of the weighted gradient, and of it times (x - mean).
  std::vector<double> sums;
};

// The job of a channel; what belongs to samples lies in the part's columns.
template <class T>
GroupNormGradient<T> channel_job(const Groups& g, int64_t part, int64_t c, const Backward<T>& b,
                                 const Columns<T>& columns) {
  const auto from = [&](auto* x) { return x == nullptr ? nullptr : x + c * g.plane; };
  return {b.gate,
          {g.columns, columns.row(part, 0), columns.row(part, 1), at(b.weight, c, T{1}),
           at(b.bias, c, T{0})},
          from(b.grad),
          from(b.x),
          from(b.beside),
          columns.row(part, 2),
          columns.row(part, 3),
          from(b.grad_x),
          from(b.grad_residual)};
}

// Fills a part's columns: mean, invstd, and offset and tilt of the input's gradient.
template <class T>
void settle_gradient(const Groups& g, const Groups::Share& share, const Backward<T>& b,
                     const Columns<T>& columns) {
  T *mean = columns.row(share.part, 0), *invstd = columns.row(share.part, 1);
  T *offsets = columns.row(share.part, 2), *tilts = columns.row(share.part, 3);
  repeat(b.mean + share.group * g.batch, g, mean);
  repeat(b.invstd + share.group * g.batch, g, invstd);
  for (int64_t s = 0; s < g.batch; ++s) {
    double sum = 0, product = 0;
    for (int64_t slot = 0; slot < g.slots; ++slot) {
      const double* first = b.sums.data() + 2 * g.sums(slot, share.group);
      sum += first[s];
      product += first[g.batch + s];
    }
    const double inverse = invstd[s];
    const T offset = static_cast<T>(-inverse * sum / g.count());
    const T tilt = static_cast<T>(-inverse * inverse * inverse * product / g.count());
    for (int64_t c = s; c < g.columns; c += g.batch) offsets[c] = offset, tilts[c] = tilt;
  }
}

using NormGradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The gradients of x, weight, bias and residual; those that are not wanted are empty. y is read for
// the ReLU where it is given, else x is, and the residual.
NormGradients group_norm_backward(const Tensor& grad, const Tensor& x,
                                  const std::optional<Tensor>& weight,
                                  const std::optional<Tensor>& bias,
                                  const std::optional<Tensor>& residual,
                                  const std::optional<Tensor>& y, const Tensor& mean,
                                  const Tensor& invstd, bool relu, std::vector<int64_t> wanted) {
  const Groups g(x, mean.size(0));
  const bool wants_x = wanted.at(0) != 0, wants_residual = wanted.at(3) != 0;
  const bool sums_wanted = wants_x || wanted.at(1) != 0 || wanted.at(2) != 0;
  const auto like_x = [&](bool wanted) {
    return wanted ? empty_batch_last(x, sizes(x)) : empty_of(x, {0});
  };
  Tensor grad_x = like_x(wants_x), grad_residual = like_x(wants_residual);
  Tensor grad_weight = empty_of(x, {g.channels}), grad_bias = empty_of(x, {g.channels});
  with_type(x, [&]<class T>(T*) {
    const auto& kernels = group_norm_kernels<T>();
    const T *output = rows<T>(y), *added = rows<T>(residual);
    const T* beside = output != nullptr ? output : added;
    const Gate gate = !relu               ? Gate::kOpen
                      : beside == nullptr ? Gate::kInput
                      : output == nullptr ? Gate::kSum
                                          : Gate::kOutput;
    Backward<T> b{gate,
                  rows<T>(grad),
                  rows<T>(x),
                  beside,
                  data<T>(weight),
                  data<T>(bias),
                  data<T>(mean),
                  data<T>(invstd),
                  wants_x ? mutable_data<T>(grad_x) : nullptr,
                  wants_residual ? mutable_data<T>(grad_residual) : nullptr,
                  std::vector<double>(2 * g.statistics())};
    T *weights = mutable_data<T>(grad_weight), *biases = mutable_data<T>(grad_bias);
    std::fill(weights, weights + g.channels, T{0});
    std::fill(biases, biases + g.channels, T{0});
    const Columns<T> columns(g, 4), scratch(g, kGroupNormScratch);
    g.run(
        [&](const Groups::Share& s) {
          if (!sums_wanted) return;
          repeat(b.mean + s.group * g.batch, g, columns.row(s.part, 0));
          repeat(b.invstd + s.group * g.batch, g, columns.row(s.part, 1));
          for (int64_t c = s.begin; c < s.end; ++c) {
            double channel[2];
            kernels.sums(channel_job(g, s.part, c, b, columns), g.plane, g.batch,
                         scratch.row(s.part, 0), channel,
                         b.sums.data() + 2 * g.sums(s.slot, s.group));
            biases[c] = static_cast<T>(channel[0]);
            weights[c] = static_cast<T>(channel[1]);
          }
        },
        [](int64_t) {},
        [&](const Groups::Share& s) {
          if (!wants_x && !wants_residual) return;
          settle_gradient(g, s, b, columns);
          for (int64_t c = s.end; c-- > s.begin;) {
            kernels.gradient(channel_job(g, s.part, c, b, columns), g.plane);
          }
        });
  });
  return {grad_x, wanted[1] != 0 ? grad_weight : empty_of(x, {0}),
          wanted[2] != 0 ? grad_bias : empty_of(x, {0}), grad_residual};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("group_norm", TORCH_BOX(&group_norm));
  m.impl("group_norm_again", TORCH_BOX(&group_norm_again));
  m.impl("group_norm_backward", TORCH_BOX(&group_norm_backward));
}

}  // namespace
}  // namespace sparsefl
