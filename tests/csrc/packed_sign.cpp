// Runs the kernels of packed_sign.h of every instruction set that this machine has on awkward
// shapes, against plain loops. Prints a line an operation; exits with 1 at the first difference.
#include "cpu/packed_sign.h"

#include <cmath>

#include "operands.h"
#include "parts.h"
#include "sets.h"

namespace sparsefl {

extern const PackedSignKernels kPackedSignScalar, kPackedSignAvx2, kPackedSignAvx512;

namespace {

template <class Run>
void for_each_kernels(const Run& run) {
  run("scalar", kPackedSignScalar);
#if defined(__x86_64__)
  if (has_avx2()) run("avx2", kPackedSignAvx2);
  if (has_avx512()) {
    run("avx512", kPackedSignAvx512);
  }
#endif
}

template <class T>
void check(const Block<T>& result, const Block<T>& expected, const char* set, const char* what) {
  for (int64_t i = 0; i < expected.size(); ++i) {
    if (result.get()[i] == expected.get()[i]) continue;
    std::printf("%s %s: element %" PRId64 " of %" PRId64 " is %g, not %g\n", set, what, i,
                expected.size(), static_cast<double>(result.get()[i]),
                static_cast<double>(expected.get()[i]));
    std::exit(1);
  }
}

// A matrix of -1, 0 and +1, plain and in bitmaps.
struct Signs {
  int64_t rows, columns, nnz = 0;
  Numbers dense;
  Block<uint8_t> support, negative;

  Signs(int64_t rows, int64_t columns, int64_t percent)
      : rows(rows),
        columns(columns),
        dense(rows * columns),
        support((rows * columns + 7) / 8),
        negative(0) {
    for (int64_t i = 0; i < rows * columns; ++i) {
      if (random_below(100) >= percent) continue;
      dense[i] = random_below(2) == 0 ? 1 : -1;
      ++nnz;
    }
    negative = Block<uint8_t>((nnz + 7) / 8);
    for (int64_t i = 0; i < support.size(); ++i) support.get()[i] = 0;
    for (int64_t i = 0; i < negative.size(); ++i) negative.get()[i] = 0;
    int64_t rank = 0;
    for (int64_t i = 0; i < rows * columns; ++i) {
      if (dense[i] == 0) continue;
      support.get()[i / 8] |= static_cast<uint8_t>(1 << i % 8);
      if (dense[i] < 0) negative.get()[rank / 8] |= static_cast<uint8_t>(1 << rank % 8);
      ++rank;
    }
  }

