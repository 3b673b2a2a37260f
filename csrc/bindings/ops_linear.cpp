// sparse_linear, sign_linear and the transposition into batch-last memory, for torch's CPU backend.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/operand.h"
#include "bindings/parallel.h"
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

// Rows [part / parts, (part + 1) / parts) of the work.
int64_t row_at(const View& view, int64_t part, int64_t parts) {
  const int64_t goal = view.work[view.rows] * part / parts;
  return std::lower_bound(view.work, view.work + view.rows, goal) - view.work;
}

// Many lanes are shared out by lanes, so that a thread reads its part of the operand once; few by
// rows, evenly by their kept positions.
Part part_of(const View& view, int64_t batch, int64_t part, int64_t parts) {
  constexpr int64_t kTile = 64, kTilesAThread = 4;
  if (batch >= kTile * kTilesAThread * parts) {
    const int64_t tiles = (batch + kTile - 1) / kTile;
    return {0, view.rows, tiles * part / parts * kTile,
            std::min(batch, tiles * (part + 1) / parts * kTile)};
  }
  return {row_at(view, part, parts), part + 1 == parts ? view.rows : row_at(view, part + 1, parts),
          0, batch};
}

// A result [batch, features] that kernels write batch-last, and that may be wanted row-major.
template <class T>
class Output {
 public:
  Output(const Tensor& like, int64_t batch, int64_t features, bool row_major)
      : features_(features),
        turns_(row_major && batch != 1),
        ld_(turns_ ? padded(batch) : batch),
        result_(row_major ? empty_of(like, {batch, features})
                          : empty_batch_last(like, {batch, features})),
        memory_(turns_ ? ld_ * features * int64_t{sizeof(T)} : 0) {}

  T* data() const { return turns_ ? memory_.as<T>() : mutable_data<T>(result_); }
  int64_t ld() const { return ld_; }
  const Tensor& result() const { return result_; }

  // What a part has just written is still in its caches.
  void turn(const Part& part) const {
    if (!turns_) return;
    batch_last_kernels<T>().transpose(
        data() + part.row_begin * ld_, ld_, mutable_data<T>(result_) + part.row_begin, features_,
        part.row_end - part.row_begin, part.lane_begin, part.lane_end);
  }

 private:
  int64_t features_;
  bool turns_;
  int64_t ld_;
  Tensor result_;
  Workspace memory_;
};

// y = weight @ operand + bias, [batch, rows].
template <class T>
class Product {
 public:
  Product(const Operand& operand, const Tensor& stored, const Magnitudes* magnitudes,
          const std::optional<Tensor>& bias, const ViewTensors& tensors, bool row_major)
      : flops_(2 * (tensors.nnz() + tensors.rows()) * padded(operand.batch())),
        output_(stored, operand.batch(), tensors.rows(), row_major),
        args_{tensors.view(operand.features()),
              make_weights<T>(stored, magnitudes),
              sparsefl::data<T>(bias),
              operand.data<T>(),
              operand.ld(),
              output_.data(),
              output_.ld(),
              operand.batch()} {}

  int64_t flops() const { return flops_; }
  const Tensor& result() const { return output_.result(); }

  void run(int64_t p, int64_t parts) const {
    const Part part = part_of(args_.view, args_.batch, p, parts);
    const auto& kernels = sparse_linear_kernels<T>();
    const Workspace scratch(kernels.spmm_scratch(args_, part) * int64_t{sizeof(T)});
    kernels.spmm(args_, part, scratch.as<T>());
    output_.turn(part);
  }

 private:
  int64_t flops_;
  Output<T> output_;
  SpmmArgs<T> args_;
};

// The stored elements' gradient, [nnz], and the input's, [batch, rows], if that is wanted.
template <class T>
class BothGradients {
 public:
  BothGradients(const Operand& grad, const Operand& x, const Tensor& stored,
                const Magnitudes* magnitudes, const ViewTensors& tensors, int64_t wanted_input)
      : flops_((wanted_input == kNone ? 2 : 4) * tensors.nnz() * padded(x.batch())),
        values_(empty_of(stored, {tensors.nnz()})),
        args_{tensors.view(grad.features()),
              make_weights<T>(stored, magnitudes),
              grad.data<T>(),
              grad.ld(),
              x.data<T>(),
              x.ld(),
              nullptr,
              0,
              mutable_data<T>(values_),
              x.batch()} {
    STD_TORCH_CHECK(args_.view.position == nullptr, "the view is not that of the stored order");
    if (wanted_input != kNone) {
      input_.emplace(stored, x.batch(), tensors.rows(), wanted_input == kRowMajor);
      args_.grad_x = input_->data();
      args_.ld_grad_x = input_->ld();
    }
    if (x.batch() == 0) std::fill_n(args_.grad_values, tensors.nnz(), T{0});
  }

  int64_t flops() const { return flops_; }
  Tensor values() const { return values_; }
  const Tensor* input() const { return input_ ? &input_->result() : nullptr; }

