// 32 lanes as two vectors of 16-bit words, the lower and the upper halves of
// the states. Tables are looked up in registers: a gather of 16 takes longer
// than all the rest.
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/rans_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512bitalg,popcnt,bmi2")

namespace sparsefl::codec {
namespace {

// The unmasked intrinsics of GCC 12 warn of their own uninitialised operand.
constexpr __mmask32 kAll16 = 0xFFFFFFFF;
constexpr __mmask64 kAll8 = ~uint64_t{0};
constexpr __mmask64 kEvenBytes = 0x5555555555555555;

// 64 bytes in a register: an expansion from memory takes several times as long.
__m512i load_apart(const uint8_t* from) {
  __m512i loaded = _mm512_loadu_si512(from);
  asm("" : "+v"(loaded));
  return loaded;
}

struct Lanes {
  __m512i low, high;
};

Lanes load_lanes(const uint32_t* states) {
  uint16_t low[32], high[32];
  for (int i = 0; i < 32; ++i) {
    low[i] = static_cast<uint16_t>(states[i]);
    high[i] = static_cast<uint16_t>(states[i] >> 16);
  }
  return {_mm512_loadu_si512(low), _mm512_loadu_si512(high)};
}

void store_lanes(Lanes lanes, uint32_t* states) {
  uint16_t low[32], high[32];
  _mm512_storeu_si512(low, lanes.low);
  _mm512_storeu_si512(high, lanes.high);
  for (int i = 0; i < 32; ++i) states[i] = low[i] | uint32_t{high[i]} << 16;
}

// Words of a table of 64, 128 or 256 by the lower bits of `index`.
template <int kWords>
__m512i look_up(const uint16_t* table, __m512i index, __mmask32 bit6, __mmask32 bit7) {
  const auto pair = [&](int at) {
    return _mm512_permutex2var_epi16(_mm512_load_si512(table + at), index,
                                     _mm512_load_si512(table + at + 32));
  };
  if constexpr (kWords == 64) return pair(0);
  const __m512i lower = _mm512_mask_mov_epi16(pair(0), bit6, pair(64));
  if constexpr (kWords == 128) return lower;
  return _mm512_mask_mov_epi16(lower, bit7, _mm512_mask_mov_epi16(pair(128), bit6, pair(192)));
}

template <int kBytes>
__m512i look_up_bytes(const uint8_t* table, __m512i index) {
  const __m512i lower =
      _mm512_permutex2var_epi8(_mm512_load_si512(table), index, _mm512_load_si512(table + 64));
  if constexpr (kBytes <= 128) return lower;
  const __m512i upper = _mm512_permutex2var_epi8(_mm512_load_si512(table + 128), index,
                                                 _mm512_load_si512(table + 192));
  return _mm512_mask_mov_epi8(lower, _mm512_movepi8_mask(index), upper);
}

// Which of the symbols that occur, in order, a state's lower 12 bits stand for.
__m512i rank_of(const RankTable& t, __m512i low) {
  const __mmask32 bit6 = _mm512_test_epi16_mask(low, _mm512_set1_epi16(0x400));
  const __mmask32 bit7 = _mm512_test_epi16_mask(low, _mm512_set1_epi16(0x800));
  const __m512i bucket = _mm512_srli_epi16(low, 4);
  const __m512i starts = look_up<256>(t.starts_in, bucket, bit6, bit7);
  const __m512i before = _mm512_mask_mov_epi16(
      _mm512_maskz_permutex2var_epi8(kEvenBytes, _mm512_load_si512(t.starts_before), bucket,
                                     _mm512_load_si512(t.starts_before + 64)),
      bit7,
      _mm512_maskz_permutex2var_epi8(kEvenBytes, _mm512_load_si512(t.starts_before + 128), bucket,
                                     _mm512_load_si512(t.starts_before + 192)));
  const __m512i upto = _mm512_maskz_permutexvar_epi16(kAll16, low, _mm512_load_si512(t.upto));
  return _mm512_add_epi16(before, _mm512_popcnt_epi16(_mm512_and_si512(starts, upto)));
}

// One symbol of each lane: returns its rank.
template <int kSymbols>
__m512i decode_group(const RankTable& t, Lanes* x, const uint8_t** words) {
  const __m512i rank = rank_of(t, x->low);
  const __mmask32 bit6 = kSymbols > 64 ? _mm512_test_epi16_mask(rank, _mm512_set1_epi16(64)) : 0;
  const __mmask32 bit7 = kSymbols > 128 ? _mm512_test_epi16_mask(rank, _mm512_set1_epi16(128)) : 0;
  const __m512i frequency = look_up<kSymbols>(t.frequency, rank, bit6, bit7);
  const __m512i start = look_up<kSymbols>(t.start, rank, bit6, bit7);
  // frequency is 16 times itself, so that frequency * (x >> 12) has its lower
  // word here.
  const __m512i slot = _mm512_and_si512(x->low, _mm512_set1_epi16(0xFFF));
  const __m512i top = _mm512_and_si512(x->low, _mm512_set1_epi16(static_cast<short>(0xF000)));
  const __m512i place =
      _mm512_add_epi16(_mm512_mulhi_epu16(frequency, top), _mm512_sub_epi16(slot, start));
  const __m512i low = _mm512_add_epi16(_mm512_mullo_epi16(frequency, x->high), place);
  const __mmask32 carry = _mm512_cmplt_epu16_mask(low, place);
  const __m512i product = _mm512_mulhi_epu16(frequency, x->high);
  const __m512i high = _mm512_mask_sub_epi16(product, carry, product, _mm512_set1_epi16(-1));
  const __mmask32 takes = _mm512_testn_epi16_mask(high, high);
  x->high = _mm512_mask_mov_epi16(high, takes, low);
  x->low = _mm512_mask_expand_epi16(low, takes, load_apart(*words));
  *words += 2 * _mm_popcnt_u32(takes);
  return rank;
}

// Two groups' symbols, in order.
template <int kSymbols>
void store_symbols(const RankTable& t, __m512i first, __m512i second, uint8_t* symbols) {
  const __m512i both = _mm512_or_si512(first, _mm512_slli_epi16(second, 8));
  const __m512i found = look_up_bytes<kSymbols>(t.symbol, both);
  _mm512_storeu_si512(symbols,
                      _mm512_maskz_permutexvar_epi8(kAll8, _mm512_load_si512(t.unzip), found));
}

template <int kSymbols>
size_t decode_one(const RankTable& t, uint32_t* states, Input* in, size_t steps, uint8_t* symbols) {
  Lanes x = load_lanes(states);
  const uint8_t* from = in->words;
  size_t i = 0;
  for (; i < steps && in->limit - from >= kStepBytes; ++i) {
    const __m512i first = decode_group<kSymbols>(t, &x, &from);
    const __m512i second = decode_group<kSymbols>(t, &x, &from);
    store_symbols<kSymbols>(t, first, second, symbols + 64 * i);
  }
  store_lanes(x, states);
  in->words = from;
  return i;
}

// What takes long is the way from one symbol of a lane to the next; two streams
// are under way at once and together take little more time than one.
template <int kSymbols>
size_t decode_two(const RankTable& t, uint32_t* states, Input* in, size_t steps, uint8_t* symbols) {
  Lanes x = load_lanes(states), y = load_lanes(states + 32);
  const uint8_t *from = in[0].words, *other = in[1].words;
  size_t i = 0;
  for (; i < steps && in[0].limit - from >= kStepBytes && in[1].limit - other >= kStepBytes; ++i) {
    for (int half = 0; half < 2; ++half) {
      const __m512i first = decode_group<kSymbols>(t, &x, &from);
      const __m512i second = decode_group<kSymbols>(t, &y, &other);
      store_symbols<kSymbols>(t, first, second, symbols + 128 * i + 64 * half);
    }
  }
  store_lanes(x, states);
  store_lanes(y, states + 32);
  in[0].words = from;
  in[1].words = other;
  return i;
}

template <int kSymbols>
size_t decode(const RankTable& t, uint32_t* states, size_t streams, Input* in, size_t steps,
              uint8_t* symbols) {
  if (streams == 1) return decode_one<kSymbols>(t, states, in, steps, symbols);
  return decode_two<kSymbols>(t, states, in, steps, symbols);
}

}  // namespace

size_t decode_steps_avx512(const RankTable& t, uint32_t* states, size_t streams, Input* in,
                           size_t steps, uint8_t* symbols) {
  if (t.symbols <= 64) return decode<64>(t, states, streams, in, steps, symbols);
  if (t.symbols <= 128) return decode<128>(t, states, streams, in, steps, symbols);
  return decode<256>(t, states, streams, in, steps, symbols);
}

uint8_t* encode_groups_avx512(const DivisorTable& t, const uint8_t* symbols, size_t stride,
                              size_t groups, uint32_t* states, uint8_t* end) {
  Lanes x = load_lanes(states);
  const __m512i iota = _mm512_load_si512(t.iota);
  for (size_t i = groups; i-- > 0;) {
    const __m512i s = _mm512_maskz_cvtepu8_epi16(
        kAll16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols + stride * i)));
    const __mmask32 bit6 = _mm512_test_epi16_mask(s, _mm512_set1_epi16(64));
    const __mmask32 bit7 = _mm512_test_epi16_mask(s, _mm512_set1_epi16(128));
    // 16 times the frequency.
    const __m512i f = look_up<256>(t.frequency, s, bit6, bit7);
    const __m512i reciprocal = look_up<256>(t.reciprocal, s, bit6, bit7);
    const __m512i place = look_up<256>(t.place, s, bit6, bit7);
    const __m512i shift = _mm512_and_si512(place, _mm512_set1_epi16(15));
    const __m512i start = _mm512_srli_epi16(place, 4);

