// sparse_linear, sign_linear, its form by codes and the transposition into batch-last memory, for
// torch's CPU backend.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/linear.h"
#include "bindings/operand.h"
#include "bindings/parallel.h"
#include "bindings/sign_codes.h"
#include "bindings/workspace.h"
#include "cpu/batch_last.h"
#include "cpu/isa.h"
#include "cpu/sparse_linear.h"

namespace sparsefl {
namespace {

std::string isa_in_use() { return isa_name(isa()); }

Tensor transpose(const Tensor& x) {
  const int64_t rows = x.size(0), columns = x.size(1);
  Tensor y = empty_of(x, {columns, rows});
  with_type(x, [&]<class T>(T*) {
    const int64_t most = std::max<int64_t>((columns + 15) / 16, 1);
    const int64_t parts = std::min(thread_parts(kFlopsACopy * rows * columns), most);
    for_parts(parts, [&](int64_t p) {
      const Stretch stretch(columns, p, parts);
      batch_last_kernels<T>().transpose(data<T>(x), columns, mutable_data<T>(y), rows, rows,
                                        stretch.begin, stretch.end);
    });
  });
  return y;
}

// The first row of a range, the ranges being even by their kept positions and cut at whole cache
// lines of row-major results.
int64_t row_at(const View& view, int64_t range, int64_t ranges) {
  if (range == ranges) return view.rows;
  const int64_t goal = view.work[view.rows] * range / ranges;
  const int64_t row = std::lower_bound(view.work, view.work + view.rows, goal) - view.work;
  return std::min(view.rows, padded(row));
}

Part rows_of(const View& view, const Sharing& sharing, int64_t part, int64_t samples) {
  const int64_t range = sharing.range(part);
  return {row_at(view, range, sharing.ranges), row_at(view, range + 1, sharing.ranges), 0, samples};
}

// y = weight @ x + bias for the rows and samples of a part.
template <class T>
void multiply(const SpmmArgs<T>& args, const Part& part) {
  const auto& kernels = sparse_linear_kernels<T>();
  const Workspace scratch(kernels.spmm_scratch(args, part) * int64_t{sizeof(T)});
  kernels.spmm(args, part, scratch.as<T>());
}

// y = weight @ operand + bias, [batch, rows].
template <class T>
Tensor product(const LinearOperand& operand, const Tensor& stored, const Magnitudes* magnitudes,
               const std::optional<Tensor>& bias, const ViewTensors& tensors, bool row_major) {
  const int64_t batch = operand.batch();
  const View view = tensors.view(operand.features());
  const Weights<T> weights = make_weights<T>(stored, magnitudes);
  const LinearResult result(stored, batch, tensors.rows(), row_major);
  const int64_t moves = kFlopsAMove * (operand.turned() + result.turned()) * padded(batch);
  const int64_t parts =
      thread_parts((tensors.nnz() + tensors.rows()) * position_flops(batch) + moves);
  const Sharing sharing = Sharing::of_product(parts, batch, tensors.nnz(), view, moves > 0);
  for_parts(sharing.parts(), [&](int64_t p) {
    const int64_t first = sharing.first(sharing.group(p));
    const int64_t samples = sharing.samples(sharing.group(p));
    multiply<T>({view, weights, data<T>(bias), samples_from(operand.panel<T>(), first),
                 samples_from(result.panel<T>(), first), samples},
                rows_of(view, sharing, p, samples));
  });
  return result.tensor();
}

// The gradients that are wanted, all in one parallel region: each more would cost its 5 to 9 us.
template <class T>
class Backward {
 public:
  // x is null where the stored elements' gradient is not wanted.
  Backward(const LinearOperand& grad, const LinearOperand* x, const Tensor& stored,
           const Magnitudes* magnitudes, const ViewTensors& tensors,
           const std::vector<int64_t>& wanted)
      : grad_(grad),
        x_(x),
        nnz_(tensors.nnz()),
        view_(tensors.view(grad.features())),
        weights_(make_weights<T>(stored, magnitudes)),
        values_(empty_of(stored, {x == nullptr ? 0 : nnz_})),
        sums_(empty_of(stored, {wanted.at(2) == 0 ? 0 : grad.features()})) {
    STD_TORCH_CHECK(x == nullptr || view_.position == nullptr, "not the view of the stored order");
    if (wanted[0] != kNone) {
      input_.emplace(stored, grad.batch(), tensors.rows(), wanted[0] == kRowMajor);
    }
  }

