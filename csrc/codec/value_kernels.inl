// The loops of value_kernels.h, written for the compiler's vectoriser and included once for each
// instruction set. No result depends on how arithmetic rounds, on fused multiply-adds or on whether
// subnormals are flushed: what floats compute is exact, or an estimate that exact steps put right.
#include "codec/value_integers.inl"

namespace sparsefl::codec {
namespace {

constexpr uint32_t kFloatExponent = 0x7F800000;
constexpr uint64_t kBf16Exponent = 0x7F80;

// Rounds the values [begin, end) of one block, a piece at a time, to integers[0, end - begin).
template <class Width>
SPARSEFL_INLINE void round_block(const BlockSource& s, size_t begin, size_t end, uint32_t scale,
                                 Words* words, int8_t* integers) {
  const size_t n = end - begin;
  const uint8_t* values = s.values + 4 * begin;
  const float step = scale_value(scale);
  if (scale == 0) {
    for (size_t i = 0; i < n; ++i) integers[i] = 0;
  } else if (s.draws != nullptr) {
    round_at_random(values, n, step, words->at(*s.draws, begin, n), integers);
  } else if (Width::kMax == 1) {
    round_to_trits(values, n, step, integers);
  } else if (n == kSmallBlock) {
    round_to_nearest(values, kSmallBlock, step, integers);
  } else {
    round_to_nearest(values, n, step, integers);
  }
}

template <class Width>
SPARSEFL_INLINE uint32_t scale_of_block(const BlockSource& s, size_t begin, size_t end,
                                        uint32_t most) {
  if (most <= kZeroBits) return 0;
  if (Width::kMax == 1 && s.draws == nullptr)
    return ternary_scale(s.values + 4 * begin, end - begin, most);
  return least_scale<Width>(most);
}

template <class Width>
bool quantise_blocks(const BlockSource& s, const BlockTarget& t) {
  Words words;
  int8_t staged[kStaged];
  uint8_t* out = t.integers;
  const size_t block = size_t{1} << s.block_log2;
  size_t waiting = 0, at = 0;
  for (size_t begin = 0; begin < s.n; begin += block, at += t.stride) {
    const size_t end = s.n - begin < block ? s.n : begin + block;
    const uint8_t* values = s.values + 4 * begin;
    const uint32_t most =
        end - begin == kSmallBlock ? largest(values, kSmallBlock) : largest(values, end - begin);
    if (most >= kFloatExponent) return false;
    const uint32_t scale = scale_of_block<Width>(s, begin, end, most);
    if (scale > Width::kMaxScale) return false;
    t.mantissas[at] = static_cast<uint8_t>(scale);
    t.exponents[at] = static_cast<uint8_t>(scale >> kScaleMantissaBits);
    for (size_t i = begin; i < end; i += kPiece) {
      const size_t piece_end = end - i < kPiece ? end : i + kPiece;
      int8_t* integers = Width::kPacked ? staged + waiting : reinterpret_cast<int8_t*>(out) + i;
      round_block<Width>(s, i, piece_end, scale, &words, integers);
      waiting += piece_end - i;
      if (!Width::kPacked || (waiting != kStaged && piece_end != s.n)) continue;
      out += Width::pack(staged, waiting, out);
      waiting = 0;
    }
  }
  return true;
}

// Writes the values of one block, or the part of it that is unpacked.
SPARSEFL_INLINE int32_t multiply_part(const int8_t* integers, size_t n, uint32_t scale,
                                      uint8_t* values) {
  const float step = scale_value(scale);
  return n == kSmallBlock ? multiply_piece(integers, kSmallBlock, step, values)
                          : multiply_piece(integers, n, step, values);
}

template <class Width>
SPARSEFL_INLINE Reason check_block(uint32_t scale, int32_t most) {
  if (scale > Width::kMaxScale || (scale != 0 && scale < kMinScale)) return Reason::kScale;
  return most > Width::kMax || (most == 0) != (scale == 0) ? Reason::kValue : Reason::kNone;
}

template <class Width>
Reason multiply_blocks(const BlockView& v, size_t n, uint8_t block_log2, uint8_t* values) {
  int8_t staged[kStaged];
  const size_t block = size_t{1} << block_log2;
  int32_t most = 0;
  size_t unpacked = 0;
  const uint8_t* packed = v.integers;
  for (size_t i = 0, at = 0; i < n;) {
    if (Width::kPacked && i == unpacked) {
      const size_t m = n - i < kStaged ? n - i : kStaged;
      packed += Width::unpack(packed, m, staged);
      unpacked += m;
    }
    const size_t left = block - (i & (block - 1));
    const size_t known = (Width::kPacked ? unpacked : n) - i;
    const size_t part = left < known ? left : known;
    const int8_t* integers =
        Width::kPacked ? staged + i % kStaged : reinterpret_cast<const int8_t*>(v.integers) + i;
    const uint32_t scale = uint32_t{v.exponents[at]} << kScaleMantissaBits | v.mantissas[at];
    const int32_t here = multiply_part(integers, part, scale, values + 4 * i);
    most = here > most ? here : most;
    i += part;
    if (part != left && i != n) continue;
    const Reason reason = check_block<Width>(scale, most);
    if (reason != Reason::kNone) return reason;
    most = 0;
    at += v.stride;
  }
  return Reason::kNone;
}

struct Int8 {
  static constexpr int32_t kMax = 127, kShift = 8;
  static constexpr uint32_t kMaxScale = 0xF802;  // the last whose product with kMax is finite
  static constexpr bool kPacked = false;
  static size_t pack(const int8_t*, size_t n, uint8_t*) { return n; }
  static size_t unpack(const uint8_t*, size_t n, int8_t*) { return n; }
};

struct Int4 {
  static constexpr int32_t kMax = 7, kShift = 12;
  static constexpr uint32_t kMaxScale = 0xFC24;
  static constexpr bool kPacked = true;
  static size_t pack(const int8_t* integers, size_t n, uint8_t* out) {
    pack_nibbles(integers, n, out);
    return (n + 1) / 2;
  }
  static size_t unpack(const uint8_t* data, size_t n, int8_t* integers) {
    unpack_nibbles(data, n, integers);
    return (n + 1) / 2;
  }
};

struct Ternary {
  static constexpr int32_t kMax = 1, kShift = 15;
  static constexpr uint32_t kMaxScale = kLastTernaryScale;
  static constexpr bool kPacked = true;
  static size_t pack(const int8_t* integers, size_t n, uint8_t* out) {
    pack_trits(integers, n, out);
    return (n + kTritsPerByte - 1) / kTritsPerByte;
  }
  static size_t unpack(const uint8_t* data, size_t n, int8_t* integers) {
    unpack_trits(data, n, integers);
    return (n + kTritsPerByte - 1) / kTritsPerByte;
  }
};

bool quantise(ValueMode mode, const BlockSource& source, const BlockTarget& target) {
  if (mode == ValueMode::kInt8) return quantise_blocks<Int8>(source, target);
  if (mode == ValueMode::kInt4) return quantise_blocks<Int4>(source, target);
  return quantise_blocks<Ternary>(source, target);
}

// What the last bytes hold beyond the n-th integer is zero, and bytes of trits stand for some.
Reason check_packed(ValueMode mode, const uint8_t* data, size_t n) {
  if (mode == ValueMode::kInt4 && n % 2) {
    if (data[n / 2] >> 4) return Reason::kPadding;
  } else if (mode == ValueMode::kTernary) {
    const size_t bytes = (n + kTritsPerByte - 1) / kTritsPerByte;
    uint8_t most = 0;
    for (size_t j = 0; j < bytes; ++j) most = data[j] > most ? data[j] : most;
    if (most >= kTritValues) return Reason::kValue;
    const size_t p = bytes % kTritBytes, m = n % kTritGroup;
    for (size_t j = 0; j < p; ++j) {
      uint8_t rest = data[bytes - p + j];
      for (size_t i = j; i < m; i += p) take_trit(&rest);
      if (rest != 0) return Reason::kPadding;
    }
  }
  return Reason::kNone;
}

Reason multiply(ValueMode mode, const BlockView& view, size_t n, uint8_t block_log2,
                uint8_t* values) {
  const Reason reason = check_packed(mode, view.integers, n);
  if (reason != Reason::kNone) return reason;
  if (mode == ValueMode::kInt8) return multiply_blocks<Int8>(view, n, block_log2, values);
  if (mode == ValueMode::kInt4) return multiply_blocks<Int4>(view, n, block_log2, values);
  return multiply_blocks<Ternary>(view, n, block_log2, values);
}

bool to_bf16(const uint8_t* values, size_t n, const Draws* draws, uint8_t* out) {
  Words words;
  uint32_t wrong = 0;
  for (size_t begin = 0; begin < n; begin += kPiece, values += 4 * kPiece, out += 2 * kPiece) {
    const size_t m = n - begin < kPiece ? n - begin : kPiece;
    if (draws == nullptr) {
      for (size_t i = 0; i < m; ++i) {
        const uint32_t bits = load<uint32_t>(values + 4 * i);
        const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        // A NaN may round past its exponent, so both sides are looked at.
        wrong |= ((bits & kFloatExponent) == kFloatExponent ? 1 : 0) |
                 ((rounded & kBf16Exponent) == kBf16Exponent ? 1 : 0);
        store(out + 2 * i, static_cast<uint16_t>(rounded));
      }
      continue;
    }
    const uint32_t* word = words.at(*draws, begin, m);
    for (size_t i = 0; i < m; ++i) {
      const uint32_t bits = load<uint32_t>(values + 4 * i);
      const uint32_t upper = (bits + 0xFFFF) >> 16;
      wrong |= ((bits & kFloatExponent) == kFloatExponent ? 1 : 0) |
               ((upper & kBf16Exponent) == kBf16Exponent ? 1 : 0);
      store(out + 2 * i, static_cast<uint16_t>((bits + (word[i] >> 16)) >> 16));
    }
  }
  return wrong == 0;
}

bool from_bf16(const uint8_t* data, size_t n, uint8_t* values) {
  uint32_t wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = uint32_t{load<uint16_t>(data + 2 * i)} << 16;
    wrong |= (bits & kFloatExponent) == kFloatExponent ? 1 : 0;
    store(values + 4 * i, bits);
  }
  return wrong == 0;
}

template <class Word>
bool copy_words(const uint8_t* from, size_t n, Word exponent, uint8_t* to) {
  Word wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const Word word = load<Word>(from + i * sizeof(Word));
    wrong |= static_cast<Word>((word & exponent) == exponent ? 1 : 0);
    store(to + i * sizeof(Word), word);
  }
  return wrong == 0;
}

