// sparse_linear, sign_linear and the transposition into batch-last memory, for torch's CPU backend.
// Operands are feature-major: [features, batch], contiguous.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "cpu/batch_last.h"
#include "cpu/isa.h"
#include "cpu/sparse_linear.h"

namespace sparsefl {
namespace {

std::string isa_in_use() { return isa_name(isa()); }

// What moving an element costs, in flops: it waits for memory where a kernel reads its cache.
constexpr int64_t kFlopsACopy = 32;

template <class T>
void transpose_into(const T* from, int64_t ld_from, T* to, int64_t ld_to, int64_t rows,
                    int64_t columns) {
  const int64_t most = std::max<int64_t>((columns + 15) / 16, 1);
  const int64_t parts = std::min(thread_parts(kFlopsACopy * rows * columns), most);
  for_parts(parts, [&](int64_t part) {
    const int64_t step = (columns + 16 * parts - 1) / (16 * parts) * 16;
    const int64_t begin = std::min(columns, part * step), end = std::min(columns, begin + step);
    batch_last_kernels<T>().transpose(from, ld_from, to, ld_to, rows, begin, end);
  });
}

Tensor transpose(const Tensor& x) {
  const int64_t rows = x.size(0), columns = x.size(1);
  Tensor y = empty_of(x, {columns, rows});
  with_type(x, [&]<class T>(T*) {
    transpose_into(data<T>(x), columns, mutable_data<T>(y), rows, rows, columns);
  });
  return y;
}

// A sample-major operand [batch, features] as the kernels read it: feature-major, its rows readable
// up to the next multiple of kLanePadding samples.
struct Operand {
  Tensor tensor;
  int64_t features, batch, ld;
  bool batch_last;  // how the operand lay: batch innermost, or row-major
};

bool is_batch_last(const Tensor& x) {
  return x.stride(0) == 1 && (x.size(1) <= 1 || x.stride(1) == x.size(0));
}

template <class T>
void fill_padding(T* to, int64_t features, int64_t batch, int64_t ld) {
  for (int64_t f = 0; f < features; ++f) std::fill(to + f * ld + batch, to + (f + 1) * ld, T{0});
}

Operand read_operand(const Tensor& x) {
  const int64_t batch = x.size(0), features = x.size(1);
  const int64_t ld = (batch + kLanePadding - 1) / kLanePadding * kLanePadding;
  const bool batch_last = is_batch_last(x);
  if (batch_last && ld == batch) return {x, features, batch, ld, true};
  const Tensor source = batch_last ? x : torch::stable::contiguous(x);
  Operand operand{empty_of(x, {features, ld}), features, batch, ld, batch_last};
  with_type(x, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(source.const_data_ptr());
    T* to = mutable_data<T>(operand.tensor);
    if (batch_last) {
      for (int64_t f = 0; f < features; ++f) {
        std::copy(from + f * batch, from + (f + 1) * batch, to + f * ld);
      }
    } else {
      transpose_into(from, features, to, ld, batch, features);
    }
    fill_padding(to, features, batch, ld);
  });
  return operand;
}

View make_view(const Tensor& begin, const Tensor& index, const std::optional<Tensor>& position,
               const Tensor& work, int64_t columns, int64_t block) {
  return {work.numel() - 1,
          columns,
          block,
          data<int32_t>(begin),
          reinterpret_cast<const uint16_t*>(data<int16_t>(index)),
          data<int32_t>(position),
          data<int64_t>(work)};
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

// The tensors of a view, in the operators' order.
struct ViewTensors {
  const Tensor &begin, &index;
  const std::optional<Tensor>& position;
  const Tensor& work;
  int64_t block;

  View view(int64_t columns) const {
    return make_view(begin, index, position, work, columns, block);
  }
};

// weight @ operand + bias, [rows, batch].
Tensor multiply(const Operand& operand, const Tensor& stored, const Magnitudes* magnitudes,
                const std::optional<Tensor>& bias, const ViewTensors& tensors) {
  const View view = tensors.view(operand.features);
  Tensor y = empty_of(stored, {view.rows, operand.batch});
  with_type(stored, [&]<class T>(T*) {
    const SpmmArgs<T> args{view,          make_weights<T>(stored, magnitudes),
                           data<T>(bias), static_cast<const T*>(operand.tensor.const_data_ptr()),
                           operand.ld,    mutable_data<T>(y),
                           operand.batch, operand.batch};
    const auto& kernels = sparse_linear_kernels<T>();
    const int64_t flops = 2 * (tensors.index.numel() + view.rows) * operand.batch;
    const int64_t parts = thread_parts(flops);
    for_parts(parts, [&](int64_t p) {
      const Part part = part_of(view, operand.batch, p, parts);
      kernels.spmm(args, part, workspace<T>(kernels.spmm_scratch(args, part)));
    });
  });
  return y;
}

// sum_n grad[row, n] * x[column, n] on the support, [nnz].
Tensor sample(const Operand& grad, const Operand& x, const Magnitudes* magnitudes,
              const ViewTensors& tensors) {
  const View view = tensors.view(x.features);
  Tensor grad_stored = empty_of(x.tensor, {tensors.index.numel()});
  with_type(grad_stored, [&]<class T>(T*) {
    if (x.batch == 0) {
      std::fill_n(mutable_data<T>(grad_stored), tensors.index.numel(), T{0});
      return;
    }
    const SddmmArgs<T> args{view,
                            make_weights<T>(grad_stored, magnitudes),
                            static_cast<const T*>(grad.tensor.const_data_ptr()),
                            grad.ld,
                            static_cast<const T*>(x.tensor.const_data_ptr()),
                            x.ld,
                            mutable_data<T>(grad_stored),
                            x.batch};
    const int64_t parts = thread_parts(2 * tensors.index.numel() * x.batch);
    for_parts(parts, [&](int64_t p) {
      const int64_t end = p + 1 == parts ? view.rows : row_at(view, p + 1, parts);
      sparse_linear_kernels<T>().sddmm(args, {row_at(view, p, parts), end, 0, x.batch});
    });
  });
  return grad_stored;
}

// Sums in lanes and in double between stretches of them, so that a long batch loses no precision.
template <class T>
T sum(const T* x, int64_t n) {
  constexpr int64_t kLanes = 16, kStretch = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const int64_t end = std::min(n, begin + kStretch);
    T lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
    }
    for (; i < end; ++i) lanes[i - end + kLanes] += x[i];
    for (T lane : lanes) total += lane;
  }
  return static_cast<T>(total);
}

