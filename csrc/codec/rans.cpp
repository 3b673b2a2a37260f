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
void fill_slots(const Frequencies& frequencies, SlotTable* table) {
  uint32_t* slot = table->slots;
  for (uint32_t s = 0; s < 256; ++s) {
    const uint32_t entry = s | uint32_t{frequencies.of[s]} << 8;
    for (uint32_t i = 0; i < frequencies.of[s]; ++i) *slot++ = entry | i << 20;
  }
}

void fill_ranks(const Frequencies& frequencies, RankTable* table) {
  std::memset(table, 0, sizeof *table);
  uint16_t starts_in[256] = {};
  uint32_t start = 0;
  int rank = 0;
  for (uint32_t s = 0; s < 256; ++s) {
    const uint32_t f = frequencies.of[s];
    if (f == 0) continue;
    if (start != 0) starts_in[start / 16] |= static_cast<uint16_t>(1u << (start % 16));
    table->frequency_low[rank] = static_cast<uint8_t>(16 * f);
    table->frequency_high[rank] = static_cast<uint8_t>(16 * f >> 8);
    table->start_low[rank] = static_cast<uint8_t>(start);
    table->start_high[rank] = static_cast<uint8_t>(start >> 8);
    table->symbol[rank] = static_cast<uint8_t>(s);
    if (rank < 64) {
      table->frequency[rank] = static_cast<uint16_t>(16 * f);
      table->start[rank] = static_cast<uint16_t>(start);
    }
    start += f;
    ++rank;
  }
  int before = 0;
  for (int b = 0; b < 256; ++b) {
    table->starts_low[b] = static_cast<uint8_t>(starts_in[b]);
    table->starts_high[b] = static_cast<uint8_t>(starts_in[b] >> 8);
    table->starts_before[b] = static_cast<uint8_t>(before);
    before += std::popcount(starts_in[b]);
  }
  for (int i = 0; i < 64; ++i) {
    const uint32_t upto = (2u << (i % 16)) - 1;
    table->upto_low[i] = static_cast<uint8_t>(upto);
    table->upto_high[i] = static_cast<uint8_t>(upto >> 8);
    table->unzip[i] = static_cast<uint8_t>(i < 32 ? 2 * i : 2 * (i - 32) + 1);
  }
  table->symbols = rank;
}

// As entry of a SlotTable.
uint32_t entry_of(const SlotTable& table, uint32_t slot) { return table.slots[slot]; }
uint32_t entry_of(const RankTable& t, uint32_t slot) {
  const uint32_t bucket = slot / 16;
  const uint32_t starts = t.starts_low[bucket] | uint32_t{t.starts_high[bucket]} << 8;
  const int rank = t.starts_before[bucket] + std::popcount(starts & ((2u << (slot % 16)) - 1));
  const uint32_t frequency16 = t.frequency_low[rank] | uint32_t{t.frequency_high[rank]} << 8;
  const uint32_t start = t.start_low[rank] | uint32_t{t.start_high[rank]} << 8;
  return t.symbol[rank] | frequency16 << 4 | (slot - start) << 20;
}

// What is left of a code: the words of its streams. They end where `end` says.
struct Rest {
  const uint8_t* words[kMaxStreams];
  const uint8_t* end[kMaxStreams];
};

bool is_finished(const Rest& rest, const uint32_t* states, size_t lanes) {
  for (size_t s = 0; s < streams_of(lanes); ++s)
    if (rest.words[s] != rest.end[s]) return false;
  return std::all_of(states, states + lanes, [](uint32_t x) { return x == kLeastState; });
}

// One symbol of each of `count` lanes; returns what is left of the words. Which
// lanes take a word is not to be foretold, so nothing branches on it; a word is
// read whether it is taken or not.
template <class Table>
const uint8_t* decode_lanes(const Table& table, uint32_t* states, size_t count,
                            const uint8_t* words, uint8_t* symbols) {
  for (size_t j = 0; j < count; ++j) {
    const uint32_t entry = entry_of(table, states[j] & kSlotMask);
    const uint32_t x = (entry >> 8 & kSlotMask) * (states[j] >> kProbabilityBits) + (entry >> 20);
    const uint32_t takes = x < kLeastState;
    states[j] = x << 16 * takes | (load<uint16_t>(words) & -takes);
    symbols[j] = static_cast<uint8_t>(entry);
    words += 2 * takes;
  }
  return words;
}

// Groups of a few lanes whose states stay in registers, while words for all are
// left; returns how many symbols.
template <size_t kLanes, class Table>
size_t decode_few(const Table& table, uint32_t* states, Rest* rest, size_t n, uint8_t* symbols) {
  uint32_t x[kLanes];
  std::copy_n(states, kLanes, x);
  const uint8_t* words = rest->words[0];
  const uint8_t* const end = rest->end[0];
  size_t i = 0;
  for (; i + kLanes <= n && end - words >= static_cast<ptrdiff_t>(2 * kLanes); i += kLanes)
    words = decode_lanes(table, x, kLanes, words, symbols + i);
  std::copy_n(x, kLanes, states);
  rest->words[0] = words;
  return i;
}

