#include "codec/gaps.h"

#include <bit>
#include <cstring>

#include "codec/format.h"
#include "codec/gap_kernels.h"

namespace sparsefl::codec {
namespace {

// Bits [64 w, 64 w + 64) of `bytes` bytes, zeros past their end.
uint64_t load_word(const uint8_t* data, size_t bytes, size_t w) {
  if (8 * w + 8 <= bytes) return load<uint64_t>(data + 8 * w);
  uint64_t word = 0;
  std::memcpy(&word, data + 8 * w, bytes - 8 * w);
  return word;
}

template <class Visit>
void visit_set_bits(const uint8_t* bits, size_t n, Visit&& visit) {
  const size_t bytes = (n + 7) / 8;
  for (size_t w = 0; 8 * w < bytes; ++w)
    for (uint64_t word = load_word(bits, bytes, w); word != 0; word &= word - 1)
      visit(static_cast<uint32_t>(64 * w) + static_cast<uint32_t>(std::countr_zero(word)));
}

}  // namespace

void find_gaps(const uint8_t* bits, size_t n, size_t count, Gaps* gaps) {
  gaps->count = count;
  gaps->narrow.resize(count + kGapSlack);
  gaps->is_wide = !gap_kernels().find_gaps(bits, n, count, gaps->narrow.data());
  if (gaps->is_wide) {
    gaps->wide.resize(count);
    uint32_t next = 0;
    visit_set_bits(bits, n, [&next, to = gaps->wide.data()](uint32_t at) mutable {
      *to++ = at - next;
      next = at + 1;
    });
  }
  size_t end = (n + 7) / 8;
  while (end != 0 && bits[end - 1] == 0) --end;
  gaps->sum = end == 0 ? 0 : 8 * (end - 1) + std::bit_width(bits[end - 1]) - count;
}

void indices_of(const uint8_t* bits, size_t n, uint32_t* indices) {
  visit_set_bits(bits, n, [&indices](uint32_t at) { *indices++ = at; });
}

void sum_quotients(const Gaps& gaps, int shift, uint64_t* sums) {
  if (!gaps.is_wide)
    return gap_kernels().sum_quotients(gaps.narrow.data(), gaps.count, shift, sums);
  for (int j = 0; j < 3; ++j) {
    sums[j] = 0;
    for (size_t i = 0; i < gaps.count; ++i) sums[j] += gaps.wide[i] >> (shift + j);
  }
}

void append_lows(const Gaps& gaps, int width, std::vector<uint8_t>* out) {
  if (width == 0) return;
  const size_t at = out->size();
  const size_t bytes = (gaps.count * static_cast<size_t>(width) + 7) / 8;
  out->resize(at + bytes + kGapSlack);
  uint8_t* to = out->data() + at;
  if (!gaps.is_wide && width <= kMaxPackedLow) {
    gap_kernels().pack_lows(gaps.narrow.data(), gaps.count, width, to);
  } else {
    uint64_t held = 0;
    int fill = 0;
    for (size_t i = 0; i < gaps.count; ++i) {
      held |= uint64_t{gaps.at(i) & ((1u << width) - 1)} << fill;
      fill += width;
      for (; fill >= 8; fill -= 8, held >>= 8) *to++ = static_cast<uint8_t>(held);
    }
    *to = static_cast<uint8_t>(held);
  }
  out->resize(at + bytes);
}

}  // namespace sparsefl::codec
