#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <span>

#include "codec/bits.h"
#include "codec/byte_code.h"
#include "codec/gap_code.h"
#include "codec/gap_kernels.h"
#include "codec/positions.h"

namespace sparsefl::codec {
namespace {

// Heads of which some take more than one symbol.
template <class Gap>
void find_long_heads(const Gap* gaps, size_t count, int shift, std::vector<uint8_t>* symbols) {
  size_t more = 0;
  for (size_t i = 0; i < count; ++i) more += (gaps[i] >> shift) / kMoreHeads;
  symbols->resize(count + more);
  uint8_t* to = symbols->data();
  for (size_t i = 0; i < count; ++i) {
    uint32_t head = static_cast<uint32_t>(gaps[i]) >> shift;
    for (; head >= kMoreHeads; head -= kMoreHeads) *to++ = uint8_t{kMoreHeads};
    *to++ = static_cast<uint8_t>(head);
  }
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
Reason put_heads(std::span<const uint8_t> symbols, const uint8_t* lows_begin, const uint8_t* end,
                 size_t n, int width, const PositionSink& sink, bool* wide) {
  Positions positions(n, width, sink);
  Lows lows(lows_begin, end, width);
  uint16_t quotients[kIndexBlock + kGapSlack];
  size_t waiting = 0;
  uint32_t before = 0;
  for (size_t at = 0; at < symbols.size();) {
    // Symbols that are heads up to the next that is not, which is rare.
    const size_t most = std::min(kIndexBlock - waiting, symbols.size() - at);
    const uint8_t* const from = symbols.data() + at;
    const auto* const stop = static_cast<const uint8_t*>(std::memchr(from, kMoreHeads, most));
    const size_t run = stop == nullptr ? most : static_cast<size_t>(stop - from);
    for (size_t i = 0; i < run; ++i) quotients[waiting + i] = from[i];
    if (run != 0) {
      *wide |= before + from[0] >= 65536;
      quotients[waiting] = static_cast<uint16_t>(before + from[0]);
      before = 0;
    }
    at += run;
    waiting += run;
    if (stop != nullptr) {
      before += kMoreHeads;
      ++at;
    }
    if (waiting < kIndexBlock && at < symbols.size()) continue;
    if (*wide) return Reason::kNone;
    if (!positions.put(quotients, lows.take(waiting), waiting)) return Reason::kCode;
    waiting = 0;
  }
  return Reason::kNone;
}

Reason put_wide_heads(std::span<const uint8_t> symbols, const uint8_t* data, size_t bytes, size_t n,
                      int width, const PositionSink& sink) {
  Positions positions(n, width, sink);
  LowReader lows(data, bytes, width);
  uint64_t head = 0;
  for (const uint8_t symbol : symbols) {
    head += symbol;
    if (symbol == kMoreHeads) continue;
    if (!positions.put_wide(head, lows.next())) return Reason::kCode;
    head = 0;
  }
  return Reason::kNone;
}

}  // namespace

void find_heads(const Gaps& gaps, const HeadPlan& plan, std::vector<uint8_t>* symbols) {
  const int shift = plan.parameter;
  if (gaps.is_wide) return find_long_heads(gaps.wide.data(), gaps.count, shift, symbols);
  const uint16_t* const narrow = gaps.narrow.data();
  if (plan.is_long) return find_long_heads(narrow, gaps.count, shift, symbols);
  symbols->resize(gaps.count);
  gap_kernels().find_heads(narrow, gaps.count, shift, symbols->data());
}

void append_rans_gaps(const Gaps& gaps, const HeadPlan& plan, HeadScratch* scratch,
                      std::vector<uint8_t>* out) {
  if (!plan.is_long) find_heads(gaps, plan, &scratch->symbols);
  out->push_back(plan.parameter);
  append_number(plan.symbols - gaps.count, out);
  append_byte_code(scratch->symbols.data(), plan.symbols, plan.model, out);
  append_lows(gaps, plan.parameter, out);
}

Reason read_rans_gaps(const uint8_t* data, size_t bytes, size_t n, size_t count,
                      const PositionSink& sink) {
  if (bytes == 0) return Reason::kSectionLength;
  const int r = data[0];
  size_t at = 1;
  uint64_t more = 0;
  if (r > kMaxParameter || (count << r) > 4 * n) return Reason::kCode;
  if (!read_number(data, bytes, &at, &more)) return Reason::kSectionLength;
  if (more > n || (more * kMoreHeads << r) > n) return Reason::kCode;
  const auto memory = std::make_unique_for_overwrite<uint8_t[]>(count + more);
  const std::span<uint8_t> symbols(memory.get(), count + more);
  size_t used = 0;
  const Reason reason =
      read_byte_code(data + at, bytes - at, symbols.size(), Profile::kRans, symbols.data(), &used);
  if (reason != Reason::kNone) return reason;
  at += used;
  const size_t low_bits = count * static_cast<size_t>(r);
  if (bytes - at != bytes_of(low_bits)) return Reason::kSectionLength;
  if (!tail_is_zero(data + at, low_bits)) return Reason::kPadding;
  if (symbols.back() == kMoreHeads ||
      static_cast<uint64_t>(std::count(symbols.begin(), symbols.end(), uint8_t{kMoreHeads})) !=
          more)
    return Reason::kCode;
  clear(n, sink);
  bool wide = false;
  const Reason narrow = put_heads(symbols, data + at, data + bytes, n, r, sink, &wide);
  if (!wide) return narrow;
  clear(n, sink);
  return put_wide_heads(symbols, data + at, bytes - at, n, r, sink);
}

}  // namespace sparsefl::codec