  Gradients run() {
    const int64_t parts = thread_parts(flops()), batch = grad_.batch();
    const Sharing sharing = x_ == nullptr
                                ? Sharing::of_product(parts, batch, nnz_, view_, grad_.turned() > 0)
                                : Sharing::of_gradients(parts, batch, nnz_, view_);
    // Every group sums over its samples into memory of its own.
    std::vector<Workspace> more;
    for (int64_t g = 1; g < sharing.groups; ++g) {
      more.emplace_back(values_.numel() * int64_t{sizeof(T)});
    }
    const Workspace totals(sharing.groups * sums_.numel() * int64_t{sizeof(double)});
    const auto values = [&](int64_t group) {
      return group == 0 ? mutable_data<T>(values_) : more[group - 1].as<T>();
    };
    if (batch == 0) std::fill_n(mutable_data<T>(values_), values_.numel(), T{0});
    for_parts(sharing.parts(), [&](int64_t p) {
      const int64_t group = sharing.group(p);
      run_part(sharing, p, values(group), totals.as<double>() + group * sums_.numel());
    });
    add_up(sharing.groups, values);
    add_up_sums(sharing.groups, totals.as<double>());
    return {input_ ? input_->tensor() : empty_of(values_, {0}), values_, sums_};
  }

 private:
  int64_t flops() const {
    const int64_t products = (x_ == nullptr ? 0 : 1) + (input_ ? 1 : 0);
    const int64_t turned =
        grad_.turned() + (x_ == nullptr ? 0 : x_->turned()) + (input_ ? input_->turned() : 0);
    return (products * nnz_ + sums_.numel()) * position_flops(grad_.batch()) +
           kFlopsAMove * turned * padded(grad_.batch());
  }

  void run_part(const Sharing& sharing, int64_t p, T* values, double* totals) const {
    const int64_t group = sharing.group(p), features = sums_.numel();
    const int64_t first = sharing.first(group), samples = sharing.samples(group);
    const Part part = rows_of(view_, sharing, p, samples);
    const Panel<const T> grad = samples_from(grad_.panel<T>(), first);
    const Panel<T> input =
        input_ ? samples_from(input_->template panel<T>(), first) : Panel<T>{nullptr, 0, false};
    if (samples == 0) {
      // Only where there is none at all.
    } else if (x_ != nullptr) {
      const GradientsArgs<T> args{view_, weights_, grad,   samples_from(x_->panel<T>(), first),
                                  input, values,   samples};
      const auto& kernels = sparse_linear_kernels<T>();
      const Workspace scratch(kernels.gradients_scratch(args, part) * int64_t{sizeof(T)});
      kernels.gradients(args, part, scratch.as<T>());
    } else if (input_) {
      multiply<T>({view_, weights_, nullptr, grad, input, samples}, part);
    }
    const int64_t range = sharing.range(p), begin = features * range / sharing.ranges;
    const int64_t end = features * (range + 1) / sharing.ranges;
    if (begin == end) return;
    sparse_linear_kernels<T>().feature_sums(grad, samples, begin, end, totals);
    if (sharing.groups == 1)
      std::copy(totals + begin, totals + end, mutable_data<T>(sums_) + begin);
  }