// Groups of whole streams in the same way.
template <class Table>
size_t decode_many(const Table& table, uint32_t* states, size_t lanes, Rest* rest, size_t n,
                   uint8_t* symbols) {
  const size_t streams = streams_of(lanes);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (size_t s = 0; s < streams; ++s)
      if (rest->end[s] - rest->words[s] < static_cast<ptrdiff_t>(2 * kStreamLanes)) return i;
    for (size_t s = 0; s < streams; ++s)
      rest->words[s] = decode_lanes(table, states + kStreamLanes * s, kStreamLanes, rest->words[s],
                                    symbols + i + kStreamLanes * s);
  }
  return i;
}

template <class Table>
bool decode_each(const Table& table, uint32_t* states, size_t lanes, Rest rest, size_t n,
                 uint8_t* symbols) {
  size_t i = 0;
  if (lanes == 1) i = decode_few<1>(table, states, &rest, n, symbols);
  if (lanes == 4) i = decode_few<4>(table, states, &rest, n, symbols);
  if (lanes >= kStreamLanes) i = decode_many(table, states, lanes, &rest, n, symbols);
  for (; i < n; ++i) {
    const size_t lane = i & (lanes - 1);
    const size_t stream = lane / kStreamLanes;
    // Two zeros for where no word is left: a state that takes them fails below.
    uint8_t none[2] = {};
    const bool ended = rest.words[stream] == rest.end[stream];
    const uint8_t* word = ended ? none : rest.words[stream];
    const uint8_t* const next = decode_lanes(table, states + lane, 1, word, symbols + i);
    if (ended && next != word) return false;
    if (!ended) rest.words[stream] = next;
  }
  return is_finished(rest, states, lanes);
}

#if defined(__x86_64__)
// Steps by the kernel, the last of them from copies that it may read past, then
// the rest.
template <class Table, class Kernel>
bool decode_wide(const Table& table, Kernel kernel, uint32_t* states, size_t lanes, Rest rest,
                 size_t n, uint8_t* symbols) {
  const size_t streams = streams_of(lanes);
  const size_t step_symbols = 2 * lanes;
  const size_t steps = n / step_symbols;
  uint8_t tails[kMaxStreams][4 * kStepBytes] = {};
  bool in_tail[kMaxStreams] = {};
  Input in[kMaxStreams];
  // A stream is followed by the other, which may be read too.
  for (size_t s = 0; s < streams; ++s) in[s] = {rest.words[s], rest.end[streams - 1]};
  for (size_t done = 0;;) {
    done += kernel(table, states, streams, in, steps - done, symbols + step_symbols * done);
    if (done == steps) break;
    for (size_t s = 0; s < streams; ++s) {
      const ptrdiff_t left = in[s].limit - in[s].words;
      if (left >= kStepBytes) continue;
      if (in_tail[s]) return false;
      in_tail[s] = true;
      std::memcpy(tails[s], in[s].words, static_cast<size_t>(left));
      rest.words[s] = in[s].words;
      in[s] = {tails[s], tails[s] + sizeof tails[s]};
    }
  }
  for (size_t s = 0; s < streams; ++s) {
    const ptrdiff_t taken = in[s].words - (in_tail[s] ? tails[s] : rest.words[s]);
    if (taken > rest.end[s] - rest.words[s]) return false;
    rest.words[s] += taken;
  }
  return decode_each(table, states, lanes, rest, n - step_symbols * steps,
                     symbols + step_symbols * steps);
}
#endif

// x / frequency = x * reciprocal >> 44, for x < limit = frequency * 2^20.
struct EncoderSymbol {
  uint64_t reciprocal;
  uint32_t limit;
  uint16_t start, others;  // others: all other frequencies together
};
constexpr int kReciprocalBits = 44;

// Calls put(symbol, frequency, start) for every symbol; those of frequency 0
// have the escape's.
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
    table[s] = {((uint64_t{1} << kReciprocalBits) + f - 1) / f, f << 20,
                static_cast<uint16_t>(start), static_cast<uint16_t>(kProbabilityOne - f)};
  });
}

// One symbol of each of `count` lanes, from the last to the first; returns
// where the words begin.
uint8_t* encode_lanes(const EncoderSymbol* table, const uint8_t* symbols, size_t count,
                      uint32_t* states, uint8_t* end) {
  for (size_t j = count; j-- > 0;) {
    const EncoderSymbol& s = table[symbols[j]];
    uint32_t x = states[j];
    const uint32_t gives = x >= s.limit;
    store(end - 2, static_cast<uint16_t>(x));
    end -= 2 * gives;
    x >>= 16 * gives;
    const auto q = static_cast<uint32_t>(x * s.reciprocal >> kReciprocalBits);
    states[j] = x + s.start + q * s.others;
  }
  return end;
}

