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

// The rows of a part, shared out evenly by their kept positions, and all samples.
Part rows_of(const View& view, int64_t part, int64_t parts, int64_t batch) {
  const int64_t end = part + 1 == parts ? view.rows : row_at(view, part + 1, parts);
  return {row_at(view, part, parts), end, 0, batch};
}

// y = weight @ x + bias for the rows and samples of a part.
template <class T>
void multiply(const View& view, const Weights<T>& weights, const T* bias, const Panel<const T>& x,
              const Panel<T>& y, const Part& part) {
  const SpmmArgs<T> args{view, weights, bias, x.data, x.ld, y.data, y.ld, part.lane_end};
  const auto& kernels = sparse_linear_kernels<T>();
  const Workspace scratch(kernels.spmm_scratch(args, part) * int64_t{sizeof(T)});
  kernels.spmm(args, part, scratch.as<T>());
}

// y = weight @ operand + bias, [batch, rows].
template <class T>
Tensor product(LinearOperand& operand, const Tensor& stored, const Magnitudes* magnitudes,
               const std::optional<Tensor>& bias, const ViewTensors& tensors, bool row_major) {
  const int64_t batch = operand.batch();
  const View view = tensors.view(operand.features());
  const Weights<T> weights = make_weights<T>(stored, magnitudes);
  LinearResult result(stored, batch, tensors.rows(), row_major);
  const int64_t features = operand.tile_features() + result.tile_features();
  const bool few = tensors.nnz() <= 2 * batch * (view.columns + view.rows);
  const Sharing sharing(batch, (tensors.nnz() + tensors.rows()) * position_flops(batch),
                        kTileSamples, features * int64_t{sizeof(T)}, few);
  if (sharing.by_rows()) {
    result.reserve();
    read_operands<T>({&operand});
    for_parts(sharing.parts, [&](int64_t p) {
      const Part part = rows_of(view, p, sharing.parts, batch);
      multiply(view, weights, data<T>(bias), operand.whole<T>(), result.whole<T>(), part);
      result.turn({0, batch}, result.whole<T>(), part.row_begin, part.row_end);
    });
    return result.tensor();
  }
  for_parts(sharing.parts, [&](int64_t p) {
    const Workspace x_memory = operand.tile_memory<T>(sharing.tile);
    const Workspace y_memory = result.tile_memory<T>(sharing.tile);
    sharing.for_tiles(batch, p, [&](const Tile& tile) {
      const Panel<T> y = result.tile(tile, y_memory.as<T>());
      multiply(view, weights, data<T>(bias), operand.tile(tile, x_memory.as<T>()), y,
               {0, view.rows, 0, tile.samples});
      result.turn(tile, y, 0, view.rows);
    });
  });
  return result.tensor();
}

// The gradients that are wanted, all in one parallel region: each more would cost its 5 to 9 us.
template <class T>
class Backward {
 public:
  // x is null where the stored elements' gradient is not wanted.
  Backward(LinearOperand& grad, LinearOperand* x, const Tensor& stored,
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
    // Every part sums the stored elements' gradient over its samples by itself.
    const bool few = 4 * nnz_ <= 3 * grad_.batch() * (view_.columns + 2 * view_.rows);
    Sharing sharing(grad_.batch(), flops(), (x_ == nullptr ? 1 : 2) * kTileSamples,
                    tile_features() * int64_t{sizeof(T)}, few);
    if (x_ != nullptr && !few) sharing.tile = 0;
    if (sharing.by_rows()) {
      run_rows(sharing.parts);
    } else {
      run_samples(sharing);
    }
    return {input_ ? input_->tensor() : empty_of(values_, {0}), values_, sums_};
  }

 private:
  int64_t flops() const {
    const int64_t products = (x_ == nullptr ? 0 : 1) + (input_ ? 1 : 0);
    return (products * nnz_ + sums_.numel()) * position_flops(grad_.batch());
  }

  int64_t tile_features() const {
    return grad_.tile_features() + (x_ == nullptr ? 0 : x_->tile_features()) +
           (input_ ? input_->tile_features() : 0);
  }

  // `adds`: to `values`, the stored elements' gradient.
  void meet(const Panel<const T>& grad, const Panel<const T>& x, const Panel<T>& y,
            const Part& part, T* values, bool adds) const {
    if (part.lane_end == 0) return;
    if (x_ == nullptr) {
      if (input_) multiply<T>(view_, weights_, nullptr, grad, y, part);
      return;
    }
    const GradientsArgs<T> args{view_,  weights_, grad.data, grad.ld,       x.data, x.ld,
                                y.data, y.ld,     values,    part.lane_end, adds};
    const auto& kernels = sparse_linear_kernels<T>();
    const Workspace scratch(kernels.gradients_scratch(args) * int64_t{sizeof(T)});
    kernels.gradients(args, part, scratch.as<T>());
  }

