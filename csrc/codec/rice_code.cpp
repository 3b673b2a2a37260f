#include <algorithm>
#include <bit>
#include <cstring>

#include "codec/bits.h"
#include "codec/gap_code.h"
#include "codec/gap_kernels.h"
#include "codec/positions.h"

namespace sparsefl::codec {
namespace {

void append_unary(const Gaps& gaps, int shift, size_t bytes, std::vector<uint8_t>* out) {
  const size_t at = out->size();
  out->resize(at + bytes + kGapSlack);
  uint8_t* to = out->data() + at;
  if (!gaps.is_wide) {
    gap_kernels().write_unary(gaps.narrow.data(), gaps.count, shift, to);
  } else {
    std::memset(to, 0, bytes);
    uint64_t bit = 0;
    for (size_t i = 0; i < gaps.count; ++i, ++bit) {
      bit += gaps.wide[i] >> shift;
      to[bit / 8] |= static_cast<uint8_t>(1u << (bit % 8));
    }
  }
  out->resize(at + bytes);
}

struct RiceParts {
  const uint8_t* lows;
  size_t low_bytes;
  const uint8_t* unary;
  size_t unary_bytes;
  int parameter;
};

// Where a quotient has more than 16 bits.
Reason read_wide_rice(const RiceParts& parts, size_t n, const PositionSink& sink) {
  Positions positions(n, parts.parameter, sink);
  LowReader lows(parts.lows, parts.low_bytes, parts.parameter);
  uint64_t zeros = 0;
  for (size_t i = 0; i < parts.unary_bytes; ++i) {
    uint32_t used = 0;
    for (uint32_t byte = parts.unary[i]; byte != 0; byte &= byte - 1) {
      const auto at = static_cast<uint32_t>(std::countr_zero(byte));
      if (!positions.put_wide(zeros + at - used, lows.next())) return Reason::kCode;
      zeros = 0;
      used = at + 1;
    }
    zeros += 8 - used;
  }
  return Reason::kNone;
}

// Reads the positions of a code whose parts are sound; *wide turns true where it cannot.
Reason read_narrow_rice(const RiceParts& parts, const uint8_t* end, size_t n,
                        const PositionSink& sink, bool* wide) {
  Positions positions(n, parts.parameter, sink);
  Lows lows(parts.lows, end, parts.parameter);
  uint16_t quotients[16 + kIndexBlock + kGapSlack];
  uint8_t tail[8 * kUnaryWords] = {};
  uint32_t before = 0;
  size_t waiting = 0;
  for (size_t at = 0; at < parts.unary_bytes; at += 8 * kUnaryWords) {
    const size_t left = parts.unary_bytes - at;
    const bool is_last = left <= 8 * kUnaryWords;
    const uint8_t* words = parts.unary + at;
    if (is_last) {
      std::memcpy(tail, words, left);
      words = tail;
    }
    const size_t count = is_last ? (left + 7) / 8 : kUnaryWords;
    waiting += gap_kernels().find_quotients(words, count, &before, quotients + waiting, wide);
    if (*wide) return Reason::kNone;
    const size_t take = is_last ? waiting : waiting / 16 * 16;
    if (!positions.put(quotients, lows.take(take), take)) return Reason::kCode;
    std::copy(quotients + take, quotients + waiting, quotients);
    waiting -= take;
  }
  return Reason::kNone;
}

}  // namespace

RicePlan plan_rice(const Gaps& gaps) {
  // The bits of a code are convex in the parameter, so the search steps downhill from where gaps of
  // a geometric distribution have their least: about log2 of .69 of their mean.
  const uint64_t count = gaps.count;
  const uint64_t half_life = gaps.sum * 11 / 16 / count;
  int r = std::max(1, static_cast<int>(std::bit_width(half_life)) - 1);
  // Three at once: most searches end with these.
  uint64_t sums[3];
  int first = 0;
  const auto quotients = [&](int shift) {
    if (first == 0 || shift < first || shift > first + 2) {
      first = std::max(1, shift - 1);
      sum_quotients(gaps, first, sums);
    }
    return sums[shift - first];
  };
  uint64_t here = quotients(r);
  const int begin = r;
  // One more bit a low costs `count` bits and saves the difference of the sums.
  for (uint64_t above; here - (above = quotients(r + 1)) > count; ++r) here = above;
  if (r == begin)
    for (uint64_t below; r > 1 && (below = quotients(r - 1)) - here <= count; --r) here = below;
  const auto width = static_cast<uint64_t>(r);
  return {static_cast<uint8_t>(r), 1 + bytes_of(count * width) + bytes_of(count + here)};
}

void append_rice(const Gaps& gaps, const RicePlan& plan, std::vector<uint8_t>* out) {
  const size_t end = out->size() + plan.bytes;
  out->reserve(end + kGapSlack);
  out->push_back(plan.parameter);
  append_lows(gaps, plan.parameter, out);
  append_unary(gaps, plan.parameter, end - out->size(), out);
}

Reason read_rice(const uint8_t* data, size_t bytes, size_t n, size_t count,
                 const PositionSink& sink) {
  if (bytes == 0) return Reason::kSectionLength;
  RiceParts parts{};
  parts.parameter = data[0];
  const auto r = static_cast<size_t>(parts.parameter);
  if (r < 1 || r > kMaxParameter || (count << r) > 4 * n) return Reason::kCode;
  parts.low_bytes = bytes_of(count * r);
  if (bytes - 1 < parts.low_bytes + bytes_of(count)) return Reason::kSectionLength;
  parts.lows = data + 1;
  parts.unary = parts.lows + parts.low_bytes;
  parts.unary_bytes = bytes - 1 - parts.low_bytes;
  if (!tail_is_zero(parts.lows, count * r)) return Reason::kPadding;
  const uint8_t last = data[bytes - 1];
  if (last == 0 || popcount(parts.unary, parts.unary_bytes) != count) return Reason::kCode;
  // No sum of a code can pass 2^25 now: lows stay below 4 n, quotients below n.
  const uint64_t zeros = 8 * (parts.unary_bytes - 1) + std::bit_width(last) - count;
  if ((zeros << r) > n) return Reason::kCode;
  clear(n, sink);
  bool wide = false;
  const Reason reason = read_narrow_rice(parts, data + bytes, n, sink, &wide);
  if (!wide) return reason;
  clear(n, sink);
  return read_wide_rice(parts, n, sink);
}

}  // namespace sparsefl::codec
