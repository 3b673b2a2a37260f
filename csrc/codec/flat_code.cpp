#include "codec/flat_code.h"

#include <algorithm>

#include "codec/bits.h"
#include "codec/byte_code.h"
#include "codec/entropy.h"
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

// Of a longer string a sample tells which of the two codes with rANS is shorter, or whether they
// are so much alike that the faster one may be taken.
constexpr size_t kWholeBits = size_t{1} << 18;
constexpr size_t kStretches = 32, kStretchBytes = 512;

// Stretches of the string, evenly spread, one after the other.
void take_sample(const uint8_t* bits, size_t n, std::vector<uint8_t>* sample) {
  sample->resize(kStretches * kStretchBytes);
  const size_t apart = bytes_of(n) / kStretches;
  for (size_t i = 0; i < kStretches; ++i)
    std::copy_n(bits + i * apart, kStretchBytes, sample->data() + i * kStretchBytes);
}

// Where one bit in so many is set, or more, a code of the bitmap's bytes takes less time than one
// of gaps, both ways, and may take 1 / 512 more bytes; of fewer bits it has to take 1 / 256 less.
constexpr size_t kDenseOneIn = 12;

bool prefers_bytes(const uint8_t* bits, size_t n, size_t count, Scratch* scratch) {
  take_sample(bits, n, &scratch->code);
  const uint8_t* const sample = scratch->code.data();
  const size_t bytes = scratch->code.size();
  const size_t set = popcount(sample, bytes);
  if (set == 0 || set == 8 * bytes) return false;
  const uint64_t scale = bytes_of(n) / bytes;
  uint32_t counts[256] = {};
  count_bytes(sample, bytes, counts);
  const uint64_t by_bytes = entropy_cost(counts, bytes, scale);
  find_coded_gaps(sample, 8 * bytes, set, scratch);
  const int parameter = plan_rice(scratch->gaps).parameter;
  const uint64_t by_gaps = choose_heads(scratch->gaps, parameter, scale, &scratch->heads).cost;
  const bool is_dense = std::min(count, n - count) * kDenseOneIn >= n;
  return is_dense ? by_bytes <= by_gaps + by_gaps / 512 : by_bytes + by_bytes / 256 <= by_gaps;
}

bool take_smaller(BitCoder coder, uint64_t bytes, FlatPlan* plan) {
  if (bytes >= plan->bytes) return false;
  plan->coder = coder;
  plan->bytes = bytes;
  return true;
}

void plan_bytes(const uint8_t* bits, size_t n, FlatPlan* plan) {
  uint32_t counts[256] = {};
  count_bytes(bits, bytes_of(n), counts);
  const ByteModel model = choose_byte_model(counts, bytes_of(n), Profile::kRans);
  if (take_smaller(BitCoder::kRansBytes, coded_bytes(model), plan)) plan->model = model;
}

}  // namespace

bool keep_smaller(size_t at, const std::vector<uint8_t>& candidate, std::vector<uint8_t>* out) {
  if (candidate.size() >= out->size() - at) return false;
  out->resize(at);
  out->insert(out->end(), candidate.begin(), candidate.end());
  return true;
}

FlatPlan plan_flat_code(const uint8_t* bits, size_t n, size_t count, Profile profile,
                        Scratch* scratch) {
  FlatPlan plan;
  plan.bytes = bitmap_bytes(n, count);
  if (plan.bytes == 0) return plan;
  if (profile == Profile::kRans && n > kWholeBits && prefers_bytes(bits, n, count, scratch)) {
    plan_bytes(bits, n, &plan);
    return plan;
  }
  find_coded_gaps(bits, n, count, scratch);
  plan.rice = plan_rice(scratch->gaps);
  take_smaller(BitCoder::kRice, plan.rice.bytes, &plan);
  if (profile == Profile::kPlain) return plan;
  plan.heads = plan_heads(scratch->gaps, plan.rice.parameter, &scratch->heads);
  take_smaller(BitCoder::kRansGaps, plan.heads.bytes, &plan);
  if (n <= kWholeBits) plan_bytes(bits, n, &plan);
  return plan;
}

void append_planned(const uint8_t* bits, size_t n, size_t count, const FlatPlan& plan,
                    Scratch* scratch, std::vector<uint8_t>* out) {
  switch (plan.coder) {
    case BitCoder::kRice:
      return append_rice(scratch->gaps, plan.rice, out);
    case BitCoder::kRansBytes:
      return append_byte_code(bits, bytes_of(n), plan.model, out);
    case BitCoder::kRansGaps:
      return append_rans_gaps(scratch->gaps, plan.heads, &scratch->heads, out);
    default:
      return append_bitmap(bits, n, count, out);
  }
}

BitCoder append_flat_code(const uint8_t* bits, size_t n, size_t count, Profile profile,
                          Scratch* scratch, std::vector<uint8_t>* out) {
  const FlatPlan plan = plan_flat_code(bits, n, count, profile, scratch);
  append_planned(bits, n, count, plan, scratch, out);
  return plan.coder;
}

bool append_flat_code_as(BitCoder coder, const uint8_t* bits, size_t n, size_t count,
                         Scratch* scratch, std::vector<uint8_t>* out) {
  if (coder > BitCoder::kRansGaps) return false;
  if (coder != BitCoder::kBitmap && bitmap_bytes(n, count) == 0) return false;
  FlatPlan plan;
  plan.bytes = ~uint64_t{0};
  if (coder == BitCoder::kRice || coder == BitCoder::kRansGaps) {
    find_coded_gaps(bits, n, count, scratch);
    plan.rice = plan_rice(scratch->gaps);
  }
  if (coder == BitCoder::kRansGaps)
    plan.heads = plan_heads(scratch->gaps, plan.rice.parameter, &scratch->heads);
  if (coder == BitCoder::kRansBytes) plan_bytes(bits, n, &plan);
  plan.coder = coder;
  append_planned(bits, n, count, plan, scratch, out);
  return true;
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
