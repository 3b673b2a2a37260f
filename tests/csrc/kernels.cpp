// Runs every kernel of every instruction set that this machine has on awkward shapes, against plain
// loops in double. Prints a checksum an operation, equal on every machine; exits with 1 at the
// first difference.
#include "codes.h"
#include "convolution.h"
#include "operands.h"
#include "parts.h"

namespace sparsefl {
namespace {

Checksum spmm_sum{"spmm"}, gradients_sum{"gradients"}, gather_sum{"gather"}, sample_sum{"sample"},
    transpose_sum{"transpose"}, dense_sum{"dense_weight"};

template <class T>
Block<T> multiply(const Kernels<T>& kernels, const SpmmArgs<T>& like, int64_t parts,
                  bool by_lanes) {
  SpmmArgs<T> args = like;
  Block<T> y(args.view.rows * args.batch);
  args.y = panel(y, args.view.rows, args.batch, args.x.row_major);
  const int64_t extent = by_lanes ? padded(args.batch) / kLanePadding : args.view.rows;
  for_parts(parts, [&](int64_t p) {
    const int64_t begin = extent * p / parts, end = extent * (p + 1) / parts;
    Part part{begin, end, 0, args.batch};
    if (by_lanes) {
      const int64_t lanes_end = end * kLanePadding;
      part = {0, args.view.rows, begin * kLanePadding,
              lanes_end < args.batch ? lanes_end : args.batch};
    }
    const Block<T> scratch(kernels.linear.spmm_scratch(args, part), true);
    kernels.linear.spmm(args, part, scratch.get());
  });
  return y;
}

// Both gradients, and that of the stored elements alone, in the order of the transposed view.
template <class T>
void check_gradients(const Kernels<T>& kernels, const Support& support, const Stored& stored,
                     const Block<T>& gradient, const Block<T>& operand, int64_t batch,
                     bool row_major, const Numbers& grad_x, const Numbers& grad_values) {
  const auto reordered = [&](const Numbers& numbers) {
    Numbers moved;
    for (const int32_t p : support.position) moved.push_back(numbers[p]);
    return moved;
  };
  const Block<T> values(reordered(stored.values)), magnitudes(reordered(stored.magnitudes));
  View view = support.transposed;
  view.position = nullptr;
  for (const int64_t parts : {1, 3}) {
    for (const bool wants_x : {true, false}) {
      Block<T> input(view.rows * batch), kept(support.nnz);
      Panel<T> to = panel(input, view.rows, batch, row_major);
      if (!wants_x) to.data = nullptr;
      const GradientsArgs<T> args{view,
                                  weights_of(stored, values, magnitudes),
                                  panel(gradient, view.columns, batch, row_major),
                                  panel(operand, view.rows, batch, row_major),
                                  to,
                                  kept.get(),
                                  batch};
      for_parts(parts, [&](int64_t p) {
        const Part part{view.rows * p / parts, view.rows * (p + 1) / parts, 0, batch};
        const Block<T> scratch(kernels.linear.gradients_scratch(args, part), true);
        kernels.linear.gradients(args, part, scratch.get());
      });
      if (wants_x) expect_equal(input, grad_x, kernels.name, gradients_sum);
      expect_equal(kept, reordered(grad_values), kernels.name, gradients_sum);
    }
  }
}

// The dense weight of a support, and its own elements back: no file of an instruction set.
template <class T>
void run_dense(const Support& support, const Stored& stored, const char* name) {
  const View& view = support.forward;
  const Block<T> values(stored.values), magnitudes(stored.magnitudes);
  const Weights<T> weights = weights_of(stored, values, magnitudes);
  Block<T> dense(view.rows * view.columns), kept(support.nnz);
  Numbers expected(support.nnz);
  for (int64_t k = 0; k < support.nnz; ++k) {
    expected[k] = stored.scale[k] * stored.dense[support.indices[support.order[k]]];
  }
  constexpr int64_t kParts = 3;
  for (int64_t p = 0; p < kParts; ++p) {
    const int64_t begin = view.rows * p / kParts, end = view.rows * (p + 1) / kParts;
    scatter_rows(view, weights, dense.get(), begin, end);
    gather_rows(view, weights, dense.get(), kept.get(), begin, end);
  }
  expect_equal(dense, stored.dense, name, dense_sum);
  expect_equal(kept, expected, name, dense_sum);
}

struct Linear {
  int64_t rows, columns, batch, percent, block, block_t;
};

void run_linear(const Linear& c, WeightKind kind) {
  const Support support(c.percent, c.block, {c.rows, c.columns, 1, c.block_t, {0}, 1});
  const Stored stored(support, kind, c.rows * c.columns);
  const Numbers x = small_integers(c.columns * c.batch), grad = small_integers(c.rows * c.batch);
  const Numbers bias = small_integers(c.rows);
  run_dense<float>(support, stored, "float32");
  run_dense<double>(support, stored, "float64");
  Numbers y(c.rows * c.batch), grad_x(c.columns * c.batch), grad_values(support.nnz);
  Numbers totals(c.rows);
  for (int64_t i = 0; i < c.rows * c.batch; ++i) {
    y[i] = bias[i / c.batch];
    totals[i / c.batch] += grad[i];
  }
  for (int64_t k = 0; k < support.nnz; ++k) {
    const int64_t at = support.indices[support.order[k]];
    const int64_t row = at / c.columns, column = at % c.columns;
    for (int64_t n = 0; n < c.batch; ++n) {
      y[row * c.batch + n] += stored.dense[at] * x[column * c.batch + n];
      grad_x[column * c.batch + n] += stored.dense[at] * grad[row * c.batch + n];
      grad_values[k] += stored.scale[k] * grad[row * c.batch + n] * x[column * c.batch + n];
    }
  }
  for_each_set([&]<class T>(const Kernels<T>& kernels) {
    const Block<T> values(stored.values), magnitudes(stored.magnitudes), start(bias);
    const Weights<T> weights = weights_of(stored, values, magnitudes);
    for (const bool row_major : {false, true}) {
      // One sample is a plain vector.
      if (row_major && c.batch == 1) continue;
      const auto lie = [&](const Numbers& numbers) {
        return row_major ? turned(numbers, c.batch) : numbers;
      };
      const Block<T> operand(lie(x)), gradient(lie(grad));
      const SpmmArgs<T> forward{
          support.forward, weights, start.get(), panel(operand, c.columns, c.batch, row_major), {},
          c.batch};
      const SpmmArgs<T> backward{support.transposed,
                                 weights,
                                 nullptr,
                                 panel(gradient, c.rows, c.batch, row_major),
                                 {},
                                 c.batch};
      for (const int64_t parts : {1, 3}) {
        for (const bool by_lanes : {false, true}) {
          expect_equal(multiply(kernels, forward, parts, by_lanes), lie(y), kernels.name, spmm_sum);
          expect_equal(multiply(kernels, backward, parts, by_lanes), lie(grad_x), kernels.name,
                       spmm_sum);
        }
      }
      Numbers sums(c.rows);
      for (int64_t p = 0; p < 3; ++p) {
        kernels.linear.feature_sums(backward.x, c.batch, c.rows * p / 3, c.rows * (p + 1) / 3,
                                    sums.data());
      }
      expect_equal(Block<T>(sums), totals, kernels.name, gradients_sum);
      if (c.batch > 0) {
        check_gradients(kernels, support, stored, gradient, operand, c.batch, row_major,
                        lie(grad_x), grad_values);
      }
    }
    const Block<T> operand(x), gradient(grad);
    if (c.batch == 1) {
      Block<T> one(bias);
      for (int64_t p = 0; p < 3; ++p) {
        const SpmmArgs<T> args{
            support.transposed,           weights, nullptr, panel(operand, c.columns, 1, false),
            panel(one, c.rows, 1, false), 1};
        kernels.linear.spmv_transposed(args, {c.columns * p / 3, c.columns * (p + 1) / 3, 0, 1});
      }
      expect_equal(one, y, kernels.name, spmm_sum);
    }
    if (kind == WeightKind::kSignConstant && c.block <= kCodedColumn && c.block_t <= kCodedColumn) {
      check_codes(kernels, support, stored, {start, operand, gradient, c.batch},
                  {y, grad_x, grad_values}, [&](const SpmmArgs<T>& args, const Numbers& expected) {
                    const Block<T> product = multiply(kernels, args, 3, false);
                    expect_equal(product, expected, kernels.name, spmm_sum);
                  });
    }
  });
}

template <class T>
void check_conv(const Kernels<T>& kernels, const Conv& c, const Support& support,
                const Stored& stored, const Numbers& bias, const Numbers& x, const Numbers& grad,
                const Expected& expected) {
  // The input lies in groups of samples, the gradient does not.
  const int64_t features = c.in * c.groups * c.y.input * c.x.input;
  const Samples grouped{kLanePadding, features * kLanePadding};
  const Samples packed{c.batch, kLanePadding};
  const Block<T> values(stored.values), magnitudes(stored.magnitudes), start(bias),
      operand = pad_groups<T>(x, features, c.batch), gradient(grad);
  const Weights<T> stored_weights = weights_of(stored, values, magnitudes);
  const auto weights_in = [&](const View& view) {
    Block<T> weights(support.nnz);
    const int64_t cut = support.nnz / 3;
    kernels.conv2d.read_weights(stored_weights, view.position, 0, cut, weights.get());
    kernels.conv2d.read_weights(stored_weights, view.position, cut, support.nnz, weights.get());
    return weights;
  };
  const Block<T> weights = weights_in(support.forward), weights_t = weights_in(support.transposed);
  std::vector<int32_t> taps_y, taps_x;
  const Pass pass{forward_axis(c.y, taps_y),
                  forward_axis(c.x, taps_x),
                  c.groups,
                  0,
                  0,
                  1,
                  c.batch,
                  grouped,
                  packed};
  Block<T> y(expected.y.size()), grad_x(expected.grad_x.size());
  const GatherArgs<T> forward{support.forward, pass,          weights.get(),
                              start.get(),     operand.get(), y.get()};
  gather<T>(kernels.conv2d.tiles, forward);
  expect_equal(y, expected.y, kernels.name, gather_sum);

  Numbers kept(support.nnz);
  for (int64_t k = 0; k < support.nnz; ++k) {
    kept[k] = expected.grad_dense[support.indices[support.order[k]]];
  }
  const SampleArgs<T> both{support.forward, pass, gradient.get(), operand.get(), nullptr};
  expect_equal(sample<T>(kernels.conv2d.tiles, both, support.nnz), kept, kernels.name, sample_sum);

  Checksum unprinted{"strips"};
  const bool strips = c.y.stride == 1 && c.x.stride == 1 && c.batch > 0;
  if (strips) {
    const Block<T> plain(x), again(expected.y.size());
    GatherArgs<T> args = forward;
    args.x = plain.get(), args.pass.in = packed, args.y = again.get();
    gather<T>(kernels.conv2d.strips, args);
    expect_equal(again, expected.y, kernels.name, unprinted);
    const SampleArgs<T> sampled{support.forward, args.pass, gradient.get(), args.x, nullptr};
    expect_equal(sample<T>(kernels.conv2d.strips, sampled, support.nnz), kept, kernels.name,
                 unprinted);
  }

  for (int64_t phase = 0; phase < c.y.stride * c.x.stride; ++phase) {
    const Pass back{transposed_axis(c.y, phase / c.x.stride, taps_y),
                    transposed_axis(c.x, phase % c.x.stride, taps_x),
                    c.groups,
                    phase,
                    0,
                    1,
                    c.batch,
                    packed,
                    packed};
    const GatherArgs<T> args{support.transposed, back,        weights_t.get(), nullptr,
                             gradient.get(),     grad_x.get()};
    gather<T>(kernels.conv2d.tiles, args);
    if (strips) {
      expect_equal(grad_x, expected.grad_x, kernels.name, unprinted);
      gather<T>(kernels.conv2d.strips, args);
    }
  }
  expect_equal(grad_x, expected.grad_x, kernels.name, gather_sum);
}

void run_conv(Conv c, WeightKind kind) {
  // One pixel more at the high end where the kernel is even, as padding="same" has it.
  c.y.output = output_of(c.y, c.y.before + (c.y.kernel + 1) % 2);
  c.x.output = output_of(c.x, c.x.before + (c.x.kernel + 1) % 2);
  std::vector<int64_t> tap_phase;
  for (int64_t ky = 0; ky < c.y.kernel; ++ky) {
    for (int64_t kx = 0; kx < c.x.kernel; ++kx) {
      const int64_t y = ky * c.y.dilation - c.y.before + c.y.stride * c.y.before;
      const int64_t x = kx * c.x.dilation - c.x.before + c.x.stride * c.x.before;
      tap_phase.push_back(y % c.y.stride * c.x.stride + x % c.x.stride);
    }
  }
  const int64_t taps = c.y.kernel * c.x.kernel;
  const Support support(
      c.percent, c.block_channels * taps,
      {c.out, c.in, c.groups, c.block_channels_t * taps, tap_phase, c.y.stride * c.x.stride});
  const Stored stored(support, kind, c.out * c.in * taps);
  const Numbers x = small_integers(c.in * c.groups * c.y.input * c.x.input * c.batch);
  const Numbers grad = small_integers(c.out * c.y.output * c.x.output * c.batch);
  const Numbers bias = small_integers(c.out);
  const Expected expected = convolve(c, stored.dense, bias, x, grad);
  for_each_set([&]<class T>(const Kernels<T>& kernels) {
    check_conv<T>(kernels, c, support, stored, bias, x, grad, expected);
  });
}

void run_transpose(int64_t rows, int64_t columns, int64_t gap) {
  const int64_t ld_from = columns + gap, ld_to = rows + gap;
  const int64_t size_from = rows * columns == 0 ? 0 : (rows - 1) * ld_from + columns;
  const int64_t size_to = rows * columns == 0 ? 0 : (columns - 1) * ld_to + rows;
  const Numbers from = small_integers(size_from);
  Numbers to(size_to, -4.0);
  for (int64_t i = 0; i < rows * columns; ++i) {
    to[i % columns * ld_to + i / columns] = from[i / columns * ld_from + i % columns];
  }
  for_each_set([&]<class T>(const Kernels<T>& kernels) {
    const Block<T> source(from), target(Numbers(size_to, -4.0));
    const int64_t cut = columns / 2;
    kernels.batch_last.transpose(source.get(), ld_from, target.get(), ld_to, rows, 0, cut);
    kernels.batch_last.transpose(source.get(), ld_from, target.get(), ld_to, rows, cut, columns);
    expect_equal(target, to, kernels.name, transpose_sum);
  });
}

// From every start in a cache line on; integers, so that every order of adding up gives the same.
void run_sum(int64_t size) {
  const Numbers x = small_integers(size);
  for_each_set([&]<class T>(const Kernels<T>& kernels) {
    const Block<T> block(x);
    for (int64_t begin = 0; begin < std::min<int64_t>(size, 16); ++begin) {
      double expected = 0;
      for (int64_t i = begin; i < size; ++i) expected += x[i];
      const double sum = kernels.batch_last.sum(block.get() + begin, size - begin);
      if (sum == expected) continue;
      std::printf("%s sum of %" PRId64 " is %g, not %g\n", kernels.name, size - begin, sum,
                  expected);
      std::exit(1);
    }
  });
}

constexpr Linear kLinear[] = {
    {5, 7, 1, 50, 7, 5},         {70, 90, 1, 30, 32, 16},    {1, 63, 7, 30, 63, 1},
    {64, 65, 16, 10, 32, 32},    {65, 1, 63, 50, 1, 65},     {129, 257, 64, 6, 128, 128},
    {33, 130, 65, 40, 128, 33},  {9, 17, 333, 40, 17, 4},    {19, 9, 1100, 40, 9, 8},
    {40, 1030, 31, 2, 1030, 40}, {4, 6, 0, 50, 6, 4},        {4, 0, 17, 50, 1, 4},
    {0, 4, 17, 50, 4, 1},        {6, 40, 17, 0, 16, 6},      {12, 40, 48, 100, 16, 5},
    {2, 65540, 3, 1, 65536, 2},  {65537, 2, 1, 1, 2, 65536},
};

constexpr Conv kConv[] = {
    // batch, out, in, groups, block channels (forward, transposed), percent; then an axis each of
    // input, output (0: computed), kernel, stride, padding, dilation.
    {16, 8, 5, 1, 2, 3, 30, {8, 0, 3, 1, 1, 1}, {8, 0, 3, 1, 1, 1}},
    {17, 4, 3, 1, 3, 4, 50, {6, 0, 3, 1, 0, 1}, {7, 0, 3, 1, 0, 1}},
    {3, 4, 6, 1, 4, 1, 20, {11, 0, 3, 2, 1, 1}, {9, 0, 3, 2, 1, 1}},
    {5, 4, 3, 1, 1, 2, 60, {11, 0, 2, 4, 0, 1}, {9, 0, 2, 3, 0, 1}},
    {2, 3, 2, 1, 1, 1, 50, {12, 0, 5, 2, 1, 1}, {7, 0, 2, 1, 2, 3}},
    {33, 3, 4, 1, 4, 3, 40, {5, 0, 1, 2, 0, 1}, {6, 0, 1, 2, 0, 1}},
    {1, 2, 3, 1, 2, 2, 40, {13, 0, 3, 1, 2, 4}, {21, 0, 3, 3, 0, 5}},
    {7, 6, 2, 3, 1, 2, 50, {7, 0, 3, 2, 1, 1}, {6, 0, 3, 1, 1, 1}},
    {31, 4, 1, 4, 1, 1, 70, {5, 0, 3, 1, 1, 1}, {4, 0, 3, 1, 1, 1}},
    {4, 5, 6, 1, 3, 3, 30, {1, 0, 3, 1, 1, 1}, {1, 0, 3, 1, 1, 1}},
    {8, 3, 2, 1, 2, 3, 50, {3, 0, 3, 7, 0, 1}, {3, 0, 3, 9, 0, 1}},
    {6, 3, 2, 1, 2, 3, 50, {2, 0, 2, 1, 4, 3}, {0, 0, 3, 2, 4, 2}},
    {0, 3, 2, 1, 2, 3, 50, {5, 0, 3, 1, 0, 1}, {5, 0, 3, 1, 0, 1}},
    {9, 3, 4, 1, 2, 3, 0, {5, 0, 3, 2, 1, 1}, {5, 0, 3, 2, 1, 1}},
    {18, 3, 4, 1, 3, 2, 100, {5, 0, 4, 1, 1, 2}, {9, 0, 2, 1, 0, 1}},
    {3, 4, 0, 1, 1, 4, 50, {5, 0, 3, 1, 1, 1}, {5, 0, 3, 1, 1, 1}},
    {20, 9, 3, 1, 2, 4, 50, {9, 0, 3, 1, 1, 1}, {19, 0, 3, 1, 1, 1}},
    {1, 5, 3, 1, 2, 4, 50, {5, 0, 3, 1, 1, 1}, {40, 0, 3, 2, 1, 1}},
    {26, 4, 3, 1, 2, 4, 50, {3, 0, 3, 1, 1, 1}, {4, 0, 3, 1, 1, 1}},
};

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  for (const WeightKind kind :
       {WeightKind::kValues, WeightKind::kSignConstant, WeightKind::kSignTensor}) {
    for (const Linear& c : kLinear) run_linear(c, kind);
    for (const Conv& c : kConv) run_conv(c, kind);
  }
  for (const int64_t rows : {0, 1, 7, 15, 16, 17, 64, 65, 130}) {
    for (const int64_t columns : {0, 1, 15, 16, 33, 64, 129, 300}) {
      run_transpose(rows, columns, 0);
      run_transpose(rows, columns, 3);
    }
  }
  for (const int64_t size : {0, 1, 15, 16, 63, 64, 100, 8191, 8192, 20000}) run_sum(size);
  for (const Checksum* c :
       {&spmm_sum, &gradients_sum, &gather_sum, &sample_sum, &transpose_sum, &dense_sum}) {
    std::printf("%s %016" PRIx64 "\n", c->name, c->sum);
  }
  return 0;
}
