// sparse_conv2d and sign_conv2d for torch's CPU backend. Operands [N, C, H, W] may lie row-major or
// batch-last; a forward's result lies batch-last.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "bindings/conv2d.h"

namespace sparsefl {
namespace {

Tensor forward(const Tensor& x, const Tensor& stored, const Magnitudes* magnitudes,
               const std::optional<Tensor>& bias, const ViewTensors& tensors,
               const std::vector<int64_t>& geometry) {
  const Geometry g(geometry);
  const int64_t batch = x.size(0);
  Tensor y = empty_batch_last(x, {batch, g.out, g.y.output, g.x.output});
  const View view = tensors.view(g.in / g.groups * g.taps());
  const OwningPass pass = OwningPass::forward(g);
  with_type(x, [&]<class T>(T*) {
    const bool strips = prefers_strips(Kernel::kGather, g, tensors.nnz(), tensors.block, batch);
    const Operand operand = operand_of(x, chunk_for<T>(g, batch, !lies_batch_last(x)), strips);
    const ViewWeights<T> weights(stored, magnitudes, tensors);
    for (int64_t first = 0; first < batch; first += operand.chunk()) {
      read_operands<T>(first, {&operand});
      const int64_t samples = operand.samples(first);
      const GatherArgs<T> args{view,
                               pass.of(samples, lying(operand), {batch, kLanePadding}),
                               weights.get(),
                               data<T>(bias),
                               operand.data<T>(first),
                               mutable_data<T>(y) + first};
      const int64_t pixels = g.y.output * g.x.output * samples;
      const int64_t parts = thread_parts(2 * (tensors.nnz() + g.out) * pixels);
      for_parts(parts, [&](int64_t p) { gather_part(args, strips, p, parts); });
    }
  });
  return y;
}

// The gradient of the input, batch-last or row-major.
template <class T>
class InputGradient {
 public:
  InputGradient(const Geometry& g, const Operand& grad, const Tensor& stored,
                const Magnitudes* magnitudes, const ViewTensors& tensors, bool row_major,
                bool strips)
      : strips_(strips),
        flops_(2 * (tensors.nnz() + g.in) * g.y.output * g.x.output * grad.chunk()),
        features_(g.in_features()),
        grad_(grad),
        view_(tensors.view(g.out / g.groups * g.taps())),
        weights_(stored, magnitudes, tensors),
        row_major_(row_major),
        memory_(row_major ? features_ * padded(grad.chunk()) * int64_t{sizeof(T)} : 0) {
    const std::vector<int64_t> size{grad.batch(), g.in, g.y.input, g.x.input};
    result_ = row_major ? empty_of(stored, size) : empty_batch_last(stored, size);
    for (int64_t phase = 0; phase < g.y.stride * g.x.stride; ++phase) {
      passes_.push_back(OwningPass::transposed(g, phase));
    }
  }

  int64_t flops() const { return flops_; }
  Tensor result() const { return result_; }

  void run(int64_t first, int64_t p, int64_t parts) const {
    T* to = row_major_ ? memory_.as<T>() : mutable_data<T>(result_) + first;
    const Samples out{ld(), in_groups() ? kLanePadding * features_ : kLanePadding};
    for (const OwningPass& pass : passes_) {
      gather_part<T>({view_, pass.of(grad_.samples(first), lying(grad_), out), weights_.get(),
                      nullptr, grad_.data<T>(first), to},
                     strips_, p, parts);
    }
  }

  // Once all parts have run.
  void write_row_major(int64_t first) const {
    if (!row_major_) return;
    const int64_t samples = grad_.samples(first);
    const int64_t parts = thread_parts(kFlopsACopy * features_ * samples);
    for_parts(parts, [&](int64_t p) {
      const Stretch features(features_, p, parts);
      const int64_t group = in_groups() ? kLanePadding : samples;
      for (int64_t n = 0; n < samples; n += group) {
        batch_last_kernels<T>().transpose(
            memory_.as<T>() + n * features_ + features.begin * ld(), ld(),
            mutable_data<T>(result_) + (first + n) * features_ + features.begin, features_,
            features.end - features.begin, 0, std::min(group, samples - n));
      }
    });
  }

 private:
  // Whether the result is written in groups of samples at first, and from one pixel to the next.
  bool in_groups() const { return row_major_ && !strips_; }
  int64_t ld() const { return in_groups() ? kLanePadding : grad_.batch(); }

