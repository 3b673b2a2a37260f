#include "codec/floats.h"

#include <cstring>

namespace sparsefl::codec {
namespace {

constexpr uint32_t kFloatExponent = 0x7F800000;
constexpr uint32_t kBf16Exponent = 0x7F80;

// Copies n words and returns whether none has all bits of `exponent` set. Branch-free, so that the
// compiler vectorises it.
template <class Word>
bool copy_finite(const uint8_t* from, size_t n, uint8_t* to, Word exponent) {
  Word wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const Word word = load<Word>(from + i * sizeof(Word));
    wrong |= static_cast<Word>((word & exponent) == exponent);
    store(to + i * sizeof(Word), word);
  }
  return wrong == 0;
}

bool copy_bool(const uint8_t* from, size_t n, uint8_t* to) {
  uint8_t bits = 0;
  for (size_t i = 0; i < n; ++i) {
    bits |= from[i];
    to[i] = from[i];
  }
  return bits <= 1;
}

}  // namespace

bool to_bf16(const uint8_t* values, size_t n, uint8_t* out) {
  uint32_t wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = load<uint32_t>(values + 4 * i);
    const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    // A NaN may round past its exponent, so both sides are looked at.
    wrong |= static_cast<uint32_t>((bits & kFloatExponent) == kFloatExponent) |
             static_cast<uint32_t>((rounded & kBf16Exponent) == kBf16Exponent);
    store(out + 2 * i, static_cast<uint16_t>(rounded));
  }
  return wrong == 0;
}

bool from_bf16(const uint8_t* data, size_t n, uint8_t* values) {
  uint32_t wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(load<uint16_t>(data + 2 * i)) << 16;
    wrong |= static_cast<uint32_t>((bits & kFloatExponent) == kFloatExponent);
    store(values + 4 * i, bits);
  }
  return wrong == 0;
}

bool copy_checked(Dtype dtype, const uint8_t* from, size_t n, uint8_t* to) {
  switch (dtype) {
    case Dtype::kFloat32:
      return copy_finite<uint32_t>(from, n, to, kFloatExponent);
    case Dtype::kFloat64:
      return copy_finite<uint64_t>(from, n, to, 0x7FF0000000000000);
    case Dtype::kFloat16:
      return copy_finite<uint16_t>(from, n, to, 0x7C00);
    case Dtype::kBfloat16:
      return copy_finite<uint16_t>(from, n, to, kBf16Exponent);
    case Dtype::kBool:
      return copy_bool(from, n, to);
    default:
      if (n != 0) std::memcpy(to, from, n * item_bytes(dtype));
      return true;
  }
}

}  // namespace sparsefl::codec
