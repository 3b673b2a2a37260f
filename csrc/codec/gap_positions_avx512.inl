// Positions of set bits by vectors: of words with many, of pairs of bytes with few. Included into
// the anonymous namespace of gap_kernels_avx512.cpp.

constexpr __mmask64 kAll = ~uint64_t{0};
constexpr size_t kBlockBytes = 4096;
// Where fewer than one bit in kFewOneIn is set, few pairs of bytes have more than four; where fewer
// than one in kSomeOneIn is, few words more than 16.
constexpr size_t kFewOneIn = 24, kSomeOneIn = 8;
constexpr size_t kLanes = 32;

struct Tables {
  alignas(64) uint8_t iota[64];
  // The first positions of pairs of bytes, and what is to lie two or four times in a row.
  alignas(64) uint16_t firsts[32];
  alignas(64) uint16_t twice[2][32];
  alignas(64) uint16_t four_times[4][32];
  // Lanes of two vectors: the last of the second, then those of the first.
  alignas(64) uint16_t delayed[32];
  // Bytes of the unary code of q < 8, and of the bits that it takes.
  alignas(32) uint8_t ones[32];
  alignas(32) uint8_t masks[32];
};
constexpr Tables make_tables() {
  Tables t{};
  for (int i = 0; i < 64; ++i) t.iota[i] = static_cast<uint8_t>(i);
  for (int i = 0; i < 32; ++i) {
    t.firsts[i] = static_cast<uint16_t>(16 * i);
    for (int j = 0; j < 2; ++j) t.twice[j][i] = static_cast<uint16_t>(16 * j + i / 2);
    for (int j = 0; j < 4; ++j) t.four_times[j][i] = static_cast<uint16_t>(8 * j + i / 4);
    t.delayed[i] = static_cast<uint16_t>(i == 0 ? 63 : i - 1);
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

// Writes the positions of the set bits of `count` words as 16 bits each, from `first` on. Returns
// their number.
template <bool kFew>
inline size_t find_positions(const uint8_t* words, size_t count, uint16_t first, uint16_t* out) {
  const uint16_t* begin = out;
  const __m512i iota = load(kTables.iota);
  __m512i base = _mm512_set1_epi16(static_cast<short>(first));
  for (size_t w = 0; w < count; ++w) {
    const uint64_t word = load_word(words + 8 * w);
    const int found = __builtin_popcountll(word);
    store_positions<kFew>(_mm512_maskz_compress_epi8(word, iota), found, base, out);
    out += found;
    base = _mm512_add_epi16(base, _mm512_set1_epi16(64));
  }
  return static_cast<size_t>(out - begin);
}

// Pairs of bytes that are not zero, and the positions of their first bits.
struct FewPairs {
  uint16_t bits[kBlockBytes / 2 + kGapSlack];
  uint16_t at[kBlockBytes / 2 + kGapSlack];
  size_t count;
};

inline void find_pairs(const uint8_t* block, uint16_t first, FewPairs* few) {
  size_t count = 0;
  __m512i at = _mm512_add_epi16(load(kTables.firsts), _mm512_set1_epi16(static_cast<short>(first)));
  for (size_t i = 0; i < kBlockBytes; i += 64) {
    const __m512i v = load(block + i);
    const __mmask32 set = _mm512_test_epi16_mask(v, v);
    const int found = __builtin_popcount(set);
    const __m512i kept = _mm512_maskz_compress_epi16(set, v);
    const __m512i where = _mm512_maskz_compress_epi16(set, at);
    // Halves: a store of 64 bytes takes twice as long where it crosses lines.
    store(few->bits + count, lower_half(kept));
    store(few->at + count, lower_half(where));
    if (__builtin_expect(found > 16, 0)) {
      store(few->bits + count, kept);
      store(few->at + count, where);
    }
    count += static_cast<size_t>(found);
    at = _mm512_add_epi16(at, _mm512_set1_epi16(32 * 16));
  }
  few->count = count;
}

// What is left of each lane without its lowest set bit, and where that is, from `at` on.
inline __m512i without_lowest(__m512i v) {
  return _mm512_and_si512(v, _mm512_sub_epi16(v, _mm512_set1_epi16(1)));
}
inline __m512i lowest(__m512i v, __m512i at) {
  return _mm512_add_epi16(at, _mm512_popcnt_epi16(~v & _mm512_sub_epi16(v, _mm512_set1_epi16(1))));
}
inline __mmask32 not_zero(__m512i v) { return _mm512_test_epi16_mask(v, v); }
inline __m512i in_order(const uint16_t* order, __m512i v) {
  return _mm512_maskz_permutexvar_epi16(~__mmask32{0}, load(order), v);
}
inline __m512i in_order(__m512i others, uint32_t lanes, const uint16_t* order, __m512i v) {
  return _mm512_mask_permutexvar_epi16(others, lanes, load(order), v);
}
inline uint16_t* put(uint32_t lanes, __m512i v, uint16_t* out) {
  store(out, _mm512_maskz_compress_epi16(lanes, v));
  return out + __builtin_popcount(lanes);
}

// Writes the positions of the set bits of up to 32 pairs of bytes.
inline uint16_t* spread_pairs(const uint16_t* pairs, const uint16_t* where, uint32_t valid,
                              uint16_t* out) {
  constexpr uint32_t kOdd = 0xAAAAAAAA;
  const __m512i one = _mm512_maskz_loadu_epi16(valid, pairs);
  const __m512i at = load(where);
  const __m512i two = without_lowest(one);
  const __m512i first = lowest(one, at);
  if (not_zero(two) == 0) {
    store(out, first);
    return out + __builtin_popcount(valid);
  }
  const __m512i three = without_lowest(two);
  const __m512i second = lowest(two, at);
  if (__builtin_expect(not_zero(three) == 0, 1)) {
    const uint64_t kept =
        _pdep_u64(valid, 0x5555555555555555) | _pdep_u64(not_zero(two), 0xAAAAAAAAAAAAAAAA);
    for (int j = 0; j < 2; ++j) {
      const uint16_t* order = kTables.twice[j];
      out = put(static_cast<uint32_t>(kept >> (32 * j)),
                in_order(in_order(order, first), kOdd, order, second), out);
    }
    return out;
  }
  const __m512i four = without_lowest(three);
  const __m512i third = lowest(three, at);
  if (__builtin_expect(not_zero(without_lowest(four)) != 0, 0)) {
    for (; valid != 0; valid >>= 1, ++pairs, ++where)
      for (uint32_t b = *pairs; b != 0; b &= b - 1)
        *out++ = static_cast<uint16_t>(*where + __builtin_ctz(b));
    return out;
  }
  const __m512i fourth = lowest(four, at);
  for (int j = 0; j < 4; ++j) {
    const uint16_t* order = kTables.four_times[j];
    const __m512i half = in_order(in_order(order, first), 0x22222222, order, second);
    const __m512i most = in_order(half, 0x44444444, order, third);
    const uint32_t kept = _pdep_u32(valid >> (8 * j), 0x11111111) |
                          _pdep_u32(not_zero(two) >> (8 * j), 0x22222222) |
                          _pdep_u32(not_zero(three) >> (8 * j), 0x44444444) |
                          _pdep_u32(not_zero(four) >> (8 * j), 0x88888888);
    out = put(kept, in_order(most, 0x88888888, order, fourth), out);
  }
  return out;
}

// Gaps by way of positions modulo 2^16, which they replace in place. Whatever vectors wrote is read
// a block later: a load of what several stores wrote waits until they are done.
class GapFinder {
 public:
  explicit GapFinder(uint16_t* gaps) : out_(gaps), done_(gaps) {}

  void add_few(const uint8_t* block) {
    find_pairs(block, first(), &few_[blocks_ % 2]);
    spread_last();
    has_pairs_ = true;
    ++blocks_;
  }

  void add_many(const uint8_t* block, size_t bytes, size_t one_in) {
    spread_last();
    has_pairs_ = false;
    const size_t words = (bytes + 7) / 8;
    close(one_in >= kSomeOneIn ? find_positions<true>(block, words, first(), out_)
                               : find_positions<false>(block, words, first(), out_),
          blocks_);
    ++blocks_;
  }

  // Whether all gaps have 16 bits.
  bool finish() {
    spread_last();
    subtract(out_);
    const size_t left = static_cast<size_t>(out_ - done_);
    if (left != 0) {
      const __m512i at = load(done_);
      _mm512_mask_storeu_epi16(done_, (1u << left) - 1, gaps_of(at));
    }
    return narrow_;
  }

 private:
  uint16_t first() const { return static_cast<uint16_t>(8 * kBlockBytes * blocks_); }

  void spread_last() {
    if (!has_pairs_) return;
    const FewPairs& few = few_[(blocks_ - 1) % 2];
    uint16_t* end = out_;
    for (size_t i = 0; i < few.count; i += kLanes) {
      const uint32_t valid = few.count - i < kLanes ? (1u << (few.count - i)) - 1 : ~0u;
      end = spread_pairs(few.bits + i, few.at + i, valid, end);
    }
    close(static_cast<size_t>(end - out_), blocks_ - 1);
    has_pairs_ = false;
  }

  // Takes the positions of a block that lie at out_.
  void close(size_t found, size_t block) {
    subtract(out_);
    if (found == 0) return;
    const size_t base = 8 * kBlockBytes * block;
    const size_t from = base + static_cast<uint16_t>(out_[0] - base);
    narrow_ &= from - last_ <= 65536;
    out_ += found;
    last_ = base + static_cast<uint16_t>(out_[-1] - base);
  }

  // a - b - 1 = a + ~b
  __m512i gaps_of(__m512i at) const {
    const __m512i before =
        _mm512_maskz_permutex2var_epi16(~__mmask32{0}, at, load(kTables.delayed), last_lanes_);
    return _mm512_add_epi16(at, ~before);
  }

  void subtract(const uint16_t* end) {
    for (; end - done_ >= static_cast<ptrdiff_t>(kLanes); done_ += kLanes) {
      const __m512i at = load(done_);
      store(done_, gaps_of(at));
      last_lanes_ = at;
    }
  }

  uint16_t* out_;
  uint16_t* done_;
  size_t blocks_ = 0;
  size_t last_ = ~size_t{0};  // one before position 0
  bool narrow_ = true;
  bool has_pairs_ = false;
  __m512i last_lanes_ = _mm512_set1_epi32(-1);
  FewPairs few_[2];
};

bool find_gaps(const uint8_t* bits, size_t n, size_t count, uint16_t* gaps) {
  const size_t one_in = n / (count + 1);
  const size_t bytes = (n + 7) / 8;
  GapFinder finder(gaps);
  for (size_t b = 0; b < bytes; b += kBlockBytes) {
    const size_t here = bytes - b < kBlockBytes ? bytes - b : kBlockBytes;
    uint8_t padded[kBlockBytes];
    const uint8_t* block = bits + b;
    if (here < kBlockBytes) {
      __builtin_memset(padded, 0, sizeof padded);
      __builtin_memcpy(padded, block, here);
      block = padded;
    }
    if (one_in >= kFewOneIn)
      finder.add_few(block);
    else
      finder.add_many(block, here, one_in);
  }
  return finder.finish();
}
