#if defined(__x86_64__)
#include <immintrin.h>

#include <array>

#include "codec/rans_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,popcnt")

namespace sparsefl::codec {
namespace {

// kPlaces[m][j]: which of the next words lane j takes where the lanes of mask m
// take one each.
struct Places {
  alignas(64) uint8_t of[256][8];
};
constexpr Places make_places() {
  Places places{};
  for (int mask = 0; mask < 256; ++mask)
    for (int j = 0, next = 0; j < 8; ++j)
      if (mask >> j & 1) places.of[mask][j] = static_cast<uint8_t>(next++);
  return places;
}
constexpr Places kPlaces = make_places();

__m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

// One symbol of each of eight lanes: returns the table's entries.
__m256i decode_eight(const SlotTable& t, __m256i* x, const uint8_t** words) {
  const __m256i twelve = _mm256_set1_epi32(0xFFF);
  const __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(t.slots),
                                               _mm256_and_si256(*x, twelve), 4);
  const __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(entry, 8), twelve);
  const __m256i next = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(*x, 12)),
                                        _mm256_srli_epi32(entry, 20));
  const __m256i takes = _mm256_cmpeq_epi32(_mm256_srli_epi32(next, 16), _mm256_setzero_si256());
  const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(takes));
  const __m256i given =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(*words)));
  const __m256i place =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[mask])));
  const __m256i taken =
      _mm256_or_si256(_mm256_slli_epi32(next, 16), _mm256_permutevar8x32_epi32(given, place));
  *x = _mm256_blendv_epi8(next, taken, takes);
  *words += 2 * _mm_popcnt_u32(static_cast<unsigned>(mask));
  return entry;
}

// The symbols of four times eight entries, in order.
__m256i symbols_of(const __m256i* entry) {
  const __m256i byte = _mm256_set1_epi32(0xFF);
  const __m256i lower =
      _mm256_packus_epi32(_mm256_and_si256(entry[0], byte), _mm256_and_si256(entry[1], byte));
  const __m256i upper =
      _mm256_packus_epi32(_mm256_and_si256(entry[2], byte), _mm256_and_si256(entry[3], byte));
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(lower, upper),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace

size_t decode_steps_avx2(const SlotTable& table, uint32_t* states, size_t streams, Input* in,
                         size_t steps, uint8_t* symbols) {
  __m256i x[8];
  for (size_t j = 0; j < 4 * streams; ++j) x[j] = load(states + 8 * j);
  size_t i = 0;
  for (; i < steps && in[0].limit - in[0].words >= kStepBytes &&
         in[streams - 1].limit - in[streams - 1].words >= kStepBytes;
       ++i) {
    for (size_t group = 0; group < 2 * streams; ++group, symbols += 32) {
      const size_t stream = group & (streams - 1);
      __m256i entry[4];
      for (size_t j = 0; j < 4; ++j)
        entry[j] = decode_eight(table, x + 4 * stream + j, &in[stream].words);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(symbols), symbols_of(entry));
    }
  }
  for (size_t j = 0; j < 4 * streams; ++j)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8 * j), x[j]);
  return i;
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