  void run_rows(int64_t parts) {
    const int64_t batch = grad_.batch(), features = sums_.numel();
    if (batch == 0) std::fill_n(mutable_data<T>(values_), values_.numel(), T{0});
    if (input_) input_->reserve();
    read_operands<T>({&grad_, x_});
    const Panel<const T> grad = grad_.whole<T>();
    const Panel<const T> x = x_ == nullptr ? Panel<const T>{} : x_->whole<T>();
    const Panel<T> y = input_ ? input_->whole<T>() : Panel<T>{};
    for_parts(parts, [&](int64_t p) {
      const Part part = rows_of(view_, p, parts, batch);
      meet(grad, x, y, part, mutable_data<T>(values_), false);
      if (input_) input_->turn({0, batch}, y, part.row_begin, part.row_end);
      sparse_linear_kernels<T>().row_sums(grad.data, grad.ld, batch, features * p / parts,
                                          features * (p + 1) / parts, mutable_data<T>(sums_));
    });
  }

  // Every part sums over its samples into memory of its own.
  void run_samples(const Sharing& sharing) {
    const int64_t parts = sharing.parts, features = sums_.numel();
    std::vector<Workspace> more;
    for (int64_t p = 1; p < parts; ++p) more.emplace_back(values_.numel() * int64_t{sizeof(T)});
    const Workspace totals(parts * features * int64_t{sizeof(double)});
    const auto values = [&](int64_t p) {
      return p == 0 ? mutable_data<T>(values_) : more[p - 1].as<T>();
    };
    for_parts(parts, [&](int64_t p) {
      run_tiles(sharing, p, values(p), totals.as<double>() + p * features);
    });
    const int64_t count = values_.numel(), adders = thread_parts(kFlopsACopy * count * (parts - 1));
    for_parts(adders, [&](int64_t a) {
      for (int64_t p = 1; p < parts; ++p) {
        T* to = values(0);
        const T* from = values(p);
        for (int64_t k = count * a / adders; k < count * (a + 1) / adders; ++k) to[k] += from[k];
      }
    });
    T* sums = mutable_data<T>(sums_);
    for (int64_t f = 0; f < features; ++f) {
      double total = 0;
      for (int64_t p = 0; p < parts; ++p) total += totals.as<double>()[p * features + f];
      sums[f] = static_cast<T>(total);
    }
  }

  void run_tiles(const Sharing& sharing, int64_t p, T* values, double* totals) const {
    const int64_t features = sums_.numel();
    const auto memory = [&](const auto* matrix) {
      return matrix == nullptr ? Workspace(0) : matrix->template tile_memory<T>(sharing.tile);
    };
    const Workspace grad_memory = memory(&grad_), x_memory = memory(x_);
    const Workspace y_memory = memory(input_ ? &*input_ : nullptr);
    const Workspace sums(features * int64_t{sizeof(T)});
    std::fill_n(totals, features, 0.0);
    bool adds = false;
    sharing.for_tiles(grad_.batch(), p, [&](const Tile& tile) {
      const Panel<const T> grad = grad_.tile(tile, grad_memory.as<T>());
      const Panel<const T> x = x_ == nullptr ? Panel<const T>{} : x_->tile(tile, x_memory.as<T>());
      const Panel<T> y = input_ ? input_->tile(tile, y_memory.as<T>()) : Panel<T>{};
      meet(grad, x, y, {0, view_.rows, 0, tile.samples}, values, adds);
      if (input_) input_->turn(tile, y, 0, view_.rows);
      sparse_linear_kernels<T>().row_sums(grad.data, grad.ld, tile.samples, 0, features,
                                          sums.as<T>());
      for (int64_t f = 0; f < features; ++f) totals[f] += sums.as<T>()[f];
      adds = true;
    });
    if (!adds) std::fill_n(values, values_.numel(), T{0});
  }

  LinearOperand& grad_;
  LinearOperand* x_;
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
  SpmmArgs<T> args{transposed.view(out),
                   make_weights<T>(stored, magnitudes),
                   nullptr,
                   operand.whole<T>().data,
                   1,
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
    LinearOperand operand(x);
    y = product<T>(operand, stored, magnitudes, bias, view, row_major);
  });
  return y;
}

// x is read for the stored elements' gradient alone.
Gradients backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& stored,
                   const Magnitudes* magnitudes, const ViewTensors& transposed,
                   const std::vector<int64_t>& wanted) {
  LinearOperand gradient(grad);
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
