// Runs the gated convolution's kernels of every instruction set that this machine has on awkward
// shapes, against plain loops in double. Prints checksums of the results, the same on every
// machine; exits with 1 at the first difference.
#include "cpu/gated_conv2d.h"
#include "operands.h"
#include "parts.h"
#include "sets.h"

namespace sparsefl {

extern const GatedConv2dKernels<double> kGatedConv2dF64;
extern const GatedConv2dKernels<float> kGatedConv2dScalarF32, kGatedConv2dAvx2F32,
    kGatedConv2dAvx512F32;

namespace {

constexpr int64_t kParts = 2;

Checksum gather_sum{"gated_gather"}, outer_sum{"gated_outer"};

// Of a sample's channels about `percent` are kept.
struct Kept {
  int64_t channels;
  std::vector<uint8_t> flag;
  std::vector<int32_t> index, count;

  Kept(int64_t samples, int64_t channels, int64_t percent)
      : channels(channels), flag(samples * channels), index(flag.size()), count(samples) {
    for (int64_t i = 0; i < samples * channels; ++i) {
      flag[i] = random_below(100) < percent;
      const int64_t n = i / channels;
      if (flag[i] != 0) index[n * channels + count[n]++] = static_cast<int32_t>(i % channels);
    }
  }
  ChannelLists lists() const { return {index.data(), count.data(), channels}; }
};

struct Case {
  int64_t samples, in, out, percent;
  Extent y, x;  // output: computed
};

constexpr Case kCases[] = {
    {3, 5, 9, 60, {8, 0, 3, 1, 1, 1}, {8, 0, 3, 1, 1, 1}},
    {2, 4, 7, 50, {6, 0, 3, 1, 1, 1}, {32, 0, 3, 1, 1, 1}},
    {2, 3, 5, 70, {7, 0, 3, 2, 1, 1}, {32, 0, 3, 1, 1, 1}},
    {3, 20, 17, 50, {5, 0, 3, 1, 1, 1}, {9, 0, 3, 1, 1, 1}},
    {2, 3, 4, 50, {11, 0, 3, 2, 1, 1}, {9, 0, 3, 2, 1, 1}},
    {2, 3, 4, 100, {11, 0, 2, 4, 0, 1}, {9, 0, 2, 3, 0, 1}},
    {2, 3, 4, 50, {12, 0, 5, 2, 1, 1}, {7, 0, 2, 1, 2, 3}},
    {1, 2, 3, 60, {5, 0, 3, 1, 4, 1}, {16, 0, 3, 1, 21, 20}},
    {4, 6, 5, 0, {5, 0, 1, 2, 0, 1}, {6, 0, 1, 1, 0, 1}},
    {2, 2, 3, 80, {3, 0, 3, 1, 1, 1}, {83, 0, 3, 1, 1, 1}},
    {3, 40, 33, 50, {16, 0, 3, 2, 1, 1}, {16, 0, 3, 2, 1, 1}},
    {2, 9, 12, 50, {32, 0, 3, 2, 1, 1}, {33, 0, 3, 2, 1, 1}},
    {2, 5, 6, 50, {7, 0, 3, 3, 1, 1}, {64, 0, 5, 2, 2, 1}},
    {3, 5, 4, 60, {16, 0, 3, 1, 1, 1}, {16, 0, 3, 1, 1, 1}},
    {2, 3, 2, 60, {33, 0, 3, 2, 1, 1}, {32, 0, 3, 2, 1, 1}},
    {3, 4, 11, 60, {64, 0, 3, 1, 1, 1}, {4, 0, 5, 1, 2, 1}},
    {4, 5, 19, 60, {1, 0, 3, 1, 1, 1}, {1, 0, 3, 1, 1, 1}},
    {3, 40, 70, 60, {2, 0, 3, 1, 1, 1}, {2, 0, 3, 1, 1, 1}},
    {3, 7, 33, 50, {3, 0, 3, 1, 1, 1}, {3, 0, 3, 1, 1, 1}},
    {3, 9, 18, 100, {4, 0, 3, 1, 1, 1}, {4, 0, 3, 1, 1, 1}},
    // Phases of nine taps, whose weights do not lie one after the other.
    {2, 3, 4, 60, {12, 0, 5, 2, 2, 1}, {12, 0, 5, 2, 2, 1}},
    {2, 3, 4, 60, {12, 0, 7, 3, 3, 1}, {32, 0, 7, 3, 3, 1}},
    {2, 3, 4, 60, {12, 0, 5, 2, 1, 1}, {12, 0, 3, 1, 1, 1}},
};

int64_t output_of(const Extent& e) {
  return (e.input + 2 * e.before - e.dilation * (e.kernel - 1) - 1) / e.stride + 1;
}

struct Expected {
  Numbers y, grad_x, grad_weight;
};

Expected convolve(const Case& c, const Kept& in, const Kept& out, const Numbers& weight,
                  const Numbers& bias, const Numbers& start, const Numbers& x,
                  const Numbers& grad) {
  const int64_t taps = c.y.kernel * c.x.kernel, pixels = c.y.output * c.x.output;
  const int64_t plane = c.y.input * c.x.input;
  Expected e{Numbers(c.samples * c.out * pixels), Numbers(c.samples * c.in * plane),
             Numbers(c.out * c.in * taps)};
  for (int64_t i = 0; i < c.samples * c.out * pixels; ++i) {
    if (out.flag[i / pixels] != 0) e.y[i] = bias[i / pixels % c.out];
  }
  for (int64_t i = 0; i < c.samples * c.in * plane; ++i) {
    if (in.flag[i / plane] != 0) e.grad_x[i] = start[i / plane];
  }
  for (int64_t i = 0; i < c.samples * c.out * c.in * taps * pixels; ++i) {
    const int64_t p = i % pixels, t = i / pixels % taps, ic = i / pixels / taps % c.in;
    const int64_t oc = i / pixels / taps / c.in % c.out, n = i / pixels / taps / c.in / c.out;
    if (out.flag[n * c.out + oc] == 0 || in.flag[n * c.in + ic] == 0) continue;
    const int64_t row = p / c.x.output * c.y.stride + t / c.x.kernel * c.y.dilation - c.y.before;
    const int64_t column = p % c.x.output * c.x.stride + t % c.x.kernel * c.x.dilation - c.x.before;
    if (row < 0 || row >= c.y.input || column < 0 || column >= c.x.input) continue;
    const int64_t from = (n * c.in + ic) * plane + row * c.x.input + column;
    const int64_t to = (n * c.out + oc) * pixels + p, w = (oc * c.in + ic) * taps + t;
    e.y[to] += weight[w] * x[from];
    e.grad_x[from] += weight[w] * grad[to];
    e.grad_weight[w] += grad[to] * x[from];
  }
  return e;
}

template <class T>
void gather(const GatedConv2dKernels<T>& kernels, const GatedGatherArgs<T>& args, bool small) {
  const int64_t items = small ? kernels.small_blocks(args) : args.samples;
  for_parts(kParts, [&](int64_t p) {
    const auto size = small ? kernels.small_gather_scratch : kernels.gather_scratch;
    const Block<T> scratch(size(args), true);
    const auto run = small ? kernels.small_gather : kernels.gather;
    run(args, items * p / kParts, items * (p + 1) / kParts, scratch.get());
  });
}

template <class T>
void plane_outer(const GatedConv2dKernels<T>& kernels, const GatedOuterArgs<T>& args) {
  for_parts(kParts, [&](int64_t p) {
    const Block<T> scratch(kernels.plane_outer_scratch(args), true);
    kernels.plane_outer(args, args.in_channels * p / kParts, args.in_channels * (p + 1) / kParts,
                        scratch.get());
  });
}

template <class T>
void outer(const GatedConv2dKernels<T>& kernels, GatedOuterArgs<T> args) {
  const T* grad = args.grad;
  const bool small = is_small(args.y, args.x);
  const int64_t pixels = args.y.grid * args.x.grid, n = args.samples;
  const auto lanes = small ? kernels.small_turned_channels : kernels.turned_channels;
  const Block<T> turned(n * pixels * lanes(args.rows.channels), true);
  for_parts(kParts, [&](int64_t p) {
    const int64_t first = n * p / kParts, last = n * (p + 1) / kParts;
    if (small) return kernels.small_turn(args.rows, grad, pixels, n, first, last, turned.get());
    kernels.turn(args.rows, grad, pixels, first, last, turned.get());
  });
  args.turned = turned.get();
  for_parts(kParts, [&](int64_t p) {
    const auto size = small ? kernels.small_outer_scratch : kernels.outer_scratch;
    const Block<T> scratch(size(args), true);
    const auto run = small ? kernels.small_outer : kernels.outer;
    run(args, args.in_channels * p / kParts, args.in_channels * (p + 1) / kParts, scratch.get());
  });
}

template <class T>
void check_gathers(const GatedConv2dKernels<T>& kernels, const char* set,
                   const GatedGatherArgs<T>& args, const Block<T>& out, const Numbers& expected) {
  for (const bool small : {false, true}) {
    if (small && !is_small(args.y, args.x)) continue;
    for (int64_t i = 0; i < out.size(); ++i) args.out[i] = static_cast<T>(kGarbage);
    gather<T>(kernels, args, small);
    expect_equal(out, expected, set, gather_sum);
  }
}

template <class T>
void check(const GatedConv2dKernels<T>& kernels, const char* set, Case c) {
  c.y.output = output_of(c.y), c.x.output = output_of(c.x);
  const int64_t taps = c.y.kernel * c.x.kernel;
  const Kept in(c.samples, c.in, c.percent), out(c.samples, c.out, c.percent);
  const Numbers weight = small_integers(c.out * c.in * taps), bias = small_integers(c.out);
  const Numbers start = small_integers(c.samples * c.in);
  const Numbers x = small_integers(c.samples * c.in * c.y.input * c.x.input);
  const Numbers grad = small_integers(c.samples * c.out * c.y.output * c.x.output);
  const Expected expected = convolve(c, in, out, weight, bias, start, x, grad);
  const Block<T> w(weight), b(bias), s(start), operand(x), gradient(grad);
  Block<T> y(expected.y.size()), grad_x(expected.grad_x.size()),
      grad_weight(expected.grad_weight.size());
  std::vector<int32_t> taps_y, taps_x;
  const Axis axis_y = forward_axis(c.y, taps_y), axis_x = forward_axis(c.x, taps_x);
  check_gathers<T>(kernels, set,
                   {axis_y, axis_x, nullptr, nullptr, in.lists(), out.lists(), w.get(), c.in * taps,
                    taps, b.get(), 0, c.samples, operand.get(), y.get()},
                   y, expected.y);
  const GatedOuterArgs<T> products{axis_y,  axis_x,           out.lists(),   in.flag.data(),
                                   c.in,    c.samples,        operand.get(), gradient.get(),
                                   nullptr, grad_weight.get()};
  outer<T>(kernels, products);
  expect_equal(grad_weight, expected.grad_weight, set, outer_sum);
  if (kernels.fits_planes(products)) {
    for (int64_t i = 0; i < grad_weight.size(); ++i) products.grad_weight[i] = T(kGarbage);
    plane_outer<T>(kernels, products);
    expect_equal(grad_weight, expected.grad_weight, set, outer_sum);
  }
  std::vector<int32_t> phase_y, phase_x;
  const Axis back_y = joint_axis(c.y, taps_y, phase_y), back_x = joint_axis(c.x, taps_x, phase_x);
  check_gathers<T>(
      kernels, set,
      {back_y, back_x, phase_y.data(), phase_x.data(), out.lists(), in.lists(), w.get(), taps,
       c.in * taps, s.get(), c.in, c.samples, gradient.get(), grad_x.get()},
      grad_x, expected.grad_x);
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  for (const Case& c : kCases) check(kGatedConv2dF64, "float64", c);
  for (const Case& c : kCases) check(kGatedConv2dScalarF32, "scalar", c);
#if defined(__x86_64__)
  if (has_avx2()) {
    for (const Case& c : kCases) check(kGatedConv2dAvx2F32, "avx2", c);
  }
  if (has_avx512()) {
    for (const Case& c : kCases) check(kGatedConv2dAvx512F32, "avx512", c);
  }
#endif
  for (const Checksum* c : {&gather_sum, &outer_sum}) {
    std::printf("%s %016" PRIx64 "\n", c->name, c->sum);
  }
  return 0;
}
