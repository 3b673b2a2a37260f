// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011), and how a seed's streams are laid out on its counters. Host and device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SPARSEFL_HOST_DEVICE __host__ __device__
#else
#define SPARSEFL_HOST_DEVICE
#endif

namespace sparsefl {

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53;
inline constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxBump0 = 0x9E3779B9;
inline constexpr uint32_t kPhiloxBump1 = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;

struct PhiloxBlock {
  uint32_t word[4];
};

SPARSEFL_HOST_DEVICE inline PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key0,
                                                   uint32_t key1) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1];
  uint32_t c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * c0;
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += kPhiloxBump0;
    key1 += kPhiloxBump1;
  }
  return {{c0, c1, c2, c3}};
}

// A stream is a sequence of groups of 64 words, made of 16 consecutive blocks word by word, so that
// 4, 8 or 16 lanes (or a warp) work on neighbouring blocks and write neighbouring words:
// stream[64 g + 16 w + b] = word w of block 16 g + b.
inline constexpr int kGroupBlocks = 16;
inline constexpr int kGroupWords = 4 * kGroupBlocks;

// Block `block` of a stream: the seed is the key, the position the lower two counter words and the
// stream's number (a hash of its name) the upper two, low word first.
SPARSEFL_HOST_DEVICE inline PhiloxBlock stream_block(uint64_t seed, uint64_t stream,
                                                     uint64_t block) {
  const PhiloxBlock counter = {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                static_cast<uint32_t>(stream),
                                static_cast<uint32_t>(stream >> 32)}};
  return philox4x32(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// Word `position` of a stream.
SPARSEFL_HOST_DEVICE inline uint32_t stream_word(uint64_t seed, uint64_t stream,
                                                 uint64_t position) {
  const uint64_t block = position / kGroupWords * kGroupBlocks + position % kGroupBlocks;
  return stream_block(seed, stream, block).word[position % kGroupWords / kGroupBlocks];
}

}  // namespace sparsefl
