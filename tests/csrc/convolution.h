// Convolutions for kernels.cpp: their results by plain loops, and the walks run in parts.
#pragma once

#include <mutex>

#include "operands.h"
#include "parts.h"

namespace sparsefl {
namespace {

struct Conv {
  int64_t batch, out, in, groups, block_channels, block_channels_t, percent;
  Extent y, x;  // their outputs are filled in by run_conv
};

int64_t output_of(const Extent& e, int64_t pad_after) {
  return (e.input + e.before + pad_after - e.dilation * (e.kernel - 1) - 1) / e.stride + 1;
}

struct Expected {
  Numbers y, grad_x, grad_dense;
};

Expected convolve(const Conv& c, const Numbers& weight, const Numbers& bias, const Numbers& x,
                  const Numbers& grad) {
  Expected e{Numbers(grad.size()), Numbers(x.size()), Numbers(weight.size())};
  const int64_t taps = c.y.kernel * c.x.kernel, pixels = c.y.output * c.x.output;
  for (size_t i = 0; i < e.y.size(); ++i) e.y[i] = bias[i / (pixels * c.batch)];
  for (size_t w = 0; w < weight.size(); ++w) {
    const int64_t out = w / (taps * c.in), ky = w % taps / c.x.kernel, kx = w % c.x.kernel;
    const int64_t channel = out / (c.out / c.groups) * c.in + w / taps % c.in;
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t row = p / c.x.output * c.y.stride + ky * c.y.dilation - c.y.before;
      const int64_t column = p % c.x.output * c.x.stride + kx * c.x.dilation - c.x.before;
      if (row < 0 || row >= c.y.input || column < 0 || column >= c.x.input) continue;
      const int64_t from = ((channel * c.y.input + row) * c.x.input + column) * c.batch;
      const int64_t to = (out * pixels + p) * c.batch;
      for (int64_t n = 0; n < c.batch; ++n) {
        e.y[to + n] += weight[w] * x[from + n];
        e.grad_x[from + n] += weight[w] * grad[to + n];
        e.grad_dense[w] += grad[to + n] * x[from + n];
      }
    }
  }
  return e;
}

// Calls run(pass, begin, end) for two parts of the rows, and three of the items, some maybe empty.
template <class Run>
void in_parts(Pass pass, int64_t items, const Run& run) {
  pass.row_parts = 2;
  for (pass.row_part = 0; pass.row_part < 2; ++pass.row_part) {
    for_parts(3, [&](int64_t p) { run(pass, items * p / 3, items * (p + 1) / 3); });
  }
}

template <class T>
void gather(const Conv2dWalk<T>& walk, const GatherArgs<T>& whole) {
  in_parts(whole.pass, walk.items(whole.pass), [&](const Pass& pass, int64_t begin, int64_t end) {
    GatherArgs<T> args = whole;
    args.pass = pass;
    const Block<T> scratch(walk.scratch(args.view, pass), true);
    walk.gather(args, begin, end, scratch.get());
  });
}

// Returns the sums of all parts.
template <class T>
Block<T> sample(const Conv2dWalk<T>& walk, const SampleArgs<T>& whole, int64_t nnz) {
  Block<T> sums{Numbers(nnz)};
  std::mutex adding;
  in_parts(whole.pass, walk.items(whole.pass), [&](const Pass& part, int64_t begin, int64_t end) {
    const Block<T> own{Numbers(nnz)};
    SampleArgs<T> args = whole;
    args.pass = part, args.grad_weights = own.get();
    const Block<T> scratch(walk.scratch(args.view, part), true);
    walk.sample(args, begin, end, scratch.get());
    const std::lock_guard lock(adding);
    for (int64_t k = 0; k < nnz; ++k) sums.get()[k] += own.get()[k];
  });
  return sums;
}

}  // namespace
}  // namespace sparsefl
