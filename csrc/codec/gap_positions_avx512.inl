// Positions of set bits by vectors: of words with many, of bytes with few. Included into the
// anonymous namespace of gap_kernels_avx512.cpp.

constexpr __mmask64 kAll = ~uint64_t{0};
constexpr size_t kBlockBytes = 4096;
// Where one bit in 32 is set, few of 64 bytes are not zero; of one in 8, few bits of a word are
// set.
constexpr size_t kFewOneIn = 16;
constexpr size_t kLanes = 32;

struct Tables {
  alignas(64) uint8_t iota[64];
  // Lane i stands for byte i / 2, the even lanes for its lowest bit, the odd ones for the next.
  alignas(64) uint8_t twice[64];
  // The same for the first and the last 16 of 32 lanes of 16 bits.
  alignas(64) uint16_t twice_lower[32];
  alignas(64) uint16_t twice_upper[32];
  // Bytes of the unary code of q < 8, and of the bits that it takes.
  alignas(32) uint8_t ones[32];
  alignas(32) uint8_t masks[32];
};
constexpr Tables make_tables() {
  Tables t{};
  for (int i = 0; i < 64; ++i) {
    t.iota[i] = static_cast<uint8_t>(i);
    t.twice[i] = static_cast<uint8_t>(i / 2);
  }
  for (int i = 0; i < 32; ++i) {
    t.twice_lower[i] = static_cast<uint16_t>(i / 2);
    t.twice_upper[i] = static_cast<uint16_t>(16 + i / 2);
    t.ones[i] = static_cast<uint8_t>(1 << i % 8);
    t.masks[i] = static_cast<uint8_t>((2 << i % 8) - 1);
  }
  return t;
}
constexpr Tables kTables = make_tables();

