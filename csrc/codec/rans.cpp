#include "codec/rans.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "codec/format.h"
#include "codec/rans_kernels.h"
#include "cpu/isa.h"

namespace sparsefl::codec {
namespace {

constexpr uint32_t kSlotMask = kProbabilityOne - 1;
// The vector kernels decode this many symbols at a time and read at most as many words.
constexpr size_t kPair = 2 * kMaxLanes;

// What a code has left to read.
struct Input {
  const uint8_t* words;
  const uint8_t* end;
};

void fill_slots(const Frequencies& frequencies, SlotTable* table) {
  uint32_t* slot = table->slots;
  for (uint32_t s = 0; s < 256; ++s) {
    const uint32_t entry = s | uint32_t{frequencies.of[s]} << 8;
    for (uint32_t i = 0; i < frequencies.of[s]; ++i) *slot++ = entry | i << 20;
  }
}

void fill_ranks(const Frequencies& frequencies, RankTable* table) {
  std::memset(table, 0, sizeof *table);
  uint32_t start = 0;
  int rank = 0;
  for (uint32_t s = 0; s < 256; ++s) {
    const uint32_t f = frequencies.of[s];
    if (f == 0) continue;
    if (start != 0) table->starts_in[start / 16] |= static_cast<uint16_t>(1u << (start % 16));
    table->frequency[rank] = static_cast<uint16_t>(16 * f);
    table->start[rank] = static_cast<uint16_t>(start);
    table->symbol[rank] = static_cast<uint8_t>(s);
    start += f;
    ++rank;
  }
  for (int b = 1; b < 256; ++b) {
    const int before = table->starts_before[b - 1] + std::popcount(table->starts_in[b - 1]);
    table->starts_before[b] = static_cast<uint8_t>(before);
  }
  for (int i = 0; i < 32; ++i) table->upto[i] = static_cast<uint16_t>((2u << (i % 16)) - 1);
  for (int i = 0; i < 64; ++i)
    table->unzip[i] = static_cast<uint8_t>(i < 32 ? 2 * i : 2 * (i - 32) + 1);
  table->symbols = rank;
}

// As entry of a SlotTable.
uint32_t entry_of(const SlotTable& table, uint32_t slot) { return table.slots[slot]; }
uint32_t entry_of(const RankTable& table, uint32_t slot) {
  const uint32_t bucket = slot / 16;
  const auto before = static_cast<uint16_t>(table.starts_in[bucket] & table.upto[slot % 16]);
  const int rank = table.starts_before[bucket] + std::popcount(before);
  return table.symbol[rank] | uint32_t{table.frequency[rank]} << 4 |
         (slot - table.start[rank]) << 20;
}

template <class Table>
bool decode_each(const Table& table, uint32_t* states, size_t lanes, Input in, size_t n,
                 uint8_t* symbols) {
  size_t i = 0;
  // Which states take a word is not to be foretold: no branches while none can be the last.
  for (; i < n && in.end - in.words >= 2; ++i) {
    uint32_t& state = states[i & (lanes - 1)];
    const uint32_t entry = entry_of(table, state & kSlotMask);
    symbols[i] = static_cast<uint8_t>(entry);
    const uint32_t x = (entry >> 8 & kSlotMask) * (state >> kProbabilityBits) + (entry >> 20);
    const uint32_t takes = x < kLeastState;
    state = x << 16 * takes | (load<uint16_t>(in.words) & -takes);
    in.words += 2 * takes;
  }
  for (; i < n; ++i) {
    uint32_t& x = states[i & (lanes - 1)];
    const uint32_t entry = entry_of(table, x & kSlotMask);
    symbols[i] = static_cast<uint8_t>(entry);
    x = (entry >> 8 & kSlotMask) * (x >> kProbabilityBits) + (entry >> 20);
    if (x < kLeastState) return false;
  }
  return in.words == in.end &&
         std::all_of(states, states + lanes, [](uint32_t x) { return x == kLeastState; });
}

#if defined(__x86_64__)
// Whole pairs by the kernel, the last of them from a copy that it may read past, then the rest.
template <class Table, class Kernel>
bool decode_wide(const Table& table, Kernel kernel, uint32_t* states, Input in, size_t n,
                 uint8_t* symbols) {
  const size_t pairs = n / kPair;
  size_t done = kernel(table, states, &in.words, in.end, pairs, symbols);
  if (done < pairs) {
    uint8_t tail[4 * kPair] = {};
    const auto left = static_cast<size_t>(in.end - in.words);
    std::memcpy(tail, in.words, left);
    const uint8_t* words = tail;
    done += kernel(table, states, &words, tail + sizeof tail, pairs - done, symbols + kPair * done);
    const auto taken = static_cast<size_t>(words - tail);
    if (done < pairs || taken > left) return false;
    in.words += taken;
  }
  return decode_each(table, states, kMaxLanes, in, n - kPair * pairs, symbols + kPair * pairs);
}
#endif

// x / frequency = x * reciprocal >> 44, for x < frequency * 2^20.
struct EncoderSymbol {
  uint64_t reciprocal;
  uint32_t frequency, start;
};
constexpr int kReciprocalBits = 44;

// Calls put(symbol, frequency, start) for every symbol; those of frequency 0 have the escape's.
template <class Put>
void visit_symbols(const Frequencies& frequencies, int escape, const Put& put) {
  uint32_t starts[256];
  uint32_t start = 0;
  for (int s = 0; s < 256; ++s) {
    starts[s] = start;
    start += frequencies.of[s];
  }
  for (int s = 0; s < 256; ++s) {
    const int as = frequencies.of[s] == 0 && escape >= 0 ? escape : s;
    if (frequencies.of[as] != 0) put(s, uint32_t{frequencies.of[as]}, starts[as]);
  }
}

void fill_encoder(const Frequencies& frequencies, int escape, EncoderSymbol* table) {
  visit_symbols(frequencies, escape, [&](int s, uint32_t f, uint32_t start) {
    table[s] = {((uint64_t{1} << kReciprocalBits) + f - 1) / f, f, start};
  });
}

uint8_t* encode_each(const EncoderSymbol* table, const uint8_t* symbols, size_t begin, size_t n,
                     size_t lanes, uint32_t* states, uint8_t* end) {
  for (size_t i = n; i-- > begin;) {
    uint32_t& state = states[i & (lanes - 1)];
    const EncoderSymbol s = table[symbols[i]];
    uint32_t x = state;
    const uint32_t gives = x >> 20 >= s.frequency;
    store(end - 2, static_cast<uint16_t>(x));
    end -= 2 * gives;
    x >>= 16 * gives;
    const auto q = static_cast<uint32_t>(x * s.reciprocal >> kReciprocalBits);
    state = x + s.start + q * (kProbabilityOne - s.frequency);
  }
  return end;
}

#if defined(__x86_64__)
void fill_divisors(const Frequencies& frequencies, int escape, DivisorTable* table) {
  std::memset(table, 0, sizeof *table);
  visit_symbols(frequencies, escape, [&](int s, uint32_t f, uint32_t start) {
    const auto f16 = static_cast<uint16_t>(16 * f);
    const int shift = std::countl_zero(f16);
    table->frequency[s] = f16;
    table->reciprocal[s] = static_cast<uint16_t>(0xFFFFFFFFu / (uint32_t{f16} << shift));
    table->place[s] = static_cast<uint16_t>(16 * start + static_cast<uint32_t>(shift));
  });
  for (uint16_t i = 0; i < 32; ++i) table->iota[i] = i;
}
#endif

}  // namespace

#if defined(__x86_64__)
bool has_wide_kernels() {
  static const bool has = isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512vbmi") &&
                          __builtin_cpu_supports("avx512vbmi2") &&
                          __builtin_cpu_supports("avx512bitalg");
  return has;
}
#endif

uint8_t* encode_rans(const Frequencies& frequencies, int escape, const uint8_t* symbols, size_t n,
                     size_t lanes, uint32_t* states, uint8_t* end) {
  std::fill_n(states, lanes, kLeastState);
  EncoderSymbol table[256];
  fill_encoder(frequencies, escape, table);
#if defined(__x86_64__)
  if (lanes == kMaxLanes && has_wide_kernels()) {
    const size_t groups = n / kMaxLanes;
    end = encode_each(table, symbols, groups * kMaxLanes, n, lanes, states, end);
    DivisorTable divisors;
    fill_divisors(frequencies, escape, &divisors);
    return encode_groups_avx512(divisors, symbols, groups, states, end);
  }
#endif
  return encode_each(table, symbols, 0, n, lanes, states, end);
}

bool decode_rans(const Frequencies& frequencies, uint32_t* states, size_t lanes,
                 const uint8_t* words, size_t count, size_t n, uint8_t* symbols) {
  const Input in{words, words + 2 * count};
#if defined(__x86_64__)
  if (lanes == kMaxLanes && has_wide_kernels()) {
    RankTable ranks;
    fill_ranks(frequencies, &ranks);
    return decode_wide(ranks, decode_pairs_avx512, states, in, n, symbols);
  }
#endif
  SlotTable slots;
  fill_slots(frequencies, &slots);
#if defined(__x86_64__)
  if (lanes == kMaxLanes && isa() != Isa::kScalar)
    return decode_wide(slots, decode_pairs_avx2, states, in, n, symbols);
#endif
  return decode_each(slots, states, lanes, in, n, symbols);
}

}  // namespace sparsefl::codec