  SignBits bits() const { return {support.get(), negative.get(), rows, columns}; }
};

struct Unpacked {
  Block<uint8_t> support, negative;
  explicit Unpacked(const Signs& signs)
      : support(signs.support.size()), negative(signs.negative.size()) {
    for (int64_t i = 0; i < support.size(); ++i) support.get()[i] = 0;
    for (int64_t i = 0; i < negative.size(); ++i) negative.get()[i] = 0;
  }
  void expect(const Signs& signs, const char* what) const {
    check(support, signs.support, "unpack", what);
    check(negative, signs.negative, "unpack", what);
  }
};

// The product by the kernel for triples of sums of type Sum, cut into parts of blocks.
template <class Sum, class Kernel>
Block<Sum> multiply(const TripleArgs& args, int64_t parts, const Kernel& kernel) {
  Block<Sum> y(args.samples * args.rows);
  const int64_t blocks = packed_blocks(args.rows);
  for_parts(parts, [&](int64_t p) {
    const int64_t begin = blocks * p / parts, end = blocks * (p + 1) / parts;
    const int64_t ld = (end - begin) * kPackedRows;
    const Block<Sum> sums(args.samples * ld, true);
    kernel(args, begin, end, sums.get(), ld);
    for (int64_t i = 0; i < args.samples * ld; ++i) {
      const int64_t row = begin * kPackedRows + i % ld;
      if (row < args.rows) y.get()[i / ld * args.rows + row] = sums.get()[i];
    }
  });
  return y;
}

void run_products(int64_t rows, int64_t columns, int64_t percent, int64_t samples) {
  const Signs signs(rows, columns, percent);
  Block<uint16_t> words(packed_blocks(rows) * packed_words(columns) * kPackedRows);
  pack_triples(signs.bits(), 0, rows, 0, words.get());
  const Unpacked unpacked(signs), unlisted(signs);
  unpack_triples(words.get(), 0, rows, columns, 0, unpacked.support.get(), unpacked.negative.get());
  unpacked.expect(signs, "triples");
  Block<int32_t> begin(2 * rows + 1);
  Block<uint16_t> index(signs.nnz);
  pack_lists(signs.bits(), begin.get(), index.get());
  const Lists lists{begin.get(), index.get()};
  unpack_lists(lists, rows, columns, unlisted.support.get(), unlisted.negative.get());
  unlisted.expect(signs, "lists");

  Block<float> x(samples * columns), turned(columns * padded(samples));
  Block<float> y(samples * rows), by_row(rows * samples);
  Block<int32_t> integers(samples * rows);
  for (int64_t i = 0; i < samples * columns; ++i) {
    x.get()[i] = static_cast<float>(random_below(255) - 127);
    turned.get()[i % columns * padded(samples) + i / columns] = x.get()[i];
  }
  for (int64_t i = 0; i < samples * rows; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < columns; ++k) {
      sum += signs.dense[i % rows * columns + k] * x.get()[i / rows * columns + k];
    }
    y.get()[i] = by_row.get()[i % rows * samples + i / rows] = static_cast<float>(sum);
    integers.get()[i] = static_cast<int32_t>(sum);
  }
  for_each_kernels([&](const char* set, const PackedSignKernels& kernels) {
    const TripleArgs args{words.get(), rows, columns, x.get(), columns, samples};
    for (const int64_t parts : {1, 3}) {
      check(multiply<float>(args, parts, kernels.triples), y, set, "triples");
      check(multiply<int32_t>(args, parts, kernels.triples_int8), integers, set, "triples_int8");
      Block<float> one(rows), lanes(rows * samples);
      for_parts(parts, [&](int64_t p) {
        const int64_t from = rows * p / parts, to = rows * (p + 1) / parts;
        if (samples > 0) kernels.lists(lists, x.get(), from, to, one.get() + from);
        kernels.lists_batch(lists, turned.get(), padded(samples), samples, from, to,
                            lanes.get() + from * samples, samples);
      });
      check(lanes, by_row, set, "lists_batch");
      for (int64_t r = 0; r < (samples > 0 ? rows : 0); ++r) {
        if (one.get()[r] == y.get()[r]) continue;
        std::printf("%s lists: row %" PRId64 "\n", set, r);
        std::exit(1);
      }
    }
  });
}

void run_window(const Window& w, int64_t out_height) {
  Block<float> x(w.channels * w.height * w.width);
  for (int64_t i = 0; i < x.size(); ++i) x.get()[i] = static_cast<float>(i + 1);
  const int64_t taps = w.kernel_y * w.kernel_x, all = out_height * w.out_width;
  for (int64_t first = 0; first < all; first += 5) {
    const int64_t pixels = all - first < 16 ? all - first : 16;
    Block<float> to(w.channels * taps * 16), expected(w.channels * taps * 16);
    for (int64_t i = 0; i < to.size(); ++i) {
      const int64_t p = first + i % 16, k = i / 16;
      const int64_t y =
          p / w.out_width * w.stride_y + k % taps / w.kernel_x * w.dilation_y - w.before_y;
      const int64_t z = p % w.out_width * w.stride_x + k % w.kernel_x * w.dilation_x - w.before_x;
      const bool inside = i % 16 < pixels && y >= 0 && y < w.height && z >= 0 && z < w.width;
      const int64_t at = (k / taps * w.height + y) * w.width + z;
      expected.get()[i] = inside ? x.get()[at] : 0;
    }
    gather_window(w, x.get(), first, pixels, to.get());
    check(to, expected, "all", "gather_window");
  }
}

void run_quantise(float size) {
  Block<float> x(37), rounded(37), expected(37);
  float largest = 0;
  for (int64_t i = 0; i < 37; ++i) {
    x.get()[i] = size * static_cast<float>(random_below(2001) - 1000);
    largest = std::fmax(largest, std::fabs(x.get()[i]));
  }
  const float scale = quantise(x.get(), 37, rounded.get());
  for (int64_t i = 0; i < 37; ++i) {
    const double level = size == 0 ? 0 : static_cast<double>(x.get()[i]) * (127.0 / largest);
    expected.get()[i] = static_cast<float>(std::nearbyint(level));
  }
  check(rounded, expected, "all", "quantise");
  if (scale != largest / 127) std::exit(1);
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  for (const int64_t samples : {0, 1, 3, 17}) {
    for (const int64_t rows : {1, 31, 33, 130, 200}) {
      for (const int64_t columns : {1, 9, 65, 252, 300}) run_products(rows, columns, 30, samples);
    }
    run_products(65, 530, 0, samples);
    run_products(65, 530, 100, samples);
    run_products(0, 9, 50, samples);
    run_products(5, 0, 50, samples);
  }
  std::printf("products\n");
  run_window({3, 7, 6, 3, 3, 6, 1, 1, 1, 1, 1, 1}, 7);
  run_window({2, 9, 11, 2, 3, 4, 2, 3, 0, 1, 1, 1}, 4);
  run_window({1, 5, 5, 3, 3, 1, 1, 2, 4, 0, 3, 2}, 7);
  run_window({2, 3, 2, 1, 4, 7, 1, 1, 0, 4, 1, 1}, 3);
  std::printf("gather_window\n");
  for (const float size : {0.0f, 1.0f, 3e-41f, 1e35f}) run_quantise(size);
  std::printf("quantise\n");
  return 0;
}