  bool strips_;
  int64_t flops_, features_;
  const Operand& grad_;
  View view_;
  ViewWeights<T> weights_;
  bool row_major_;
  Workspace memory_;
  std::vector<OwningPass> passes_;
  Tensor result_;
};

// The gradient of the stored elements, [nnz].
template <class T>
class StoredGradient {
 public:
  StoredGradient(const Geometry& g, const Operand& grad, const Operand& x, const Tensor& stored,
                 const Magnitudes* magnitudes, const ViewTensors& tensors, bool strips)
      : strips_(strips),
        nnz_(tensors.nnz()),
        flops_(2 * nnz_ * g.y.output * g.x.output * grad.chunk()),
        grad_(grad),
        x_(x),
        view_(tensors.view(g.in / g.groups * g.taps())),
        weights_(make_weights<T>(stored, magnitudes)),
        pass_(OwningPass::forward(g)),
        result_(empty_of(stored, {nnz_})) {}

  int64_t flops() const { return flops_; }
  Tensor result() const { return result_; }

  // Each part sums on its own, from zero on.
  void start(int64_t parts) {
    others_.emplace((parts - 1) * nnz_ * int64_t{sizeof(T)});
    for (int64_t p = 0; p < parts; ++p) std::fill_n(sums(p), nnz_, T{0});
  }

  void run(int64_t first, int64_t p, int64_t parts) const {
    const Pass pass = pass_.of(grad_.samples(first), lying(x_), lying(grad_));
    const Share<T> share(view_, pass, strips_, p, parts);
    const Workspace scratch(share.walk.scratch(view_, share.pass) * int64_t{sizeof(T)});
    share.walk.sample({view_, share.pass, grad_.data<T>(first), x_.data<T>(first), sums(p)},
                      share.begin, share.end, scratch.as<T>());
  }

  // Adds the parts' sums up, in their order, by stretches that stay in the L1 cache.
  void finish(int64_t parts) const {
    constexpr int64_t kStretch = 1024;
    const int64_t pieces = thread_parts(parts * nnz_);
    for_parts(pieces, [&](int64_t piece) {
      const int64_t last = nnz_ * (piece + 1) / pieces;
      for (int64_t begin = nnz_ * piece / pieces; begin < last; begin += kStretch) {
        const int64_t end = std::min(begin + kStretch, last);
        T* total = sums(0);
        for (int64_t p = 1; p < parts; ++p) {
          const T* part = sums(p);
          for (int64_t k = begin; k < end; ++k) total[k] += part[k];
        }
        scale(total, begin, end);
      }
    });
  }

 private:
  // The gradient of a score is that of its weight times the magnitude.
  void scale(T* total, int64_t begin, int64_t end) const {
    // Copies: a store to total might change what is read through `this`.
    const Weights<T> weights = weights_;
    if (weights.kind == WeightKind::kSignTensor) {
      for (int64_t k = begin; k < end; ++k) total[k] *= weights.magnitudes[k];
    } else if (weights.kind == WeightKind::kSignConstant) {
      for (int64_t k = begin; k < end; ++k) total[k] *= weights.constant;
    }
  }

  T* sums(int64_t part) const {
    return part == 0 ? mutable_data<T>(result_) : others_->template as<T>() + (part - 1) * nnz_;
  }

  bool strips_;
  int64_t nnz_, flops_;
  const Operand &grad_, &x_;
  View view_;
  Weights<T> weights_;
  OwningPass pass_;
  Tensor result_;
  std::optional<Workspace> others_;
};

// sum of grad[n, channel, pixel] over samples and pixels, [channels].
template <class T>
class BiasGradient {
 public:
  BiasGradient(const Geometry& g, const Operand& grad, const Tensor& like)
      : channels_(g.out),
        pixels_(g.y.output * g.x.output),
        grad_(grad),
        result_(empty_of(like, {channels_})),
        totals_(channels_) {}

  int64_t flops() const { return grad_.features() * grad_.chunk(); }

  void run(int64_t first, int64_t p, int64_t parts) {
    const auto sum = batch_last_kernels<T>().sum;
    for (int64_t c = channels_ * p / parts; c < channels_ * (p + 1) / parts; ++c) {
      const T* from = grad_.data<T>(first) + c * pixels_ * grad_.ld();
      const int64_t samples = grad_.samples(first), width = std::min(grad_.ld(), samples);
      for (int64_t n = 0; n < samples; n += width, from += grad_.group()) {
        // A group's padding is zero.
        if (width == grad_.ld()) {
          totals_[c] += sum(from, pixels_ * width);
        } else {
          for (int64_t i = 0; i < pixels_; ++i) totals_[c] += sum(from + i * grad_.ld(), width);
        }
      }
    }
  }

  Tensor result() const {
    T* to = mutable_data<T>(result_);
    for (int64_t c = 0; c < channels_; ++c) to[c] = static_cast<T>(totals_[c]);
    return result_;
  }

