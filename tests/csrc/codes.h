// The linear kernels and what keeps their codes of columns and signs, against the numbers that the
// same kernels give by scores.
#pragma once

#include <cstdlib>
#include <vector>

#include "operands.h"
#include "parts.h"

namespace sparsefl {

template <class T>
struct CodedOperands {
  const Block<T>&bias, &x, &grad;
  int64_t batch;
};

struct CodedResults {
  const Numbers &y, &grad_x, &grad_values;
};

// The codes are first those of other scores. check(args, expected) runs a product.
template <class T, class Check>
void check_codes(const Kernels<T>& kernels, const Support& support, const Stored& stored,
                 const CodedOperands<T>& of, const CodedResults& expected, const Check& check) {
  Numbers scores, others, kept;
  // Not at random: machines have other numbers of instruction sets, and shall draw the same.
  for (int64_t k = 0; k < support.nnz; ++k) others.push_back(static_cast<double>(k % 3 - 1));
  for (const int32_t p : support.position) {
    scores.push_back(stored.values[p]), kept.push_back(expected.grad_values[p]);
  }
  std::vector<uint16_t> codes(support.index.begin(), support.index.end()),
      codes_t(support.index_t.begin(), support.index_t.end());
  std::vector<uint32_t> negative((support.nnz + kSignChunk - 1) / kSignChunk * kSignLanes);
  for (const Numbers* now : {&others, &scores}) {
    const Block<T> block(*now);
    const SignCodesArgs<T> args{block.get(),    support.nnz,  negative.data(),
                                codes_t.data(), codes.data(), support.position.data()};
    for_parts(3, [&](int64_t p) {
      kernels.sign_codes.update(args, args.chunks() * p / 3, args.chunks() * (p + 1) / 3);
    });
    if (kernels.sign_codes.update(args, 0, args.chunks()) != 0) std::exit(1);
  }
  const Weights<T> weights{WeightKind::kSignCoded, nullptr, nullptr,
                           static_cast<T>(stored.constant)};
  View forward = support.forward, transposed = support.transposed;
  forward.index = codes.data(), transposed.index = codes_t.data();
  transposed.position = nullptr;
  const Panel<const T> x = panel(of.x, forward.columns, of.batch, false);
  const Panel<const T> grad = panel(of.grad, forward.rows, of.batch, false);
  check({forward, weights, of.bias.get(), x, {}, of.batch}, expected.y);
  check({transposed, weights, nullptr, grad, {}, of.batch}, expected.grad_x);
  if (of.batch == 0) return;
  Checksum sum{"coded gradients"};
  for (const bool wants_x : {true, false}) {
    Block<T> input(transposed.rows * of.batch), values(support.nnz);
    Panel<T> to = panel(input, transposed.rows, of.batch, false);
    if (!wants_x) to.data = nullptr;
    const GradientsArgs<T> args{transposed, weights, grad, x, to, values.get(), of.batch};
    const Part part{0, transposed.rows, 0, of.batch};
    const Block<T> scratch(kernels.linear.gradients_scratch(args, part), true);
    kernels.linear.gradients(args, part, scratch.get());
    if (wants_x) expect_equal(input, expected.grad_x, kernels.name, sum);
    expect_equal(values, kept, kernels.name, sum);
  }
}

}  // namespace sparsefl
