// The loops over dense tensors and bitmaps in memory of exactly the size that they may touch, for
// every instruction set: equal to the scalar ones. Prints a line an instruction set.
#include "codec/dense_kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "codec/rank.h"
#include "codec/top_k.h"

namespace sparsefl::codec {
namespace {

// Memory whose every end is the end of an allocation.
template <class T>
struct Block {
  size_t n;
  std::unique_ptr<T[]> data;
  explicit Block(size_t count) : n(count), data(new T[count]) { fill(0xA5); }
  void fill(int byte) { std::memset(data.get(), byte, n * sizeof(T)); }
  T* get() const { return data.get(); }
};

uint64_t state = 1;

uint32_t draw() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>(state >> 33);
}

Block<uint8_t> draw_bits(size_t n) {
  Block<uint8_t> bits((n + 7) / 8);
  for (size_t i = 0; i < bits.n; ++i) bits.get()[i] = static_cast<uint8_t>(draw() & draw());
  if (n % 8 != 0) bits.get()[n / 8] &= static_cast<uint8_t>((1u << n % 8) - 1);
  return bits;
}

size_t count_of(const Block<uint8_t>& bits) {
  size_t count = 0;
  for (size_t i = 0; i < 8 * bits.n; ++i) count += bits.get()[i / 8] >> i % 8 & 1;
  return count;
}

template <class T>
void add(uint64_t* sum, const Block<T>& block) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(block.get());
  for (size_t i = 0; i < block.n * sizeof(T); ++i) *sum = *sum * 0x100000001B3 + bytes[i];
}

void check_signs(const DenseKernels& kernels, const Block<float>& x, uint64_t* sum) {
  Block<uint8_t> bits((x.n + 7) / 8);
  if (!kernels.pack_signs(x.get(), x.n, bits.get())) std::exit(1);
  add(sum, bits);
  for (const bool streaming : {false, true}) {
    Block<float> out(x.n);
    kernels.unpack_signs(bits.get(), x.n, 0.5f, streaming, out.get());
    add(sum, out);
  }
}

void check_rank(const DenseKernels& kernels, const Block<float>& x, Isa isa, uint64_t* sum) {
  const Block<uint8_t> mask = draw_bits(x.n), bits = draw_bits(x.n);
  const size_t set = count_of(mask);
  for (const Through through : {Through::kMask, Through::kComplement}) {
    const size_t count = through == Through::kMask ? set : x.n - set;
    Block<uint8_t> ranks((count + 7) / 8), back((x.n + 7) / 8);
    compress_bits(bits.get(), mask.get(), x.n, through, count, ranks.get(), isa);
    expand_bits(ranks.get(), count, mask.get(), x.n, through, back.get(), isa);
    add(sum, ranks), add(sum, back);
    // A mask that numbers more positions than said leaves memory alone, too.
    Block<uint8_t> fewer(count / 16);
    compress_bits(bits.get(), mask.get(), x.n, through, 8 * fewer.n, fewer.get(), isa);
    expand_bits(fewer.get(), 8 * fewer.n, mask.get(), x.n, through, back.get(), isa);
  }
  Block<float> values(set), model(x.n);
  model.fill(0);
  kernels.gather(x.get(), mask.get(), x.n, values.get(), set);
  kernels.add_at(model.get(), mask.get(), x.n, values.get(), set, 0.3f);
  add(sum, values), add(sum, model);
}

void check_top_k(const Block<float>& x, Isa isa, uint64_t* sum) {
  for (const size_t k : {size_t{0}, x.n / 100, x.n / 2, x.n}) {
    Block<uint8_t> bits((x.n + 7) / 8);
    Block<float> values(top_k_capacity(x.n, k));
    TopKPart part{x.get(), x.n, bits.get()};
    if (!top_k({&part, 1}, k, values.get(), isa) || part.count != k) std::exit(1);
    add(sum, bits);
    Block<float> kept(k);
    std::memcpy(kept.get(), values.get(), k * sizeof(float));
    add(sum, kept);
  }
}

void check_votes(const DenseKernels& kernels, size_t n, uint64_t* sum) {
  for (const size_t clients : {1, 4, 9, 21}) {
    std::vector<Block<uint8_t>> bitmaps;
    std::vector<const uint8_t*> packed;
    std::vector<int32_t> weights;
    int32_t total = 0;
    for (size_t c = 0; c < clients; ++c) {
      bitmaps.push_back(draw_bits(n));
      packed.push_back(bitmaps.back().get());
      weights.push_back(static_cast<int32_t>(draw() % 1000));
      total += weights.back();
    }
    const Votes votes{packed.data(), clients, n};
    Block<uint8_t> negative((n + 7) / 8), tied((n + 7) / 8);
    kernels.vote(votes, clients / 2 + 1, negative.get(), tied.get());
    add(sum, negative), add(sum, tied);
    Block<float> mean(n), even(n);
    kernels.mean(votes, weights.data(), total, 0.1, mean.get());
    kernels.even_mean(votes, 7, static_cast<int32_t>(7 * clients), 0.1, even.get());
    add(sum, mean), add(sum, even);
  }
}

uint64_t checksum(Isa isa) {
  const DenseKernels& kernels = dense_kernels(isa);
  uint64_t sum = 0;
  state = 1;
  for (const size_t n : {1, 7, 64, 65, 129, 1021, 16399, 70001}) {
    Block<float> x(n);
    for (size_t i = 0; i < n; ++i) {
      x.get()[i] = static_cast<float>(static_cast<int32_t>(draw() % 20001) - 10000) * 0.01f;
    }
    check_signs(kernels, x, &sum);
    check_rank(kernels, x, isa, &sum);
    check_top_k(x, isa, &sum);
    if (n < 20000) check_votes(kernels, n, &sum);
  }
  return sum;
}

}  // namespace
}  // namespace sparsefl::codec

int main() {
  using sparsefl::Isa;
  const uint64_t expected = sparsefl::codec::checksum(Isa::kScalar);
  bool equal = true;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > sparsefl::isa()) continue;
    const uint64_t sum = sparsefl::codec::checksum(isa);
    std::printf("%s %016llx\n", sparsefl::isa_name(isa), static_cast<unsigned long long>(sum));
    equal = equal && sum == expected;
  }
  return equal ? 0 : 1;
}