Tensor bias_gradient(const Operand& grad) {
  Tensor sums = empty_of(grad.tensor, {grad.features});
  with_type(sums, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(grad.tensor.const_data_ptr());
    T* to = mutable_data<T>(sums);
    const int64_t parts = thread_parts(grad.features * grad.batch);
    for_parts(parts, [&](int64_t p) {
      const int64_t end = grad.features * (p + 1) / parts;
      for (int64_t f = grad.features * p / parts; f < end; ++f) {
        to[f] = sum(from + f * grad.ld, grad.batch);
      }
    });
  });
  return sums;
}

Tensor forward(const Tensor& x, const Tensor& stored, const Magnitudes* magnitudes,
               const std::optional<Tensor>& bias, const ViewTensors& view) {
  return torch::stable::transpose(multiply(read_operand(x), stored, magnitudes, bias, view), 0, 1);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// What a backward is asked for, in this order: the input's gradient (kNone, kBatchLast or
// kRowMajor, the memory order of the input), the stored elements' and the bias's.
enum Wanted : int64_t { kNone = 0, kBatchLast = 1, kRowMajor = 2 };

// What is not wanted comes back empty; x is read for the stored elements' gradient alone.
Gradients backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& stored,
                   const Magnitudes* magnitudes, const ViewTensors& view,
                   const ViewTensors& transposed, const std::vector<int64_t>& wanted) {
  const Operand gradient = read_operand(grad);
  Tensor grad_x = empty_of(stored, {0}), grad_stored = empty_of(stored, {0}),
         grad_bias = empty_of(stored, {0});
  if (wanted.at(0) != kNone) {
    const Tensor flat = multiply(gradient, stored, magnitudes, std::nullopt, transposed);
    grad_x = wanted[0] == kBatchLast ? torch::stable::transpose(flat, 0, 1) : transpose(flat);
  }
  if (wanted.at(1) != 0) {
    grad_stored = sample(gradient, read_operand(x.value()), magnitudes, view);
  }
  if (wanted.at(2) != 0) grad_bias = bias_gradient(gradient);
  return {grad_x, grad_stored, grad_bias};
}

Tensor sparse_linear(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                     const Tensor& begin, const Tensor& index,
                     const std::optional<Tensor>& position, const Tensor& work, int64_t block) {
  return forward(x, values, nullptr, bias, {begin, index, position, work, block});
}

Gradients sparse_linear_backward(const Tensor& grad, const std::optional<Tensor>& x,
                                 const Tensor& values, const Tensor& begin, const Tensor& index,
                                 const std::optional<Tensor>& position, const Tensor& work,
                                 int64_t block, const Tensor& begin_t, const Tensor& index_t,
                                 const std::optional<Tensor>& position_t, const Tensor& work_t,
                                 int64_t block_t, std::vector<int64_t> wanted) {
  return backward(grad, x, values, nullptr, {begin, index, position, work, block},
                  {begin_t, index_t, position_t, work_t, block_t}, wanted);
}

Tensor sign_linear(const Tensor& x, const Tensor& scores, const std::optional<Tensor>& magnitudes,
                   double constant, const std::optional<Tensor>& bias, const Tensor& begin,
                   const Tensor& index, const std::optional<Tensor>& position, const Tensor& work,
                   int64_t block) {
  const Magnitudes sign{magnitudes, constant};
  return forward(x, scores, &sign, bias, {begin, index, position, work, block});
}

Gradients sign_linear_backward(const Tensor& grad, const std::optional<Tensor>& x,
                               const Tensor& scores, const std::optional<Tensor>& magnitudes,
                               double constant, const Tensor& begin, const Tensor& index,
                               const std::optional<Tensor>& position, const Tensor& work,
                               int64_t block, const Tensor& begin_t, const Tensor& index_t,
                               const std::optional<Tensor>& position_t, const Tensor& work_t,
                               int64_t block_t, std::vector<int64_t> wanted) {
  const Magnitudes sign{magnitudes, constant};
  return backward(grad, x, scores, &sign, {begin, index, position, work, block},
                  {begin_t, index_t, position_t, work_t, block_t}, wanted);
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