  void run(int64_t p, int64_t parts) const {
    if (args_.batch == 0) return;
    const View& view = args_.view;
    const int64_t end = p + 1 == parts ? view.rows : row_at(view, p + 1, parts);
    const Part part{row_at(view, p, parts), end, 0, args_.batch};
    const auto& kernels = sparse_linear_kernels<T>();
    const Workspace scratch(kernels.gradients_scratch(args_) * int64_t{sizeof(T)});
    kernels.gradients(args_, part, scratch.as<T>());
    if (input_) input_->turn(part);
  }

 private:
  int64_t flops_;
  Tensor values_;
  std::optional<Output<T>> input_;
  GradientsArgs<T> args_;
};

// sum_n grad[row, n], [rows].
template <class T>
class BiasGradient {
 public:
  BiasGradient(const Operand& grad, const Tensor& like)
      : grad_(grad), result_(empty_of(like, {grad.features()})) {}

  int64_t flops() const { return grad_.features() * grad_.batch(); }
  Tensor result() const { return result_; }

  void run(int64_t p, int64_t parts) const {
    const int64_t features = grad_.features();
    sparse_linear_kernels<T>().row_sums(grad_.data<T>(), grad_.ld(), grad_.batch(),
                                        features * p / parts, features * (p + 1) / parts,
                                        mutable_data<T>(result_));
  }

 private:
  const Operand& grad_;
  Tensor result_;
};

// y = weight @ x + bias for one sample, by the view of the weight's transpose. Every part sums into
// memory of its own.
template <class T>
Tensor forward_one(const Tensor& x, const Tensor& stored, const Magnitudes* magnitudes,
                   const std::optional<Tensor>& bias, const ViewTensors& transposed, int64_t out) {
  const Operand operand(x);
  Tensor y = empty_of(stored, {1, out});
  SpmmArgs<T> args{transposed.view(out),
                   make_weights<T>(stored, magnitudes),
                   nullptr,
                   operand.data<T>(),
                   operand.ld(),
                   mutable_data<T>(y),
                   1,
                   1};
  const int64_t parts = thread_parts(2 * kLanePadding * transposed.nnz());
  const Workspace memory((parts - 1) * out * int64_t{sizeof(T)});
  const auto sums = [&](int64_t p) { return p == 0 ? args.y : memory.as<T>() + (p - 1) * out; };
  for_parts(parts, [&](int64_t p) {
    SpmmArgs<T> part = args;
    part.y = sums(p);
    if (p == 0 && bias.has_value()) {
      std::copy_n(data<T>(*bias), out, part.y);
    } else {
      std::fill_n(part.y, out, T{0});
    }
    const int64_t rows = args.view.rows;
    const int64_t end = p + 1 == parts ? rows : row_at(args.view, p + 1, parts);
    sparse_linear_kernels<T>().spmv_transposed(part, {row_at(args.view, p, parts), end, 0, 1});
  });
  for (int64_t p = 1; p < parts; ++p) {
    for (int64_t i = 0; i < out; ++i) args.y[i] += sums(p)[i];
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
    const Operand operand(x);
    const Product<T> product(operand, stored, magnitudes, bias, view, row_major);
    read_operands<T>(0, {&operand});
    const int64_t parts = thread_parts(product.flops());
    for_parts(parts, [&](int64_t p) { product.run(p, parts); });
    y = product.result();
  });
  return y;
}

// x is read for the stored elements' gradient alone. All gradients are computed in one parallel
// region: each more would cost its 5 to 9 us.
Gradients backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& stored,
                   const Magnitudes* magnitudes, const ViewTensors& transposed,
                   const std::vector<int64_t>& wanted) {
  const Operand gradient(grad);
  std::optional<Operand> operand;
  if (wanted.at(1) != 0) operand.emplace(x.value());
  Gradients gradients;
  with_type(stored, [&]<class T>(T*) {
    std::optional<Product<T>> product;
    std::optional<BothGradients<T>> both;
    std::optional<BiasGradient<T>> sums;
    int64_t flops = 0;
    const auto add = [&](auto& job, const auto&... arguments) {
      flops += job.emplace(arguments...).flops();
    };
    if (operand) {
      add(both, gradient, *operand, stored, magnitudes, transposed, wanted[0]);
    } else if (wanted[0] != kNone) {
      const bool row_major = wanted[0] == kRowMajor;
      add(product, gradient, stored, magnitudes, std::optional<Tensor>(), transposed, row_major);
    }
    if (wanted.at(2) != 0) add(sums, gradient, stored);
    read_operands<T>(0, {&gradient, operand ? &*operand : nullptr});
    const int64_t parts = thread_parts(flops);
    for_parts(parts, [&](int64_t p) {
      if (product) product->run(p, parts);
      if (both) both->run(p, parts);
      if (sums) sums->run(p, parts);
    });
    const Tensor* input = both ? both->input() : product ? &product->result() : nullptr;
    gradients = {input     ? *input
                 : product ? product->result()
                           : empty_of(stored, {0}),
                 both ? both->values() : empty_of(stored, {0}),
                 sums ? sums->result() : empty_of(stored, {0})};
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

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa_in_use));
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("transpose", TORCH_BOX(&transpose));
  m.impl("sparse_linear", TORCH_BOX(&sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparse_linear_backward));
  m.impl("sign_linear", TORCH_BOX(&sign_linear));
  m.impl("sign_linear_backward", TORCH_BOX(&sign_linear_backward));
}

}  // namespace
}  // namespace sparsefl
