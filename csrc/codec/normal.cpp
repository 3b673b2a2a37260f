#include "codec/normal.h"

namespace sparsefl {
namespace {

void group_words(uint64_t seed, uint64_t stream, uint64_t group, uint32_t* out) {
  for (int b = 0; b < kGroupBlocks; ++b) {
    const PhiloxBlock block = stream_block(seed, stream, group * kGroupBlocks + b);
    for (int w = 0; w < 4; ++w) out[w * kGroupBlocks + b] = block.word[w];
  }
}

void fill_normal_groups_scalar(uint64_t seed, uint64_t stream, uint64_t groups, float scale,
                               float* out) {
  for (uint64_t g = 0; g < groups; ++g, out += kGroupWords) {
    uint32_t words[kGroupWords];
    group_words(seed, stream, g, words);
    for (int i = 0; i < kGroupWords; ++i) {
      out[i] = normal_scaled(normal_fixed(words[i], kNormalTable), scale);
    }
  }
}

void fill_normal_groups(uint64_t seed, uint64_t stream, uint64_t groups, float scale, Isa isa,
                        float* out) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return fill_normal_groups_avx512(seed, stream, groups, scale, out);
  if (isa == Isa::kAvx2) return fill_normal_groups_avx2(seed, stream, groups, scale, out);
#endif
  (void)isa;
  fill_normal_groups_scalar(seed, stream, groups, scale, out);
}

}  // namespace

void fill_word_groups(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                      Isa isa, uint32_t* out) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return fill_word_groups_avx512(seed, stream, first_group, groups, out);
  if (isa == Isa::kAvx2) return fill_word_groups_avx2(seed, stream, first_group, groups, out);
#endif
  (void)isa;
  for (uint64_t g = 0; g < groups; ++g)
    group_words(seed, stream, first_group + g, out + g * kGroupWords);
}

void fill_words(uint64_t seed, uint64_t stream, uint64_t n, uint32_t* out) {
  const uint64_t groups = n / kGroupWords;
  fill_word_groups(seed, stream, 0, groups, isa(), out);
  for (uint64_t i = groups * kGroupWords; i < n; ++i) out[i] = stream_word(seed, stream, i);
}

void fill_normal(uint64_t seed, uint64_t stream, uint64_t n, float std, Isa isa, float* out) {
  const float scale = std * (1.0f / (1 << kNormalFractionBits));
  const uint64_t groups = n / kGroupWords;
  fill_normal_groups(seed, stream, groups, scale, isa, out);
  for (uint64_t i = groups * kGroupWords; i < n; ++i) {
    out[i] = normal_scaled(normal_fixed(stream_word(seed, stream, i), kNormalTable), scale);
  }
}

}  // namespace sparsefl