bool copy_finite(const uint8_t* from, size_t n, size_t item, uint64_t exponent, uint8_t* to) {
  if (item == 2) return copy_words(from, n, static_cast<uint16_t>(exponent), to);
  if (item == 4) return copy_words(from, n, static_cast<uint32_t>(exponent), to);
  return copy_words(from, n, exponent, to);
}

template <class Word, bool kIsFloat>
bool split_words(const uint8_t* from, size_t n, Word exponent, uint8_t* planes) {
  constexpr int kBits = 8 * sizeof(Word);
  Word wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const Word word = load<Word>(from + i * sizeof(Word));
    wrong |= static_cast<Word>(kIsFloat && (word & exponent) == exponent ? 1 : 0);
    const Word turned = static_cast<Word>(kIsFloat ? word << 1 | word >> (kBits - 1) : word);
#pragma GCC unroll 8
    for (size_t j = 0; j < sizeof(Word); ++j)
      planes[j * n + i] = static_cast<uint8_t>(turned >> (kBits - 8 - 8 * j));
  }
  return wrong == 0;
}

template <class Word, bool kIsFloat>
bool join_words(const uint8_t* planes, size_t n, Word exponent, uint8_t* to) {
  constexpr int kBits = 8 * sizeof(Word);
  Word wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    Word turned = 0;
#pragma GCC unroll 8
    for (size_t j = 0; j < sizeof(Word); ++j)
      turned = static_cast<Word>(turned | Word{planes[j * n + i]} << (kBits - 8 - 8 * j));
    const Word word = static_cast<Word>(kIsFloat ? turned >> 1 | turned << (kBits - 1) : turned);
    wrong |= static_cast<Word>(kIsFloat && (word & exponent) == exponent ? 1 : 0);
    store(to + i * sizeof(Word), word);
  }
  return wrong == 0;
}