// The groups [begin, n) of the lanes of one stream, and what is left of it
// after whole ones.
uint8_t* encode_each(const EncoderSymbol* table, const uint8_t* symbols, size_t begin, size_t n,
                     size_t lanes, size_t stream, uint32_t* states, uint8_t* end) {
  const size_t first = kStreamLanes * stream;
  const size_t own = std::min(lanes, kStreamLanes);
  size_t i = n - n % lanes;
  if (i + first < n)
    end =
        encode_lanes(table, symbols + i + first, std::min(own, n - i - first), states + first, end);
  for (; i > begin; i -= lanes)
    end = encode_lanes(table, symbols + i - lanes + first, own, states + first, end);
  return end;
}

#if defined(__x86_64__)
void fill_divisors(const Frequencies& frequencies, int escape, DivisorTable* table) {
  std::memset(table, 0, sizeof *table);
  visit_symbols(frequencies, escape, [&](int s, uint32_t f, uint32_t start) {
    const auto f16 = static_cast<uint16_t>(16 * f);
    const int shift = std::countl_zero(f16);
    const uint32_t reciprocal = 0xFFFFFFFFu / (uint32_t{f16} << shift);
    const uint32_t place = 16 * start + static_cast<uint32_t>(shift);
    table->frequency_low[s] = static_cast<uint8_t>(f16);
    table->frequency_high[s] = static_cast<uint8_t>(f16 >> 8);
    table->reciprocal_low[s] = static_cast<uint8_t>(reciprocal);
    table->reciprocal_high[s] = static_cast<uint8_t>(reciprocal >> 8);
    table->place_low[s] = static_cast<uint8_t>(place);
    table->place_high[s] = static_cast<uint8_t>(place >> 8);
  });
  for (int i = 0; i < 32; ++i) table->iota[i] = static_cast<uint16_t>(i);
  for (int i = 0; i < 64; ++i) table->zip[i] = static_cast<uint8_t>(i / 2 + i % 2 * 32);
}

void fill_quotients(const Frequencies& frequencies, int escape, QuotientTable* table) {
  std::memset(table, 0, sizeof *table);
  visit_symbols(frequencies, escape, [&](int s, uint32_t f, uint32_t start) {
    constexpr float kLess = 1.0f - 1.0f / (1 << 21);
    table->of[s] = {static_cast<uint16_t>(f), static_cast<uint16_t>(start),
                    kLess / static_cast<float>(f)};
  });
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

void encode_rans(const Frequencies& frequencies, int escape, const uint8_t* symbols, size_t n,
                 size_t lanes, uint32_t* states, uint8_t** ends) {
  std::fill_n(states, lanes, kLeastState);
  const size_t streams = streams_of(lanes);
  size_t groups = 0;
#if defined(__x86_64__)
  if (lanes >= kStreamLanes && isa() != Isa::kScalar) groups = n / lanes;
#endif
  EncoderSymbol table[256];
  fill_encoder(frequencies, escape, table);
  for (size_t s = 0; s < streams; ++s)
    ends[s] = encode_each(table, symbols, groups * lanes, n, lanes, s, states, ends[s]);
#if defined(__x86_64__)
  if (groups == 0) return;
  if (has_wide_kernels()) {
    DivisorTable divisors;
    fill_divisors(frequencies, escape, &divisors);
    return encode_groups_avx512(divisors, symbols, groups, streams, states, ends);
  }
  QuotientTable quotients;
  fill_quotients(frequencies, escape, &quotients);
  encode_groups_avx2(quotients, symbols, groups, streams, states, ends);
#endif
}

bool decode_rans(const Frequencies& frequencies, uint32_t* states, size_t lanes,
                 const CodeWords& words, size_t n, uint8_t* symbols) {
  const uint8_t* const middle = words.begin + 2 * words.count[0];
  const Rest rest{{words.begin, middle}, {middle, middle + 2 * words.count[1]}};
#if defined(__x86_64__)
  if (lanes >= kStreamLanes && has_wide_kernels()) {
    RankTable ranks;
    fill_ranks(frequencies, &ranks);
    return decode_wide(ranks, decode_steps_avx512, states, lanes, rest, n, symbols);
  }
#endif
  SlotTable slots;
  fill_slots(frequencies, &slots);
#if defined(__x86_64__)
  if (lanes >= kStreamLanes && isa() != Isa::kScalar)
    return decode_wide(slots, decode_steps_avx2, states, lanes, rest, n, symbols);
#endif
  return decode_each(slots, states, lanes, rest, n, symbols);
}

}  // namespace sparsefl::codec
