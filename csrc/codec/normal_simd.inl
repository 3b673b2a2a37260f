// The loop of fill_normal on the vectors of one instruction set, included by normal_<isa>.cpp after
// it has defined `Simd`: kLanes, U32, I32, U64, F32 (vector types of one width) and the operations
// named below. A 64-bit lane carries one Philox block: its products need no shuffles, and rubbish
// in the upper halves of the words never reaches a result.

namespace {

constexpr int kLanes = Simd::kLanes;
using U32 = Simd::U32;
using I32 = Simd::I32;
using U64 = Simd::U64;
using F32 = Simd::F32;

struct Blocks {
  U64 word[4];
};

struct RoundKeys {
  U64 key0[kPhiloxRounds];
  U64 key1[kPhiloxRounds];
};

inline RoundKeys round_keys(uint64_t seed) {
  RoundKeys keys;
  for (uint32_t r = 0; r < kPhiloxRounds; ++r) {
    keys.key0[r] = U64{} + uint64_t{static_cast<uint32_t>(seed) + r * kPhiloxBump0};
    keys.key1[r] = U64{} + uint64_t{static_cast<uint32_t>(seed >> 32) + r * kPhiloxBump1};
  }
  return keys;
}

// The blocks numbered `block` of the stream; the low halves of the result's lanes hold the words.
inline Blocks philox(U64 block, uint64_t stream, const RoundKeys& keys) {
  const U64 multiplier0 = U64{} + uint64_t{kPhiloxMultiplier0};
  const U64 multiplier1 = U64{} + uint64_t{kPhiloxMultiplier1};
  U64 c0 = block, c1 = block >> 32, c2 = U64{} + stream, c3 = U64{} + (stream >> 32);
#pragma GCC unroll 10
  for (int r = 0; r < kPhiloxRounds; ++r) {
    const U64 product0 = Simd::multiply_low_halves(multiplier0, c0);
    const U64 product1 = Simd::multiply_low_halves(multiplier1, c2);
    c0 = (product1 >> 32) ^ c1 ^ keys.key0[r];
    c1 = product1;
    c2 = (product0 >> 32) ^ c3 ^ keys.key1[r];
    c3 = product0;
  }
  return {{c0, c1, c2, c3}};
}

// The upper halves of the products of signed 32-bit lanes; b_odd = b's odd lanes moved to the even.
inline I32 multiply_high(I32 a, I32 b, I32 b_odd) {
  const U64 even = Simd::multiply_low_halves_signed(a, b);
  const U64 odd = Simd::multiply_low_halves_signed((I32)((U64)a >> 32), b_odd);
  return Simd::merge_odd((I32)(even >> 32), (I32)odd);
}

// normal_scaled(normal_fixed(bits)) of the words whose octave is under kLanes.
inline void normals(const U32 (&bits)[4], float scale, F32 (&out)[4], U32 (&octave)[4]) {
  I32 s[4], s_odd[4], z[4];
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) {
    const U32 odd = ((bits[w] ^ (U32)((I32)bits[w] >> 31)) << 1) | 1;
    octave[w] = Simd::leading_zeros(odd);
    s[w] = (I32)((odd << octave[w] << 1) ^ 0x80000000u);
    s_odd[w] = (I32)((U64)s[w] >> 32);
    z[w] = Simd::look_up(kNormalTable[kNormalDegree], octave[w]);
  }
#pragma GCC unroll 8
  for (int k = kNormalDegree - 1; k >= 0; --k) {
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      z[w] = Simd::look_up(kNormalTable[k], octave[w]) + multiply_high(z[w], s[w], s_odd[w]);
    }
  }
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) {
    z[w] = (z[w] + (1 << (kNormalRoundingBits - 1))) >> kNormalRoundingBits;
    const I32 lower_half = ~((I32)bits[w] >> 31);
    out[w] = __builtin_convertvector((z[w] ^ lower_half) - lower_half, F32) * scale;
  }
}

// Writes again what `normals` got wrong: a row of the table wider than the vector holds the octaves
// from kLanes on, which one word in 2^kLanes reaches.
inline void rescue_far_tails(const U32 (&bits)[4], float scale, float* out) {
  for (int w = 0; w < 4; ++w) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t word = bits[w][lane];
      if (normal_octave(word) < kLanes) continue;
      out[w * kGroupBlocks + lane] = normal_scaled(normal_fixed(word, kNormalTable), scale);
    }
  }
}

// The words of block numbers first_block to first_block + kLanes - 1: kLanes of each of a group's
// rows of 16.
struct Rows {
  U32 word[4];
};

inline Rows rows_of(U64 even_block, uint64_t stream, const RoundKeys& keys) {
  const Blocks even = philox(even_block, stream, keys);
  const Blocks odd = philox(even_block + 1, stream, keys);
  Rows rows;
  for (int w = 0; w < 4; ++w) {
    rows.word[w] = (U32)Simd::merge_odd((I32)even.word[w], (I32)(odd.word[w] << 32));
  }
  return rows;
}

void fill_groups(uint64_t seed, uint64_t stream, uint64_t groups, float scale, float* out) {
  const RoundKeys keys = round_keys(seed);
  U64 even_block = {};
  for (int lane = 0; lane < kLanes / 2; ++lane) even_block[lane] = 2 * lane;
  const uint64_t steps = groups * (kGroupBlocks / kLanes);
  for (uint64_t step = 0; step < steps; ++step, even_block += kLanes) {
    const Rows rows = rows_of(even_block, stream, keys);
    const U32(&bits)[4] = rows.word;
    U32 octave[4];
    F32 values[4];
    normals(bits, scale, values, octave);
    const uint64_t first_block = step * kLanes;
    float* group = out + first_block / kGroupBlocks * kGroupWords + first_block % kGroupBlocks;
    for (int w = 0; w < 4; ++w) Simd::store(group + w * kGroupBlocks, values[w]);
    if (Simd::any_at_least_lanes(octave[0] | octave[1] | octave[2] | octave[3])) {
      rescue_far_tails(bits, scale, group);
    }
  }
}

void fill_groups_of_words(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                          uint32_t* out) {
  const RoundKeys keys = round_keys(seed);
  U64 even_block = U64{} + first_group * kGroupBlocks;
  for (int lane = 0; lane < kLanes / 2; ++lane) even_block[lane] += 2 * lane;
  const uint64_t steps = groups * (kGroupBlocks / kLanes);
  for (uint64_t step = 0; step < steps; ++step, even_block += kLanes) {
    const Rows rows = rows_of(even_block, stream, keys);
    const uint64_t block = step * kLanes;
    uint32_t* group = out + block / kGroupBlocks * kGroupWords + block % kGroupBlocks;
    for (int w = 0; w < 4; ++w) std::memcpy(group + w * kGroupBlocks, &rows.word[w], sizeof(U32));
  }
}

}  // namespace
