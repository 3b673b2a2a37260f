// sparse_linear, sign_linear and the transposition into batch-last memory, for torch's CPU backend.
// Operands are feature-major: [features, batch], contiguous.

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "cpu/batch_last.h"
#include "cpu/isa.h"
#include "cpu/sparse_linear.h"

namespace sparsefl {
namespace {

std::string isa_in_use() { return isa_name(isa()); }

template <class T>
void transpose_into(const T* from, int64_t ld_from, T* to, int64_t ld_to, int64_t rows,
                    int64_t columns) {
  // A copied element weighs as much as some four flops.
  const int64_t most = std::max<int64_t>((columns + 15) / 16, 1);
  const int64_t parts = std::min(thread_parts(4 * rows * columns), most);
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

// An operand whose rows can be read up to the next multiple of kLanePadding samples.
struct Padded {
  Tensor tensor;
  int64_t ld;
};

Padded pad_lanes(const Tensor& x) {
  const int64_t rows = x.size(0), batch = x.size(1);
  const int64_t ld = (batch + kLanePadding - 1) / kLanePadding * kLanePadding;
  if (ld == batch) return {x, batch};
  Tensor padded = empty_of(x, {rows, ld});
  with_type(x, [&]<class T>(T*) {
    const T* from = data<T>(x);
    T* to = mutable_data<T>(padded);
    const int64_t parts = thread_parts(4 * rows * ld);
    for_parts(parts, [&](int64_t part) {
      for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; ++r) {
        std::copy(from + r * batch, from + (r + 1) * batch, to + r * ld);
        std::fill(to + r * ld + batch, to + (r + 1) * ld, T{0});
      }
    });
  });
  return {padded, ld};
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

Tensor multiply(const Tensor& x, const Tensor& values, const Magnitudes* magnitudes,
                const std::optional<Tensor>& bias, const Tensor& begin, const Tensor& index,
                const std::optional<Tensor>& position, const Tensor& work, int64_t block) {
  const View view = make_view(begin, index, position, work, x.size(0), block);
  const int64_t batch = x.size(1);
  Tensor y = empty_of(x, {view.rows, batch});
  const Padded operand = pad_lanes(x);
  with_type(x, [&]<class T>(T*) {
    const SpmmArgs<T> args{view,          make_weights<T>(values, magnitudes),
                           data<T>(bias), data<T>(operand.tensor),
                           operand.ld,    mutable_data<T>(y),
                           batch,         batch};
    const auto& kernels = sparse_linear_kernels<T>();
    const int64_t parts = thread_parts(2 * (index.numel() + view.rows) * batch);
    for_parts(parts, [&](int64_t p) {
      const Part part = part_of(view, batch, p, parts);
      kernels.spmm(args, part, workspace<T>(kernels.spmm_scratch(args, part)));
    });
  });
  return y;
}

Tensor sample(const Tensor& grad, const Tensor& x, const Magnitudes* magnitudes,
              const Tensor& begin, const Tensor& index, const Tensor& work, int64_t block) {
  const View view = make_view(begin, index, std::nullopt, work, x.size(0), block);
  Tensor grad_values = empty_of(x, {index.numel()});
  const Padded operand = pad_lanes(x), gradient = pad_lanes(grad);
  with_type(x, [&]<class T>(T*) {
    if (x.size(1) == 0) {
      std::fill_n(mutable_data<T>(grad_values), index.numel(), T{0});
      return;
    }
    const SddmmArgs<T> args{view,
                            make_weights<T>(grad_values, magnitudes),
                            data<T>(gradient.tensor),
                            gradient.ld,
                            data<T>(operand.tensor),
                            operand.ld,
                            mutable_data<T>(grad_values),
                            x.size(1)};
    const int64_t parts = thread_parts(2 * index.numel() * x.size(1));
    for_parts(parts, [&](int64_t p) {
      const int64_t end = p + 1 == parts ? view.rows : row_at(view, p + 1, parts);
      sparse_linear_kernels<T>().sddmm(args, {row_at(view, p, parts), end, 0, x.size(1)});
    });
  });
  return grad_values;
}

Tensor sparse_linear(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                     const Tensor& begin, const Tensor& index,
                     const std::optional<Tensor>& position, const Tensor& work, int64_t block) {
  return multiply(x, values, nullptr, bias, begin, index, position, work, block);
}

Tensor sparse_linear_grad(const Tensor& grad, const Tensor& x, const Tensor& begin,
                          const Tensor& index, const Tensor& work, int64_t block) {
  return sample(grad, x, nullptr, begin, index, work, block);
}

Tensor sign_linear(const Tensor& x, const Tensor& scores, const std::optional<Tensor>& magnitudes,
                   double constant, const std::optional<Tensor>& bias, const Tensor& begin,
                   const Tensor& index, const std::optional<Tensor>& position, const Tensor& work,
                   int64_t block) {
  const Magnitudes sign{magnitudes, constant};
  return multiply(x, scores, &sign, bias, begin, index, position, work, block);
}

Tensor sign_linear_grad(const Tensor& grad, const Tensor& x,
                        const std::optional<Tensor>& magnitudes, double constant,
                        const Tensor& begin, const Tensor& index, const Tensor& work,
                        int64_t block) {
  const Magnitudes sign{magnitudes, constant};
  return sample(grad, x, &sign, begin, index, work, block);
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa_in_use));
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("transpose", TORCH_BOX(&transpose));
  m.impl("sparse_linear", TORCH_BOX(&sparse_linear));
  m.impl("sparse_linear_grad", TORCH_BOX(&sparse_linear_grad));
  m.impl("sign_linear", TORCH_BOX(&sign_linear));
  m.impl("sign_linear_grad", TORCH_BOX(&sign_linear_grad));
}

}  // namespace
}  // namespace sparsefl