__m512i zeros() { return _mm512_setzero_si512(); }
__m512i load(const void* p) { return _mm512_loadu_si512(p); }
__m256i load_half(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
void store(void* p, __m512i v) { _mm512_storeu_si512(p, v); }
void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
// The unmasked intrinsics of GCC 12 warn of their own uninitialised operand.
__m256i lower_half(__m512i v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
__m256i upper_half(__m512i v) { return _mm512_maskz_extracti64x4_epi64(0xF, v, 1); }
__m512i widen(__m256i bytes) { return _mm512_maskz_cvtepu8_epi16(~__mmask32{0}, bytes); }
__m256i widen_quarter(__m512i bytes) {
  return _mm256_cvtepu8_epi16(_mm256_castsi256_si128(lower_half(bytes)));
}

uint64_t load_word(const uint8_t* p) {
  uint64_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// Writes 64 bytes' first `found` as 16 bits each, plus `base`; kFew says that 16 mostly do.
template <bool kFew>
inline void store_positions(__m512i at, int found, __m512i base, uint16_t* out) {
  if (kFew) {
    store(out, _mm256_add_epi16(widen_quarter(at), lower_half(base)));
    if (__builtin_expect(found <= 16, 1)) return;
  }
  store(out, _mm512_add_epi16(widen(lower_half(at)), base));
  if (__builtin_expect(found > 32, 0))
    store(out + 32, _mm512_add_epi16(widen(upper_half(at)), base));
}

// Writes the positions of the set bits of `count` words as 16 bits each. Returns their number.
template <bool kFew>
inline size_t find_positions(const uint8_t* words, size_t count, uint16_t* out) {
  const uint16_t* begin = out;
  const __m512i iota = load(kTables.iota);
  __m512i base = zeros();
  for (size_t w = 0; w < count; ++w) {
    const uint64_t word = load_word(words + 8 * w);
    const int found = __builtin_popcountll(word);
    store_positions<kFew>(_mm512_maskz_compress_epi8(word, iota), found, base, out);
    out += found;
    base = _mm512_add_epi16(base, _mm512_set1_epi16(64));
  }
  return static_cast<size_t>(out - begin);
}

// Bytes that are not zero, and the positions of their first bits.
struct FewBytes {
  uint8_t bytes[kBlockBytes + kGapSlack];
  uint16_t at[kBlockBytes + kGapSlack];
};

inline size_t find_bytes(const uint8_t* bits, size_t bytes, FewBytes* few) {
  size_t count = 0;
  const __m512i iota = load(kTables.iota);
  __m512i base = zeros();
  for (size_t i = 0; i < bytes; i += 64) {
    const __m512i v = load(bits + i);
    const uint64_t set = _cvtmask64_u64(_mm512_test_epi8_mask(v, v));
    const int found = __builtin_popcountll(set);
    const __m512i kept = _mm512_maskz_compress_epi8(set, v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(few->bytes + count),
                     _mm256_castsi256_si128(lower_half(kept)));
    if (__builtin_expect(found > 16, 0)) store(few->bytes + count, kept);
    store_positions<true>(_mm512_maskz_compress_epi8(set, iota), found, base, few->at + count);
    count += static_cast<size_t>(found);
    base = _mm512_add_epi16(base, _mm512_set1_epi16(64));
  }
  return count;
}

// Writes the positions of the set bits of 32 bytes, of which `count` are of use.
inline uint16_t* spread_bytes(const uint8_t* bytes, const uint16_t* at, size_t count,
                              uint16_t* out) {
  constexpr __mmask64 kOdd = 0xAAAAAAAAAAAAAAAA;
  const __m512i ones = _mm512_set1_epi8(1);
  const __m256i valid = _mm256_maskz_loadu_epi8(
      count >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((1u << count) - 1), bytes);
  const __m512i both = _mm512_maskz_permutexvar_epi8(
      kAll, load(kTables.twice), __builtin_shufflevector(valid, valid, 0, 1, 2, 3, 0, 1, 2, 3));
  const __m512i rest =
      _mm512_mask_mov_epi8(both, kOdd, _mm512_and_si512(both, _mm512_sub_epi8(both, ones)));
  const __m512i below = _mm512_sub_epi8(rest, ones);
  const uint64_t set = _cvtmask64_u64(_mm512_test_epi8_mask(rest, rest));
  if (__builtin_expect(_cvtmask64_u64(_mm512_mask_test_epi8_mask(kOdd, rest, below)) != 0, 0)) {
    for (size_t i = 0; i < (count < 32 ? count : 32); ++i)
      for (uint32_t b = bytes[i]; b != 0; b &= b - 1)
        *out++ = static_cast<uint16_t>(8 * at[i] + __builtin_ctz(b));
    return out;
  }
  const __m512i bit = _mm512_popcnt_epi8(~rest & below);
  const __m512i from = _mm512_maskz_slli_epi16(~__mmask32{0}, load(at), 3);
  const __m512i lower = _mm512_add_epi16(
      widen(lower_half(bit)),
      _mm512_maskz_permutexvar_epi16(~__mmask32{0}, load(kTables.twice_lower), from));
  const __m512i upper = _mm512_add_epi16(
      widen(upper_half(bit)),
      _mm512_maskz_permutexvar_epi16(~__mmask32{0}, load(kTables.twice_upper), from));
  store(out, _mm512_maskz_compress_epi16(static_cast<__mmask32>(set), lower));
  out += __builtin_popcount(static_cast<uint32_t>(set));
  store(out, _mm512_maskz_compress_epi16(static_cast<__mmask32>(set >> 32), upper));
  return out + __builtin_popcount(static_cast<uint32_t>(set >> 32));
}

// Positions in kBlockBytes bytes of mostly clear bits.
inline size_t find_few_positions(const uint8_t* bits, uint16_t* out) {
  const uint16_t* begin = out;
  FewBytes few;
  const size_t count = find_bytes(bits, kBlockBytes, &few);
  for (size_t i = 0; i < count; i += 32)
    out = spread_bytes(few.bytes + i, few.at + i, count - i, out);
  return static_cast<size_t>(out - begin);
}

// Positions in a block of which `bytes` <= kBlockBytes are there.
inline size_t block_positions(const uint8_t* bits, size_t bytes, size_t density, uint16_t* out) {
  uint8_t padded[kBlockBytes];
  if (bytes < kBlockBytes) {
    __builtin_memset(padded, 0, sizeof padded);
    __builtin_memcpy(padded, bits, bytes);
    bits = padded;
  }
  if (density >= kFewOneIn * 2) return find_few_positions(bits, out);
  const size_t words = (bytes + 7) / 8;
  return density >= kFewOneIn / 2 ? find_positions<true>(bits, words, out)
                                  : find_positions<false>(bits, words, out);
}

bool find_gaps(const uint8_t* bits, size_t n, size_t count, uint16_t* gaps) {
  const size_t one_in = n / (count + 1);
  const size_t bytes = (n + 7) / 8;
  // The position before the first, then those of a block.
  uint16_t held[32 + 8 * kBlockBytes + kGapSlack];
  uint16_t* positions = held + 32;
  size_t last = ~size_t{0};  // one before position 0
  bool narrow = true;
  for (size_t b = 0; b < bytes; b += kBlockBytes) {
    const size_t found = block_positions(
        bits + b, bytes - b < kBlockBytes ? bytes - b : kBlockBytes, one_in, positions);
    if (found == 0) continue;
    narrow &= 8 * b + positions[0] - last <= 65536;
    positions[-1] = static_cast<uint16_t>(last - 8 * b);
    last = 8 * b + positions[found - 1];
    for (size_t i = 0; i < found; i += kLanes) {
      // a - b - 1 = a + ~b
      const __m512i before = _mm512_xor_si512(load(positions + i - 1), _mm512_set1_epi32(-1));
      store(gaps + i, _mm512_add_epi16(load(positions + i), before));
    }
    gaps += found;
  }
  return narrow;
}
