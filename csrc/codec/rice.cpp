#include "codec/rice.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "codec/bits.h"
#include "codec/format.h"

namespace sparsefl::codec {
namespace {

// Bits [64 w, 64 w + 64) of `bytes` bytes, zeros past their end.
uint64_t load_word(const uint8_t* data, size_t bytes, size_t w) {
  if (8 * w + 8 <= bytes) return load<uint64_t>(data + 8 * w);
  uint64_t word = 0;
  std::memcpy(&word, data + 8 * w, bytes - 8 * w);
  return word;
}

// Gaps lie between positions below 2^22, so 32 bits hold their sum, in twice as many SIMD lanes.
uint64_t sum_of_quotients(const uint32_t* gaps, size_t count, int parameter) {
  uint32_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum += gaps[i] >> parameter;
  return sum;
}

// Strings of bits from the lowest up, stored a half word at a time.
class BitWriter {
 public:
  explicit BitWriter(uint8_t* out) : out_(out) {}

  // Appends the lower `width` <= 32 bits of `value`, whose other bits are zero.
  void put(uint32_t value, int width) {
    held_ |= uint64_t{value} << fill_;
    fill_ += width;
    if (fill_ < 32) return;
    store(out_, static_cast<uint32_t>(held_));
    out_ += 4;
    held_ >>= 32;
    fill_ -= 32;
  }

  // Fills the last byte up with zeros and returns where the next one goes.
  uint8_t* finish() {
    const size_t bytes = static_cast<size_t>(fill_ + 7) / 8;
    std::memcpy(out_, &held_, bytes);
    return out_ + bytes;
  }

 private:
  uint8_t* out_;
  uint64_t held_ = 0;
  int fill_ = 0;
};

// The lows of a code, read in order.
class LowReader {
 public:
  LowReader(const uint8_t* data, size_t bytes, int width)
      : data_(data), bytes_(bytes), width_(width), mask_((1u << width) - 1) {}

  // A low has at most 22 bits and starts in any of 8: four bytes hold it.
  uint32_t next() {
    const size_t at = at_ >> 3;
    uint32_t word = 0;
    if (at + sizeof word <= bytes_) {
      word = load<uint32_t>(data_ + at);
    } else {
      std::memcpy(&word, data_ + at, bytes_ - at);
    }
    const uint32_t low = (word >> (at_ & 7)) & mask_;
    at_ += static_cast<size_t>(width_);
    return low;
  }

 private:
  const uint8_t* data_;
  size_t bytes_;
  int width_;
  uint32_t mask_;
  size_t at_ = 0;
};

}  // namespace

size_t gaps_of(const uint8_t* bits, size_t n, uint32_t* gaps) {
  const size_t bytes = (n + 7) / 8;
  size_t count = 0;
  uint32_t next = 0;
  for (size_t w = 0; 8 * w < bytes; ++w) {
    for (uint64_t word = load_word(bits, bytes, w); word != 0; word &= word - 1) {
      const uint32_t at = static_cast<uint32_t>(64 * w) + std::countr_zero(word);
      gaps[count++] = at - next;
      next = at + 1;
    }
  }
  return count;
}

RiceChoice choose_rice(const uint32_t* gaps, size_t count) {
  // The bits of a code are convex in the parameter, so the search steps downhill from where gaps of
  // a geometric distribution have their least: about log2 of .69 of their mean.
  const uint64_t half_life = sum_of_quotients(gaps, count, 0) * 11 / 16 / count;
  int r = std::max(1, static_cast<int>(std::bit_width(half_life)) - 1);
  uint64_t here = sum_of_quotients(gaps, count, r);
  // One more bit a low costs `count` bits and saves the difference of the sums.
  for (uint64_t above; here - (above = sum_of_quotients(gaps, count, r + 1)) > count; ++r)
    here = above;
  for (uint64_t below; r > 1 && (below = sum_of_quotients(gaps, count, r - 1)) - here <= count; --r)
    here = below;
  return {static_cast<uint8_t>(r),
          (count * static_cast<uint64_t>(r) + 7) / 8 + (count + here + 7) / 8};
}

void write_rice(const uint32_t* gaps, size_t count, RiceChoice choice, uint8_t* out) {
  const int r = choice.parameter;
  BitWriter lows(out);
  for (size_t i = 0; i < count; ++i) lows.put(gaps[i] & ((1u << r) - 1), r);
  uint8_t* unary = lows.finish();
  const size_t unary_bytes = choice.bytes - static_cast<size_t>(unary - out);
  std::memset(unary, 0, unary_bytes);
  const auto put_word = [=](size_t w, uint64_t word) {
    std::memcpy(unary + 8 * w, &word, std::min<size_t>(8, unary_bytes - 8 * w));
  };
  size_t w = 0;
  uint64_t word = 0;
  uint64_t at = 0;
  for (size_t i = 0; i < count; ++i, ++at) {
    at += gaps[i] >> r;
    if (at / 64 != w) {
      put_word(w, word);
      w = at / 64;
      word = 0;
    }
    word |= uint64_t{1} << (at % 64);
  }
  put_word(w, word);
}

RiceStatus read_rice(const uint8_t* data, size_t bytes, size_t count, uint8_t parameter, size_t n,
                     uint8_t* bits) {
  const size_t low_bits = count * parameter;
  const size_t low_bytes = (low_bits + 7) / 8;
  if (!tail_is_zero(data, low_bits)) return RiceStatus::kPadding;
  const uint8_t* unary = data + low_bytes;
  const size_t unary_bytes = bytes - low_bytes;
  if (data[bytes - 1] == 0 || popcount(unary, unary_bytes) != count) return RiceStatus::kWrongCode;
  LowReader lows(data, bytes, parameter);
  // Position i is (place of its set bit - i) 2^parameter + i + the lows so far. No sum of a section
  // below 2^32 bytes reaches 2^62.
  uint64_t sum = 0;
  uint64_t i = 0;
  for (size_t w = 0; 8 * w < unary_bytes; ++w) {
    for (uint64_t word = load_word(unary, unary_bytes, w); word != 0; word &= word - 1, ++i) {
      const uint64_t quotients = 64 * w + static_cast<uint64_t>(std::countr_zero(word)) - i;
      sum += lows.next();
      const uint64_t position = (quotients << parameter) + sum + i;
      if (position >= n) return RiceStatus::kWrongCode;
      bits[position >> 3] |= static_cast<uint8_t>(1u << (position & 7));
    }
  }
  return RiceStatus::kOk;
}

}  // namespace sparsefl::codec