 private:
  int64_t channels_, pixels_;
  const Operand& grad_;
  Tensor result_;
  std::vector<double> totals_;
};

// x is read for the stored elements' gradient alone.
Gradients backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& stored,
                   const Magnitudes* magnitudes, const ViewTensors& view,
                   const ViewTensors& transposed, const std::vector<int64_t>& geometry,
                   const std::vector<int64_t>& wanted) {
  const Geometry g(geometry);
  const int64_t batch = grad.size(0);
  Gradients gradients;
  with_type(stored, [&]<class T>(T*) {
    const bool moves = !lies_batch_last(grad) || wanted[0] == kRowMajor ||
                       (wanted.at(1) != 0 && !lies_batch_last(x.value()));
    const int64_t widest = std::max(view.block, transposed.block);
    const bool strips = prefers_strips(Kernel::kGather, g, view.nnz(), widest, batch);
    // What is moved lies for one walk.
    const bool samples_strips =
        moves ? strips : prefers_strips(Kernel::kSample, g, view.nnz(), widest, batch);
    const Operand gradient = operand_of(grad, chunk_for<T>(g, batch, moves), strips);
    std::optional<Operand> operand;
    if (wanted.at(1) != 0) operand.emplace(operand_of(x.value(), gradient.chunk(), strips));
    std::optional<InputGradient<T>> input;
    std::optional<StoredGradient<T>> kept;
    std::optional<BiasGradient<T>> sums;
    int64_t flops = 0;
    const auto add = [&](auto& job, const auto&... arguments) {
      flops += job.emplace(arguments...).flops();
    };
    if (wanted[0] != kNone) {
      add(input, g, gradient, stored, magnitudes, transposed, wanted[0] == kRowMajor, strips);
    }
    if (operand) add(kept, g, gradient, *operand, stored, magnitudes, view, samples_strips);
    if (wanted.at(2) != 0) add(sums, g, gradient, stored);
    const int64_t parts = thread_parts(flops);
    if (kept) kept->start(parts);
    for (int64_t first = 0; first < batch; first += gradient.chunk()) {
      read_operands<T>(first, {&gradient, operand ? &*operand : nullptr});
      for_parts(parts, [&](int64_t p) {
        if (input) input->run(first, p, parts);
        if (kept) kept->run(first, p, parts);
        if (sums) sums->run(first, p, parts);
      });
      if (input) input->write_row_major(first);
    }
    if (kept) kept->finish(parts);
    const auto result = [&](const auto& job) {
      return job ? job->result() : empty_of(stored, {0});
    };
    gradients = {result(input), result(kept), result(sums)};
  });
  return gradients;
}

Tensor sparse_conv2d(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                     const Tensor& begin, const Tensor& index,
                     const std::optional<Tensor>& position, const Tensor& work, int64_t block,
                     std::vector<int64_t> geometry) {
  return forward(x, values, nullptr, bias, {begin, index, position, work, block}, geometry);
}

Gradients sparse_conv2d_backward(const Tensor& grad, const std::optional<Tensor>& x,
                                 const Tensor& values, const Tensor& begin, const Tensor& index,
                                 const std::optional<Tensor>& position, const Tensor& work,
                                 int64_t block, const Tensor& begin_t, const Tensor& index_t,
                                 const std::optional<Tensor>& position_t, const Tensor& work_t,
                                 int64_t block_t, std::vector<int64_t> geometry,
                                 std::vector<int64_t> wanted) {
  return backward(grad, x, values, nullptr, {begin, index, position, work, block},
                  {begin_t, index_t, position_t, work_t, block_t}, geometry, wanted);
}

Tensor sign_conv2d(const Tensor& x, const Tensor& scores, const std::optional<Tensor>& magnitudes,
                   double constant, const std::optional<Tensor>& bias, const Tensor& begin,
                   const Tensor& index, const std::optional<Tensor>& position, const Tensor& work,
                   int64_t block, std::vector<int64_t> geometry) {
  const Magnitudes sign{magnitudes, constant};
  return forward(x, scores, &sign, bias, {begin, index, position, work, block}, geometry);
}

Gradients sign_conv2d_backward(const Tensor& grad, const std::optional<Tensor>& x,
                               const Tensor& scores, const std::optional<Tensor>& magnitudes,
                               double constant, const Tensor& begin, const Tensor& index,
                               const std::optional<Tensor>& position, const Tensor& work,
                               int64_t block, const Tensor& begin_t, const Tensor& index_t,
                               const std::optional<Tensor>& position_t, const Tensor& work_t,
                               int64_t block_t, std::vector<int64_t> geometry,
                               std::vector<int64_t> wanted) {
  const Magnitudes sign{magnitudes, constant};
  return backward(grad, x, scores, &sign, {begin, index, position, work, block},
                  {begin_t, index_t, position_t, work_t, block_t}, geometry, wanted);
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d));
  m.impl("sparse_conv2d_backward", TORCH_BOX(&sparse_conv2d_backward));
  m.impl("sign_conv2d", TORCH_BOX(&sign_conv2d));
  m.impl("sign_conv2d_backward", TORCH_BOX(&sign_conv2d_backward));
}

}  // namespace
}  // namespace sparsefl
