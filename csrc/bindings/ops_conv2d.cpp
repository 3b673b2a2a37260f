// sparse_conv2d and sign_conv2d for torch's CPU backend. Operands are [channels, height, width,
// batch], contiguous; so lies a forward's result, but it is seen as [batch, ...].

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "cpu/plan.h"
#include "cpu/sparse_conv2d.h"

namespace sparsefl {
namespace {

// What an operator's `geometry` holds, in this order.
struct Geometry {
  int64_t rows, block, groups;
  Extent y, x;

  explicit Geometry(const std::vector<int64_t>& g)
      : rows(g.at(0)),
        block(g.at(1)),
        groups(g.at(2)),
        y{g.at(3), g.at(5), g.at(7), g.at(9), g.at(11), g.at(13)},
        x{g.at(4), g.at(6), g.at(8), g.at(10), g.at(12), g.at(14)} {}
};

View make_view(const Tensor& begin, const Tensor& index, const std::optional<Tensor>& position,
               const Geometry& g, int64_t columns) {
  return {g.rows,
          columns,
          g.block,
          data<int32_t>(begin),
          reinterpret_cast<const uint16_t*>(data<int16_t>(index)),
          data<int32_t>(position),
          nullptr};
}

template <class T>
void run_gather(const GatherArgs<T>& args, int64_t flops) {
  const auto& kernels = sparse_conv2d_kernels<T>();
  const int64_t items = kernels.items(args.pass);
  const int64_t parts = std::min(thread_parts(flops), std::max<int64_t>(items, 1));
  for_parts(parts, [&](int64_t p) {
    T* scratch = workspace<T>(kernels.gather_scratch(args.view, args.pass));
    kernels.gather(args, items * p / parts, items * (p + 1) / parts, scratch);
  });
}

Tensor forward(const Tensor& x, const Tensor& values, const Magnitudes* magnitudes,
               const std::optional<Tensor>& bias, const Tensor& begin, const Tensor& index,
               const std::vector<int64_t>& geometry) {
  const Geometry g(geometry);
  const int64_t batch = x.size(3);
  Tensor y = empty_batch_last(x, {batch, g.rows, g.y.output, g.x.output});
  std::vector<int32_t> taps_y, taps_x;
  const Pass pass{forward_axis(g.y, taps_y), forward_axis(g.x, taps_x), g.groups, 0, batch};
  const View view =
      make_view(begin, index, std::nullopt, g, x.size(0) / g.groups * g.y.kernel * g.x.kernel);
  with_type(x, [&]<class T>(T*) {
    run_gather<T>({view, pass, make_weights<T>(values, magnitudes), data<T>(bias), data<T>(x),
                   mutable_data<T>(y)},
                  2 * (index.numel() + g.rows) * g.y.output * g.x.output * batch);
  });
  return y;
}

Tensor input_gradient(const Tensor& grad, const Tensor& values, const Magnitudes* magnitudes,
                      const Tensor& begin, const Tensor& index, const Tensor& position,
                      const std::vector<int64_t>& geometry) {
  const Geometry g(geometry);
  const int64_t batch = grad.size(3);
  Tensor grad_x = empty_of(grad, {g.rows, g.y.input, g.x.input, batch});
  const View view =
      make_view(begin, index, position, g, grad.size(0) / g.groups * g.y.kernel * g.x.kernel);
  const int64_t phases = g.y.stride * g.x.stride;
  std::vector<int32_t> taps_y, taps_x;
  with_type(grad, [&]<class T>(T*) {
    for (int64_t phase = 0; phase < phases; ++phase) {
      const Pass pass{transposed_axis(g.y, phase / g.x.stride, taps_y),
                      transposed_axis(g.x, phase % g.x.stride, taps_x), g.groups, phase, batch};
      run_gather<T>({view, pass, make_weights<T>(values, magnitudes), nullptr, data<T>(grad),
                     mutable_data<T>(grad_x)},
                    2 * (index.numel() / phases + g.rows) * pass.y.grid * pass.x.grid * batch);
    }
  });
  return grad_x;
}

// Sums the threads' gradients, in their order, into the first one.
template <class T>
void reduce_parts(T* sums, int64_t parts, int64_t nnz, const Weights<T>& weights) {
  for_parts(nnz < kSerialFlops / 4 ? 1 : parts,
            [&, pieces = nnz < kSerialFlops / 4 ? 1 : parts](int64_t p) {
              const int64_t end = nnz * (p + 1) / pieces;
              for (int64_t part = 1; part < parts; ++part) {
                for (int64_t k = nnz * p / pieces; k < end; ++k) sums[k] += sums[part * nnz + k];
              }
              for (int64_t k = nnz * p / pieces; k < end; ++k) {
                sums[k] *= weights.magnitudes == nullptr ? weights.constant : weights.magnitudes[k];
              }
            });
}

Tensor weight_gradient(const Tensor& grad, const Tensor& x, const Magnitudes* magnitudes,
                       const Tensor& begin, const Tensor& index,
                       const std::vector<int64_t>& geometry) {
  const Geometry g(geometry);
  const int64_t batch = x.size(3), nnz = index.numel();
  Tensor grad_values = empty_of(x, {nnz});
  std::vector<int32_t> taps_y, taps_x;
  const Pass pass{forward_axis(g.y, taps_y), forward_axis(g.x, taps_x), g.groups, 0, batch};
  const View view =
      make_view(begin, index, std::nullopt, g, x.size(0) / g.groups * g.y.kernel * g.x.kernel);
  with_type(x, [&]<class T>(T*) {
    const auto& kernels = sparse_conv2d_kernels<T>();
    const int64_t items = kernels.items(pass);
    const int64_t flops = 2 * nnz * g.y.output * g.x.output * batch;
    const int64_t parts = std::min(thread_parts(flops), std::max<int64_t>(items, 1));
    Tensor partial = parts == 1 ? grad_values : empty_of(x, {parts, nnz});
    T* sums = mutable_data<T>(partial);
    for_parts(parts, [&](int64_t p) {
      std::fill_n(sums + p * nnz, nnz, T{0});
      kernels.sample({view, pass, data<T>(grad), data<T>(x), sums + p * nnz}, items * p / parts,
                     items * (p + 1) / parts, workspace<T>(kernels.sample_scratch(view, pass)));
    });
    reduce_parts(sums, parts, nnz, make_weights<T>(grad_values, magnitudes));
    if (parts > 1) std::copy_n(sums, nnz, mutable_data<T>(grad_values));
  });
  return grad_values;
}

Tensor sparse_conv2d(const Tensor& x, const Tensor& values, const std::optional<Tensor>& bias,
                     const Tensor& begin, const Tensor& index, std::vector<int64_t> geometry) {
  return forward(x, values, nullptr, bias, begin, index, geometry);
}

Tensor sparse_conv2d_input_grad(const Tensor& grad, const Tensor& values, const Tensor& begin,
                                const Tensor& index, const Tensor& position,
                                std::vector<int64_t> geometry) {
  return input_gradient(grad, values, nullptr, begin, index, position, geometry);
}

Tensor sparse_conv2d_grad(const Tensor& grad, const Tensor& x, const Tensor& begin,
                          const Tensor& index, std::vector<int64_t> geometry) {
  return weight_gradient(grad, x, nullptr, begin, index, geometry);
}

Tensor sign_conv2d(const Tensor& x, const Tensor& scores, const std::optional<Tensor>& magnitudes,
                   double constant, const std::optional<Tensor>& bias, const Tensor& begin,
                   const Tensor& index, std::vector<int64_t> geometry) {
  const Magnitudes sign{magnitudes, constant};
  return forward(x, scores, &sign, bias, begin, index, geometry);
}

Tensor sign_conv2d_input_grad(const Tensor& grad, const Tensor& scores,
                              const std::optional<Tensor>& magnitudes, double constant,
                              const Tensor& begin, const Tensor& index, const Tensor& position,
                              std::vector<int64_t> geometry) {
  const Magnitudes sign{magnitudes, constant};
  return input_gradient(grad, scores, &sign, begin, index, position, geometry);
}

Tensor sign_conv2d_grad(const Tensor& grad, const Tensor& x,
                        const std::optional<Tensor>& magnitudes, double constant,
                        const Tensor& begin, const Tensor& index, std::vector<int64_t> geometry) {
  const Magnitudes sign{magnitudes, constant};
  return weight_gradient(grad, x, &sign, begin, index, geometry);
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d));
  m.impl("sparse_conv2d_input_grad", TORCH_BOX(&sparse_conv2d_input_grad));
  m.impl("sparse_conv2d_grad", TORCH_BOX(&sparse_conv2d_grad));
  m.impl("sign_conv2d", TORCH_BOX(&sign_conv2d));
  m.impl("sign_conv2d_input_grad", TORCH_BOX(&sign_conv2d_input_grad));
  m.impl("sign_conv2d_grad", TORCH_BOX(&sign_conv2d_grad));
}

}  // namespace
}  // namespace sparsefl