template <bool kIsFloat>
bool split_items(const uint8_t* from, size_t n, size_t item, uint64_t exponent, uint8_t* planes) {
  switch (item) {
    case 1:
      return split_words<uint8_t, false>(from, n, 0, planes);
    case 2:
      return split_words<uint16_t, kIsFloat>(from, n, static_cast<uint16_t>(exponent), planes);
    case 4:
      return split_words<uint32_t, kIsFloat>(from, n, static_cast<uint32_t>(exponent), planes);
    default:
      return split_words<uint64_t, kIsFloat>(from, n, exponent, planes);
  }
}

template <bool kIsFloat>
bool join_items(const uint8_t* planes, size_t n, size_t item, uint64_t exponent, uint8_t* to) {
  switch (item) {
    case 1:
      return join_words<uint8_t, false>(planes, n, 0, to);
    case 2:
      return join_words<uint16_t, kIsFloat>(planes, n, static_cast<uint16_t>(exponent), to);
    case 4:
      return join_words<uint32_t, kIsFloat>(planes, n, static_cast<uint32_t>(exponent), to);
    default:
      return join_words<uint64_t, kIsFloat>(planes, n, exponent, to);
  }
}

bool split(const uint8_t* from, size_t n, size_t item, uint64_t exponent, uint8_t* planes) {
  return exponent != 0 ? split_items<true>(from, n, item, exponent, planes)
                       : split_items<false>(from, n, item, exponent, planes);
}

bool join(const uint8_t* planes, size_t n, size_t item, uint64_t exponent, uint8_t* to) {
  return exponent != 0 ? join_items<true>(planes, n, item, exponent, to)
                       : join_items<false>(planes, n, item, exponent, to);
}

}  // namespace
}  // namespace sparsefl::codec

#define SPARSEFL_VALUE_TABLE {quantise, multiply, to_bf16, from_bf16, copy_finite, split, join}
