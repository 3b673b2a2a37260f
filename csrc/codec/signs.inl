// pack_signs and unpack_signs of dense_kernels.h on the vectors `Lanes` of one instruction set.

#include "codec/words.inl"

namespace sparsefl::codec {
namespace {

bool pack_signs(const float* x, size_t n, uint8_t* bits) {
  typename Lanes::Nans nans = {};
  const size_t half = n / 128 * 64, whole = n / 64 * 64;
  // Two streams: one alone waits at each page of 4 KiB, 0.65 of the speed where pages are small.
  for (size_t i = 0; i < half; i += 64) {
    store_word(bits + i / 8, Lanes::negatives(x + i, &nans));
    store_word(bits + (half + i) / 8, Lanes::negatives(x + half + i, &nans));
  }
  for (size_t i = 2 * half; i < whole; i += 64) {
    store_word(bits + i / 8, Lanes::negatives(x + i, &nans));
  }
  uint64_t word = 0;
  bool sound = !Lanes::any(nans);
  for (size_t i = whole; i < n; ++i) {
    const uint32_t b = float_bits(x[i]);
    word |= uint64_t{b > kMagnitudeBits + 1u} << (i - whole);
    sound = sound && (b & kMagnitudeBits) <= kInfinityKey;
  }
  store_some(bits + whole / 8, word, (n - whole + 7) / 8);
  return sound;
}

inline void unpack_some(uint64_t word, size_t n, float scale, float* out) {
  const uint32_t positive = float_bits(scale);
  for (size_t j = 0; j < n; ++j) {
    out[j] = as_float(positive ^ static_cast<uint32_t>(word >> j & 1) << 31);
  }
}

template <bool kStreaming>
void unpack_into(const uint8_t* bits, size_t n, float scale, float* out) {
  const size_t bytes = (n + 7) / 8;
  // Stores past the caches need vectors at multiples of their size.
  size_t i = kStreaming ? (0 - reinterpret_cast<uintptr_t>(out)) / sizeof(float) % 16 : 0;
  i = i < n ? i : n;
  unpack_some(load_some(bits, bytes), i, scale, out);
  for (; i / 8 + 9 <= bytes && i + 64 <= n; i += 64) {
    Lanes::template spread<kStreaming>(load_bits(bits, i), scale, out + i);
  }
  for (; i < n; i += 64) {
    unpack_some(load_some_bits(bits, bytes, i), n - i < 64 ? n - i : 64, scale, out + i);
  }
  if (kStreaming) Lanes::fence();
}

void unpack_signs(const uint8_t* bits, size_t n, float scale, bool streaming, float* out) {
  streaming ? unpack_into<true>(bits, n, scale, out) : unpack_into<false>(bits, n, scale, out);
}

}  // namespace
}  // namespace sparsefl::codec
