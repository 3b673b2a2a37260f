#include <algorithm>
#include <bit>

#include "codec/bits.h"
#include "codec/byte_code.h"
#include "codec/gap_code.h"
#include "codec/positions.h"

namespace sparsefl::codec {
namespace {

// A head of this symbol: so many heads more, and no position.
constexpr uint32_t kMore = 255;
// Heads are finer than the quotients of a Golomb-Rice code by up to this many bits: with fewer, the
// distribution within one head matters; with more, so do the table and the rounding of rare heads.
constexpr int kFinestHead = 5;

// Heads of the gaps, those of kMore and above after symbols kMore.
void find_heads(const Gaps& gaps, int shift, std::vector<uint8_t>* symbols) {
  symbols->resize(gaps.count);
  if (!gaps.is_wide) {
    uint32_t all = 0;
    const uint16_t* const narrow = gaps.narrow.data();
    uint8_t* const to = symbols->data();
    for (size_t i = 0; i < gaps.count; ++i) {
      const uint32_t head = static_cast<uint32_t>(narrow[i]) >> shift;
      all = std::max(all, head);
      to[i] = static_cast<uint8_t>(head);
    }
    if (all < kMore) return;
  }
  symbols->clear();
  for (size_t i = 0; i < gaps.count; ++i) {
    uint32_t head = gaps.at(i) >> shift;
    for (; head >= kMore; head -= kMore) symbols->push_back(uint8_t{kMore});
    symbols->push_back(static_cast<uint8_t>(head));
  }
}

// log2(x) in units of 2^-16, within 10 of them, for 1 <= x < 2^32: with x = 2^e (1 + f) about
// e + f + f (1 - f) (.4427 - .2476 f + .0836 f^2).
uint64_t log2_of(uint64_t x) {
  const int e = std::bit_width(x) - 1;
  const auto f = static_cast<int64_t>(x << (32 - e) >> 16 & 0xFFFF);
  const int64_t bend = 29013 + ((-16227 + (5479 * f >> 16)) * f >> 16);
  return (static_cast<uint64_t>(e) << 16) +
         static_cast<uint64_t>(f + ((f * (65536 - f) >> 16) * bend >> 16));
}

// About what the symbols cost in units of 2^-16 bits: their entropy, and a byte of a table each, or
// a byte each.
uint64_t entropy_cost(const uint32_t* counts, uint64_t n) {
  uint64_t cost = n * log2_of(n);
  for (int s = 0; s < 256; ++s)
    if (counts[s] != 0) cost += (uint64_t{8} << 16) - counts[s] * log2_of(counts[s]);
  return std::min(cost, n * 8 << 16);
}

// The parameter of heads whose symbols and lows cost the fewest bits. One pass counts the finest
// heads; those of coarser ones are sums of them.
int choose_head_parameter(const Gaps& gaps, int rice_parameter) {
  const int coarsest = rice_parameter;
  const int finest = std::max(0, coarsest - kFinestHead);
  constexpr uint32_t kBins = (kMore + 1) << kFinestHead;
  std::vector<uint32_t> counts(kBins);
  for (size_t i = 0; i < gaps.count; ++i) ++counts[std::min(gaps.at(i) >> finest, kBins - 1)];
  int best = finest;
  uint64_t least = ~uint64_t{0};
  for (int r = finest; r <= coarsest; ++r) {
    uint32_t heads[256] = {};
    for (uint32_t bin = 0; bin < kBins; ++bin)
      heads[std::min(bin >> (r - finest), kMore)] += counts[bin];
    const uint64_t cost =
        entropy_cost(heads, gaps.count) + (gaps.count * static_cast<uint64_t>(r) << 16);
    if (cost < least) {
      least = cost;
      best = r;
    }
  }
  return best;
}

// Numbers of seven bits a byte, the lowest first; all but the last byte have their top bit set.
void append_number(uint64_t number, std::vector<uint8_t>* out) {
  for (; number >= 128; number >>= 7) out->push_back(static_cast<uint8_t>(number | 128));
  out->push_back(static_cast<uint8_t>(number));
}

bool read_number(const uint8_t* data, size_t bytes, size_t* at, uint64_t* number) {
  for (int shift = 0; shift < 28; shift += 7) {
    if (*at == bytes) return false;
    const uint8_t byte = data[(*at)++];
    *number |= uint64_t{byte & 127u} << shift;
    // One number has one form: no zeros above its highest bits.
    if (byte < 128) return byte != 0 || shift == 0;
  }
  return false;
}

// Puts the positions of heads and lows; *wide turns true where a head has more than 16 bits.
Reason put_heads(const std::vector<uint8_t>& symbols, const uint8_t* lows_begin, const uint8_t* end,
                 size_t n, int width, const PositionSink& sink, bool* wide) {
  Positions positions(n, width, sink);
  Lows lows(lows_begin, end, width);
  uint16_t quotients[kIndexBlock + kGapSlack];
  size_t waiting = 0;
  uint32_t before = 0;
  for (const uint8_t symbol : symbols) {
    before += symbol;
    if (symbol == kMore) continue;
    *wide |= before >= 65536;
    quotients[waiting++] = static_cast<uint16_t>(before);
    before = 0;
    if (waiting < kIndexBlock) continue;
    if (*wide) return Reason::kNone;
    if (!positions.put(quotients, lows.take(waiting), waiting)) return Reason::kCode;
    waiting = 0;
  }
  if (*wide || waiting == 0 || positions.put(quotients, lows.take(waiting), waiting))
    return Reason::kNone;
  return Reason::kCode;
}

Reason put_wide_heads(const std::vector<uint8_t>& symbols, const uint8_t* data, size_t bytes,
                      size_t n, int width, const PositionSink& sink) {
  Positions positions(n, width, sink);
  LowReader lows(data, bytes, width);
  uint64_t head = 0;
  for (const uint8_t symbol : symbols) {
    head += symbol;
    if (symbol == kMore) continue;
    if (!positions.put_wide(head, lows.next())) return Reason::kCode;
    head = 0;
  }
  return Reason::kNone;
}

}  // namespace

void append_rans_gaps(const Gaps& gaps, int rice_parameter, std::vector<uint8_t>* out) {
  const int r = choose_head_parameter(gaps, rice_parameter);
  std::vector<uint8_t> symbols;
  find_heads(gaps, r, &symbols);
  out->push_back(static_cast<uint8_t>(r));
  append_number(symbols.size() - gaps.count, out);
  append_byte_code(symbols.data(), symbols.size(), Profile::kRans, out);
  append_lows(gaps, r, out);
}

Reason read_rans_gaps(const uint8_t* data, size_t bytes, size_t n, size_t count,
                      const PositionSink& sink) {
  if (bytes == 0) return Reason::kSectionLength;
  const int r = data[0];
  size_t at = 1;
  uint64_t more = 0;
  if (r > kMaxParameter || (count << r) > 4 * n) return Reason::kCode;
  if (!read_number(data, bytes, &at, &more)) return Reason::kSectionLength;
  if (more > n || (more * kMore << r) > n) return Reason::kCode;
  std::vector<uint8_t> symbols(count + more);
  size_t used = 0;
  const Reason reason =
      read_byte_code(data + at, bytes - at, symbols.size(), Profile::kRans, symbols.data(), &used);
  if (reason != Reason::kNone) return reason;
  at += used;
  const size_t low_bits = count * static_cast<size_t>(r);
  if (bytes - at != bytes_of(low_bits)) return Reason::kSectionLength;
  if (!tail_is_zero(data + at, low_bits)) return Reason::kPadding;
  if (symbols.back() == kMore ||
      static_cast<uint64_t>(std::count(symbols.begin(), symbols.end(), uint8_t{kMore})) != more)
    return Reason::kCode;
  clear(n, sink);
  bool wide = false;
  const Reason narrow = put_heads(symbols, data + at, data + bytes, n, r, sink, &wide);
  if (!wide) return narrow;
  clear(n, sink);
  return put_wide_heads(symbols, data + at, bytes - at, n, r, sink);
}

}  // namespace sparsefl::codec
