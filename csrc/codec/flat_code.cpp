#include "codec/flat_code.h"

#include <algorithm>

#include "codec/bits.h"
#include "codec/byte_code.h"
#include "codec/gap_code.h"

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

// Finds the gaps between the positions that gap coders code, of which there are some.
void find_coded_gaps(const uint8_t* bits, size_t n, size_t count, Scratch* scratch) {
  if (!codes_clear_bits(n, count)) return find_gaps(bits, n, count, &scratch->gaps);
  scratch->minority.assign(bits, bits + bytes_of(n));
  invert(n, scratch->minority.data());
  find_gaps(scratch->minority.data(), n, n - count, &scratch->gaps);
}

void append_bitmap(const uint8_t* bits, size_t n, size_t count, std::vector<uint8_t>* out) {
  out->insert(out->end(), bits, bits + bitmap_bytes(n, count));
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

Reason read_rans_bytes(const uint8_t* data, size_t bytes, size_t n, size_t count, uint8_t* bits) {
  if (count == 0 || count == n) return Reason::kCode;
  size_t used = 0;
  const Reason reason = read_byte_code(data, bytes, bytes_of(n), Profile::kRans, bits, &used);
  if (reason != Reason::kNone) return reason;
  if (used != bytes) return Reason::kSectionLength;
  if (!tail_is_zero(bits, n)) return Reason::kPadding;
  return popcount(bits, bytes_of(n)) == count ? Reason::kNone : Reason::kBitmap;
}

using ReadGaps = Reason (*)(const uint8_t*, size_t, size_t, size_t, const PositionSink&);

Reason read_gap_bits(ReadGaps read, const uint8_t* data, size_t bytes, size_t n, size_t count,
                     uint8_t* bits) {
  if (count == 0 || count == n) return Reason::kCode;
  const bool inverted = codes_clear_bits(n, count);
  const Reason reason = read(data, bytes, n, inverted ? n - count : count, {nullptr, bits});
  if (reason == Reason::kNone && inverted) invert(n, bits);
  return reason;
}

// An estimate so much above a size is not worth the exact one.
bool is_hopeless(uint64_t estimate, uint64_t bytes) { return estimate > bytes + bytes / 128 + 64; }

// Replaces what `out` has from `at` on by a code with rANS where one is smaller.
BitCoder try_rans(const uint8_t* bits, size_t n, int rice_parameter, BitCoder best, size_t at,
                  Scratch* scratch, std::vector<uint8_t>* out) {
  scratch->code.clear();
  append_rans_gaps(scratch->gaps, rice_parameter, &scratch->code);
  if (keep_smaller(at, scratch->code, out)) best = BitCoder::kRansGaps;
  uint32_t counts[256] = {};
  count_bytes(bits, bytes_of(n), counts);
  if (is_hopeless(estimate_byte_code(counts, bytes_of(n), Profile::kRans), out->size() - at))
    return best;
  scratch->code.clear();
  append_byte_code(bits, bytes_of(n), Profile::kRans, &scratch->code);
  return keep_smaller(at, scratch->code, out) ? BitCoder::kRansBytes : best;
}

}  // namespace

bool keep_smaller(size_t at, const std::vector<uint8_t>& candidate, std::vector<uint8_t>* out) {
  if (candidate.size() >= out->size() - at) return false;
  out->resize(at);
  out->insert(out->end(), candidate.begin(), candidate.end());
  return true;
}

BitCoder append_flat_code(const uint8_t* bits, size_t n, size_t count, Profile profile,
                          Scratch* scratch, std::vector<uint8_t>* out) {
  const size_t plain_bytes = bitmap_bytes(n, count);
  if (plain_bytes == 0) return BitCoder::kBitmap;
  const size_t at = out->size();
  BitCoder best = BitCoder::kBitmap;
  find_coded_gaps(bits, n, count, scratch);
  const RicePlan plan = plan_rice(scratch->gaps);
  if (plan.bytes < plain_bytes) {
    append_rice(scratch->gaps, plan, out);
    best = BitCoder::kRice;
  } else {
    append_bitmap(bits, n, count, out);
  }
  return profile == Profile::kPlain ? best
                                    : try_rans(bits, n, plan.parameter, best, at, scratch, out);
}

bool append_flat_code_as(BitCoder coder, const uint8_t* bits, size_t n, size_t count,
                         Scratch* scratch, std::vector<uint8_t>* out) {
  if (coder == BitCoder::kBitmap) {
    append_bitmap(bits, n, count, out);
    return true;
  }
  if (bitmap_bytes(n, count) == 0) return false;
  switch (coder) {
    case BitCoder::kRice:
      find_coded_gaps(bits, n, count, scratch);
      append_rice(scratch->gaps, plan_rice(scratch->gaps), out);
      return true;
    case BitCoder::kRansBytes:
      append_byte_code(bits, bytes_of(n), Profile::kRans, out);
      return true;
    case BitCoder::kRansGaps:
      find_coded_gaps(bits, n, count, scratch);
      append_rans_gaps(scratch->gaps, plan_rice(scratch->gaps).parameter, out);
      return true;
    default:
      return false;
  }
}

Reason read_flat_code(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                      Profile profile, uint8_t* bits) {
  if (!has_coder(coder, profile)) return Reason::kCoder;
  switch (coder) {
    case BitCoder::kBitmap:
      return read_bitmap(data, bytes, n, count, bits);
    case BitCoder::kRice:
      return read_gap_bits(read_rice, data, bytes, n, count, bits);
    case BitCoder::kRansBytes:
      return read_rans_bytes(data, bytes, n, count, bits);
    case BitCoder::kRansGaps:
      return read_gap_bits(read_rans_gaps, data, bytes, n, count, bits);
    default:
      // Codes of rows within codes of rows.
      return Reason::kCoder;
  }
}

bool has_coder(BitCoder coder, Profile profile) {
  if (coder == BitCoder::kRansBytes || coder == BitCoder::kRansGaps)
    return profile == Profile::kRans;
  return coder <= BitCoder::kTiles;
}

bool read_flat_indices(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                       Profile profile, uint32_t* indices, Reason* reason) {
  if (codes_clear_bits(n, count) || count == 0) return false;
  if (coder != BitCoder::kRice && coder != BitCoder::kRansGaps) return false;
  if (!has_coder(coder, profile)) return false;
  const auto read = coder == BitCoder::kRice ? read_rice : read_rans_gaps;
  *reason = read(data, bytes, n, count, {indices, nullptr});
  return true;
}

}  // namespace sparsefl::codec
