// Prints what the seed streams give, a line a result: equal on every machine and for every build.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "codec/normal.h"

namespace {

using sparsefl::Isa;

void print_known_answer(sparsefl::PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  const sparsefl::PhiloxBlock out = sparsefl::philox4x32(counter, key0, key1);
  std::printf("philox %08" PRIx32 " %08" PRIx32 " %08" PRIx32 " %08" PRIx32 "\n", out.word[0],
              out.word[1], out.word[2], out.word[3]);
}

// Sum of word i times 2 i + 1, modulo 2^64.
template <class T>
uint64_t checksum(const std::vector<T>& values) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  uint64_t sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof(bits));
    sum += bits * (2 * uint64_t{i} + 1);
  }
  return sum;
}

void print_stream(uint64_t seed, uint64_t stream, size_t n, float std) {
  std::vector<uint32_t> words(n);
  sparsefl::fill_words(seed, stream, n, words.data());
  std::printf("words %016" PRIx64 "\n", checksum(words));
  for (Isa isa : {Isa::kScalar, sparsefl::isa()}) {
    std::vector<float> normals(n);
    sparsefl::fill_normal(seed, stream, n, std, isa, normals.data());
    std::printf("normals %016" PRIx64 "\n", checksum(normals));
  }
}

// One word in 2^17 of all, from the farthest tail on, and the words around each octave's start.
void print_quantiles() {
  std::vector<int32_t> quantiles;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += (1 << 17) - 1) {
    quantiles.push_back(
        sparsefl::normal_fixed(static_cast<uint32_t>(bits), sparsefl::kNormalTable));
  }
  for (int octave = 0; octave < sparsefl::kNormalOctaves; ++octave) {
    for (uint32_t around = 0; around < 3; ++around) {
      const uint32_t bits = (1u << octave) - 1 + around;
      quantiles.push_back(sparsefl::normal_fixed(bits, sparsefl::kNormalTable));
    }
  }
  std::printf("quantiles %016" PRIx64 "\n", checksum(quantiles));
}

}  // namespace

int main() {
  print_known_answer({{0, 0, 0, 0}}, 0, 0);
  print_known_answer({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u);
  print_known_answer({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0);
  print_stream(0, 0, 1, 1.0f);
  print_stream(7, 0x123456789abcdef0, 100003, 0.05f);
  print_stream(~uint64_t{0}, ~uint64_t{0}, 1 << 20, 1.7f);
  print_quantiles();
  return 0;
}
