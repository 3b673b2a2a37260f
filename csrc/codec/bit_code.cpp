#include "codec/bit_code.h"

#include <algorithm>

#include "codec/bits.h"
#include "codec/rice.h"

namespace sparsefl::codec {
namespace {

constexpr size_t bytes_of(size_t bits) { return (bits + 7) / 8; }

constexpr size_t bitmap_bytes(size_t n, size_t count) {
  return count == 0 || count == n ? 0 : bytes_of(n);
}

// Gap coders code the clear bits where most are set.
constexpr bool codes_clear_bits(size_t n, size_t count) { return 2 * count > n; }

void invert(size_t n, uint8_t* bits) {
  for (size_t i = 0; i < bytes_of(n); ++i) bits[i] = static_cast<uint8_t>(~bits[i]);
  if (n % 8 != 0) bits[n / 8] &= static_cast<uint8_t>((1u << (n % 8)) - 1);
}

// The gaps between the positions that gap coders code, of which there are some.
size_t find_gaps(const uint8_t* bits, size_t n, size_t count, Scratch* scratch) {
  size_t coded = count;
  if (codes_clear_bits(n, count)) {
    scratch->minority.assign(bits, bits + bytes_of(n));
    invert(n, scratch->minority.data());
    bits = scratch->minority.data();
    coded = n - count;
  }
  scratch->gaps.resize(coded);
  return gaps_of(bits, n, scratch->gaps.data());
}

void append_bitmap(const uint8_t* bits, size_t n, size_t count, std::vector<uint8_t>* out) {
  out->insert(out->end(), bits, bits + bitmap_bytes(n, count));
}

void append_rice(const uint32_t* gaps, size_t count, RiceChoice choice, std::vector<uint8_t>* out) {
  const size_t at = out->size();
  out->resize(at + 1 + choice.bytes);
  (*out)[at] = choice.parameter;
  write_rice(gaps, count, choice, out->data() + at + 1);
}

Reason read_bitmap(const uint8_t* data, size_t bytes, size_t n, size_t count, uint8_t* bits) {
  if (bytes != bitmap_bytes(n, count)) return Reason::kSectionLength;
  if (count == 0) {
    std::fill_n(bits, bytes_of(n), uint8_t{0});
  } else if (count == n) {
    fill_bits(n, bits);
  } else {
    std::copy_n(data, bytes, bits);
    if (!tail_is_zero(bits, n)) return Reason::kPadding;
    if (popcount(bits, bytes) != count) return Reason::kBitmap;
  }
  return Reason::kNone;
}

Reason read_rice_code(const uint8_t* data, size_t bytes, size_t n, size_t count, uint8_t* bits) {
  const bool clear = codes_clear_bits(n, count);
  const size_t coded = clear ? n - count : count;
  if (coded == 0 || bytes == 0 || data[0] < 1 || data[0] > kMaxRiceParameter) return Reason::kCode;
  if (bytes - 1 < min_rice_bytes(coded, data[0])) return Reason::kSectionLength;
  std::fill_n(bits, bytes_of(n), uint8_t{0});
  const RiceStatus status = read_rice(data + 1, bytes - 1, coded, data[0], n, bits);
  if (status == RiceStatus::kPadding) return Reason::kPadding;
  if (status != RiceStatus::kOk) return Reason::kCode;
  if (clear) invert(n, bits);
  return Reason::kNone;
}

}  // namespace

BitCoder append_bit_code(const uint8_t* bits, size_t n, size_t count, size_t row, Profile profile,
                         Scratch* scratch, std::vector<uint8_t>* out) {
  (void)row, (void)profile;
  const size_t plain_bytes = bitmap_bytes(n, count);
  if (plain_bytes == 0) return BitCoder::kBitmap;
  const size_t coded = find_gaps(bits, n, count, scratch);
  const RiceChoice choice = choose_rice(scratch->gaps.data(), coded);
  if (1 + choice.bytes < plain_bytes) {
    append_rice(scratch->gaps.data(), coded, choice, out);
    return BitCoder::kRice;
  }
  append_bitmap(bits, n, count, out);
  return BitCoder::kBitmap;
}

bool append_bit_code_as(BitCoder coder, const uint8_t* bits, size_t n, size_t count, size_t row,
                        Profile profile, Scratch* scratch, std::vector<uint8_t>* out) {
  (void)row, (void)profile;
  switch (coder) {
    case BitCoder::kBitmap:
      append_bitmap(bits, n, count, out);
      return true;
    case BitCoder::kRice: {
      if (bitmap_bytes(n, count) == 0) return false;
      const size_t coded = find_gaps(bits, n, count, scratch);
      append_rice(scratch->gaps.data(), coded, choose_rice(scratch->gaps.data(), coded), out);
      return true;
    }
    default:
      return false;
  }
}

Reason read_bit_code(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                     size_t row, Scratch* scratch, uint8_t* bits) {
  (void)row, (void)scratch;
  switch (coder) {
    case BitCoder::kBitmap:
      return read_bitmap(data, bytes, n, count, bits);
    case BitCoder::kRice:
      return read_rice_code(data, bytes, n, count, bits);
    default:
      return Reason::kCode;
  }
}

}  // namespace sparsefl::codec