    const __mmask32 gives = _mm512_cmpge_epu16_mask(x.high, f);
    const unsigned count = _mm_popcnt_u32(gives);
    const __m512i given = _mm512_maskz_compress_epi16(gives, x.low);
    const __m512i to = _mm512_add_epi16(iota, _mm512_set1_epi16(static_cast<short>(count)));
    _mm512_storeu_si512(end - 64, _mm512_maskz_permutexvar_epi16(kAll16, to, given));
    end -= 2 * count;
    const __m512i low = _mm512_mask_mov_epi16(x.low, gives, x.high);
    const __m512i high = _mm512_maskz_mov_epi16(~gives, x.high);

    // high:low / f by the reciprocal of f shifted up to have its top bit set
    // (Moeller and Granlund 2011, "Improved division by invariant integers",
    // algorithm 4).
    const __m512i d = _mm512_sllv_epi16(f, shift);
    const __m512i u1 = _mm512_shldv_epi16(high, low, shift);
    const __m512i u0 = _mm512_sllv_epi16(low, shift);
    const __m512i q0 = _mm512_add_epi16(_mm512_mullo_epi16(reciprocal, u1), u0);
    const __mmask32 carry = _mm512_cmplt_epu16_mask(q0, u0);
    __m512i q = _mm512_add_epi16(_mm512_mulhi_epu16(reciprocal, u1), u1);
    const __m512i one = _mm512_set1_epi16(1);
    q = _mm512_mask_add_epi16(q, carry, q, one);
    q = _mm512_add_epi16(q, one);
    __m512i r = _mm512_sub_epi16(u0, _mm512_mullo_epi16(q, d));
    const __mmask32 over = _mm512_cmpgt_epu16_mask(r, q0);
    q = _mm512_mask_sub_epi16(q, over, q, one);
    r = _mm512_mask_add_epi16(r, over, r, d);
    const __mmask32 under = _mm512_cmpge_epu16_mask(r, d);
    q = _mm512_mask_add_epi16(q, under, q, one);
    r = _mm512_mask_sub_epi16(r, under, r, d);
    // The rest of 16 f is a rest of f and 4 bits more of the quotient.
    const __m512i d16 = _mm512_srli_epi16(d, 4);
    const __m512i wide = _mm512_or_si512(_mm512_srli_epi16(reciprocal, 1),
                                         _mm512_set1_epi16(static_cast<short>(0x8000)));
    __m512i digit = _mm512_srli_epi16(_mm512_mulhi_epu16(r, wide), 11);
    __m512i rest = _mm512_sub_epi16(r, _mm512_mullo_epi16(digit, d16));
    const __mmask32 more = _mm512_cmpge_epu16_mask(rest, d16);
    digit = _mm512_mask_add_epi16(digit, more, digit, one);
    rest = _mm512_mask_sub_epi16(rest, more, rest, d16);
    x.high = q;
    x.low = _mm512_add_epi16(_mm512_slli_epi16(digit, 12),
                             _mm512_add_epi16(_mm512_srlv_epi16(rest, shift), start));
  }
  store_lanes(x, states);
  return end;
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