  template <class Values>
  void add_up(int64_t groups, const Values& values) const {
    const int64_t count = values_.numel();
    if (groups == 1 || count == 0) return;
    const int64_t adders = thread_parts(kFlopsACopy * count * (groups - 1));
    for_parts(adders, [&](int64_t a) {
      for (int64_t g = 1; g < groups; ++g) {
        T* to = values(0);
        const T* from = values(g);
        for (int64_t k = count * a / adders; k < count * (a + 1) / adders; ++k) to[k] += from[k];
      }
    });
  }

  void add_up_sums(int64_t groups, const double* totals) const {
    const int64_t features = groups == 1 ? 0 : sums_.numel();
    T* sums = mutable_data<T>(sums_);
    for (int64_t f = 0; f < features; ++f) {
      double total = 0;
      for (int64_t g = 0; g < groups; ++g) total += totals[g * features + f];
      sums[f] = static_cast<T>(total);
    }
  }

  const LinearOperand& grad_;
  const LinearOperand* x_;
  int64_t nnz_;
  View view_;
  Weights<T> weights_;
  std::optional<LinearResult> input_;
  Tensor values_, sums_;
};

// y = weight @ x + bias for one sample, by the view of the weight's transpose. Every part sums into
// memory of its own.
template <class T>
Tensor forward_one(const Tensor& x, const Tensor& stored, const Magnitudes* magnitudes,
                   const std::optional<Tensor>& bias, const ViewTensors& transposed, int64_t out) {
  const LinearOperand operand(x);
  Tensor y = empty_of(stored, {1, out});
  SpmmArgs<T> args{transposed.view(out), make_weights<T>(stored, magnitudes), nullptr,
                   operand.panel<T>(),   {mutable_data<T>(y), 1, false},      1};
  const int64_t parts = thread_parts(2 * kLanePadding * transposed.nnz());
  const Workspace memory((parts - 1) * out * int64_t{sizeof(T)});
  const auto sums = [&](int64_t p) {
    return p == 0 ? args.y.data : memory.as<T>() + (p - 1) * out;
  };
  for_parts(parts, [&](int64_t p) {
    SpmmArgs<T> part = args;
    part.y.data = sums(p);
    if (p == 0 && bias.has_value()) {
      std::copy_n(data<T>(*bias), out, sums(p));
    } else {
      std::fill_n(sums(p), out, T{0});
    }
    sparse_linear_kernels<T>().spmv_transposed(
        part, {row_at(args.view, p, parts), row_at(args.view, p + 1, parts), 0, 1});
  });
  for (int64_t p = 1; p < parts; ++p) {
    for (int64_t i = 0; i < out; ++i) args.y.data[i] += sums(p)[i];
  }
  return y;
}

// out_features: of the weight whose transpose the view is, where x is one sample; else 0.
Tensor forward(const Tensor& x, const Tensor& stored, const Magnitudes* magnitudes,
               const std::optional<Tensor>& bias, const ViewTensors& view, bool row_major,
               int64_t out_features) {
  Tensor y;
  with_type(x, [&]<class T>(T*) {
    if (out_features > 0) {
      STD_TORCH_CHECK(x.size(0) == 1, "a transposed view serves one sample");
      y = forward_one<T>(x, stored, magnitudes, bias, view, out_features);
      return;
    }
    const LinearOperand operand(x);
    y = product<T>(operand, stored, magnitudes, bias, view, row_major);
  });
  return y;
}

// x is read for the stored elements' gradient alone.
Gradients backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& stored,
                   const Magnitudes* magnitudes, const ViewTensors& transposed,
                   const std::vector<int64_t>& wanted) {
  const LinearOperand gradient(grad);
  std::optional<LinearOperand> operand;
  if (wanted.at(1) != 0) operand.emplace(x.value());
  Gradients gradients;
  with_type(stored, [&]<class T>(T*) {
    Backward<T> job(gradient, operand ? &*operand : nullptr, stored, magnitudes, transposed,
                    wanted);
    gradients = job.run();
  });
  return gradients;
}

Tensor sparse_linear(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                     const Tensor& begin, const Tensor& index,
                     const std::optional<Tensor>& position, const Tensor& work, int64_t block,
                     bool row_major, int64_t out_features) {
  return forward(x, values, nullptr, bias, {begin, index, position, work, block}, row_major,
                 out_features);
}

Gradients sparse_linear_backward(const Tensor& grad, const std::optional<Tensor>& x,
                                 const Tensor& values, const Tensor& begin, const Tensor& index,
                                 const std::optional<Tensor>& position, const Tensor& work,
                                 int64_t block, std::vector<int64_t> wanted) {
  return backward(grad, x, values, nullptr, {begin, index, position, work, block}, wanted);
}

Tensor sign_linear(const Tensor& x, const Tensor& scores, const std::optional<Tensor>& magnitudes,
                   double constant, const std::optional<Tensor>& bias, const Tensor& begin,
                   const Tensor& index, const std::optional<Tensor>& position, const Tensor& work,
                   int64_t block, bool row_major, int64_t out_features) {
  const Magnitudes sign{magnitudes, constant};
  return forward(x, scores, &sign, bias, {begin, index, position, work, block}, row_major,
                 out_features);
}

Gradients sign_linear_backward(const Tensor& grad, const std::optional<Tensor>& x,
                               const Tensor& scores, const std::optional<Tensor>& magnitudes,
                               double constant, const Tensor& begin, const Tensor& index,
                               const std::optional<Tensor>& position, const Tensor& work,
                               int64_t block, std::vector<int64_t> wanted) {
  const Magnitudes sign{magnitudes, constant};
  return backward(grad, x, scores, &sign, {begin, index, position, work, block}, wanted);
}

const std::optional<Tensor> kNoTensor;

int64_t sign_codes_update(const Tensor& scores, Tensor negative, Tensor stored, Tensor forward,
                          const Tensor& place) {
  return update({scores, negative, stored, forward, place});
}

// The forward product with codes of columns and signs in the place of the view's index, brought up
// to the scores first; the second result is how many signs had changed.
std::tuple<Tensor, int64_t> coded_linear(const Tensor& x, const Tensor& scores, double constant,
                                         const std::optional<Tensor>& bias, Tensor negative,
                                         Tensor stored, Tensor codes, const Tensor& place,
                                         const Tensor& begin, const Tensor& work, int64_t block,
                                         bool row_major) {
  STD_TORCH_CHECK(block <= kCodedColumn + 1, "a code has no room for the column");
  const int64_t changed = update({scores, negative, stored, codes, place});
  const Magnitudes sign{kNoTensor, constant, true};
  const ViewTensors view{begin, codes, kNoTensor, work, block};
  return {forward(x, x, &sign, bias, view, row_major, 0), changed};
}

Gradients coded_linear_backward(const Tensor& grad, const std::optional<Tensor>& x, double constant,
                                const Tensor& codes, const Tensor& begin, const Tensor& work,
                                int64_t block, std::vector<int64_t> wanted) {
  STD_TORCH_CHECK(block <= kCodedColumn + 1, "a code has no room for the column");
  const Magnitudes sign{kNoTensor, constant, true};
  return backward(grad, x, grad, &sign, {begin, codes, kNoTensor, work, block}, wanted);
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa_in_use));
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("transpose", TORCH_BOX(&transpose));
  m.impl("sparse_linear", TORCH_BOX(&sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparse_linear_backward));
  m.impl("sign_linear", TORCH_BOX(&sign_linear));
  m.impl("sign_linear_backward", TORCH_BOX(&sign_linear_backward));
  m.impl("sign_codes_update", TORCH_BOX(&sign_codes_update));
  m.impl("coded_linear", TORCH_BOX(&coded_linear));
  m.impl("coded_linear_backward", TORCH_BOX(&coded_linear_backward));
}

}  // namespace
}  // namespace sparsefl
