#include "codec/sections.h"

#include <algorithm>
#include <cstring>

#include "codec/bits.h"
#include "codec/rank.h"

namespace sparsefl::codec {
namespace {

// A count or a length before a code, a u24.
constexpr size_t kNumberBytes = 3;
// Drops' count, coders of drops and adds, bytes of the drops' code.
constexpr size_t kChangesHeadBytes = kNumberBytes + 1 + kNumberBytes;

constexpr size_t bytes_of(uint64_t bits) { return (bits + 7) / 8; }

void store_number(uint64_t number, uint8_t* out) { std::memcpy(out, &number, kNumberBytes); }

uint64_t load_number(const uint8_t* from) {
  uint64_t number = 0;
  std::memcpy(&number, from, kNumberBytes);
  return number;
}

// Turns bits [0, n) round.
void flip_bits(uint64_t n, uint8_t* bits) {
  for (size_t i = 0; i < bytes_of(n); ++i) bits[i] = static_cast<uint8_t>(~bits[i]);
  if (n % 8) bits[n / 8] &= static_cast<uint8_t>((1u << (n % 8)) - 1);
}

// The bits of `bits` in the rank space of `mask` or of its complement, which has `count` positions.
std::vector<uint8_t> ranks(const uint8_t* bits, const uint8_t* mask, uint64_t n, Through through,
                           uint64_t count) {
  std::vector<uint8_t> out(bytes_of(count));
  compress_bits(bits, mask, n, through, count, out.data());
  return out;
}

}  // namespace

uint8_t append_sent(const uint8_t* bits, const Span& span, Profile profile, Scratch* scratch,
                    std::vector<uint8_t>* out) {
  return static_cast<uint8_t>(
      append_bit_code(bits, span.positions, span.count, span.row, profile, scratch, out));
}

void append_changes(const uint8_t* bits, const uint8_t* base, const Span& span, Profile profile,
                    Scratch* scratch, std::vector<uint8_t>* out) {
  const uint64_t kept = popcount(base, bytes_of(span.positions));
  const uint64_t others = span.positions - kept;
  std::vector<uint8_t> drops = ranks(bits, base, span.positions, Through::kMask, kept);
  flip_bits(kept, drops.data());
  const std::vector<uint8_t> adds = ranks(bits, base, span.positions, Through::kComplement, others);
  const uint64_t dropped = popcount(drops.data(), drops.size());
  const size_t head = out->size();
  out->resize(head + kChangesHeadBytes);
  const BitCoder drop_coder =
      append_bit_code(drops.data(), kept, dropped, 0, profile, scratch, out);
  const size_t drop_bytes = out->size() - head - kChangesHeadBytes;
  const BitCoder add_coder =
      append_bit_code(adds.data(), others, span.count + dropped - kept, 0, profile, scratch, out);
  store_number(dropped, out->data() + head);
  (*out)[head + kNumberBytes] =
      static_cast<uint8_t>(static_cast<uint8_t>(drop_coder) | static_cast<uint8_t>(add_coder) << 4);
  store_number(drop_bytes, out->data() + head + kNumberBytes + 1);
}

Reason read_changes(const uint8_t* section, size_t bytes, const uint8_t* base, const Span& span,
                    Profile profile, Scratch* scratch, uint8_t* bits) {
  const uint64_t kept = popcount(base, bytes_of(span.positions));
  const uint64_t others = span.positions - kept;
  if (bytes < kChangesHeadBytes) return Reason::kSectionLength;
  const uint64_t dropped = load_number(section);
  const uint8_t coders = section[kNumberBytes];
  const uint64_t drop_bytes = load_number(section + kNumberBytes + 1);
  if (dropped > kept || span.count + dropped < kept || span.count + dropped - kept > others)
    return Reason::kCount;
  if (drop_bytes > bytes - kChangesHeadBytes) return Reason::kSectionLength;
  const uint64_t added = span.count + dropped - kept;
  const uint8_t* code = section + kChangesHeadBytes;
  std::vector<uint8_t> drops(bytes_of(kept)), adds(bytes_of(others));
  Reason reason = read_bit_code(static_cast<BitCoder>(coders & 15), code, drop_bytes, kept, dropped,
                                0, profile, scratch, drops.data());
  if (reason != Reason::kNone) return reason;
  reason = read_bit_code(static_cast<BitCoder>(coders >> 4), code + drop_bytes,
                         bytes - kChangesHeadBytes - drop_bytes, others, added, 0, profile, scratch,
                         adds.data());
  if (reason != Reason::kNone) return reason;
  // What of the base stays is what was not dropped.
  flip_bits(kept, drops.data());
  std::vector<uint8_t> added_bits(bytes_of(span.positions));
  expand_bits(drops.data(), kept, base, span.positions, Through::kMask, bits);
  expand_bits(adds.data(), others, base, span.positions, Through::kComplement, added_bits.data());
  for (size_t i = 0; i < added_bits.size(); ++i) bits[i] |= added_bits[i];
  return Reason::kNone;
}

uint8_t append_signs(const int8_t* signs, const int8_t* base, uint64_t count, Profile profile,
                     Scratch* scratch, std::vector<uint8_t>* out, bool* valid) {
  std::vector<uint8_t> bits(bytes_of(count));
  const bool sound = base == nullptr ? pack_signs(signs, count, bits.data())
                                     : pack_flips(signs, base, count, bits.data());
  if (!sound) *valid = false;
  const uint64_t set = popcount(bits.data(), bits.size());
  const size_t head = out->size();
  out->resize(head + kNumberBytes);
  const BitCoder coder = append_bit_code(bits.data(), count, set, 0, profile, scratch, out);
  if (out->size() - head < bits.size()) {
    store_number(set, out->data() + head);
    return static_cast<uint8_t>(1 + static_cast<uint8_t>(coder));
  }
  out->resize(head);
  out->insert(out->end(), bits.begin(), bits.end());
  return 0;
}

Reason read_packed_signs(uint8_t coder, const uint8_t* section, size_t bytes, const int8_t* base,
                         uint64_t count, Profile profile, Scratch* scratch, uint8_t* negative) {
  if (coder == 0) {
    if (bytes != bytes_of(count)) return Reason::kSectionLength;
    if (!tail_is_zero(section, count)) return Reason::kPadding;
    std::copy_n(section, bytes, negative);
  } else {
    if (bytes < kNumberBytes || bytes >= bytes_of(count)) return Reason::kSectionLength;
    const uint64_t set = load_number(section);
    if (set > count) return Reason::kCode;
    const Reason reason =
        read_bit_code(static_cast<BitCoder>(coder - 1), section + kNumberBytes,
                      bytes - kNumberBytes, count, set, 0, profile, scratch, negative);
    if (reason != Reason::kNone) return reason;
  }
  if (base != nullptr) flip_signs(base, count, negative);
  return Reason::kNone;
}

}  // namespace sparsefl::codec
