#include "content.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sparsefl::fuzz {
namespace {

using codec::Dtype;
using codec::store;
using codec::ValueMode;

void set(size_t i, Bytes* bits) { (*bits)[i / 8] |= static_cast<uint8_t>(1u << (i % 8)); }

// Parts of 2^16: densities from one in a thousand to nearly all.
uint32_t random_density(Random* random) {
  constexpr uint32_t kDensities[] = {66, 655, 1966, 6554, 13107, 32768, 58982, 65470};
  return kDensities[random->below(8)];
}

bool is_drawn(uint32_t density, Random* random) { return (random->next() >> 16) < density; }

void set_range(size_t begin, size_t end, uint32_t density, Random* random, Bytes* bits) {
  for (size_t i = begin; i < end; ++i)
    if (is_drawn(density, random)) set(i, bits);
}

void set_rows(size_t n, size_t row, Random* random, Bytes* bits) {
  if (row == 0) row = 1 + random->below(100);
  for (size_t begin = 0; begin < n; begin += row)
    set_range(begin, std::min(n, begin + row), random_density(random), random, bits);
}

// Whole tiles of few rows and columns, whole columns or whole rows.
void set_tiles(size_t n, size_t row, Random* random, Bytes* bits) {
  if (row == 0) row = n;
  const size_t height = random->one_in(4) ? n : size_t{1} << random->below(6);
  const size_t width = random->one_in(4) ? row : size_t{1} << random->below(6);
  const size_t across = (row + width - 1) / width;
  const uint32_t density = random_density(random);
  Bytes drawn(across * (n / row / height + 2));
  for (uint8_t& tile : drawn) tile = is_drawn(density, random);
  for (size_t i = 0; i < n; ++i)
    if (drawn[i / row / height * across + i % row / width]) set(i, bits);
}

// Squares as large as the coarsest tiles that encoders look for, and smaller ones.
void set_squares(size_t n, size_t row, Random* random, Bytes* bits) {
  if (row == 0) row = n;
  const size_t side = size_t{16} << random->below(4);
  const uint64_t drawn = random->next64();
  for (size_t i = 0; i < n; ++i)
    if (drawn >> ((i / row / side * 11 + i % row / side) % 64) & 1) set(i, bits);
}

// Many near the start, and one so far from them that no 16 bits hold the gap.
void set_wide(size_t n, Random* random, Bytes* bits) {
  set_range(0, std::min(n, 50 + random->below(1000)), 40000, random, bits);
  set(n - 1, bits);
}

// Positions far from each other, or some near the end.
void set_far(size_t n, Random* random, Bytes* bits) {
  const size_t dense = random->below(n + 1);
  set_range(0, dense / 8, 30000, random, bits);
  for (size_t i = dense; i < n; i += 1 + random->below(n)) set(i, bits);
  set(n - 1 - random->below(std::min<size_t>(n, 4)), bits);
}

float random_float(ValueStyle style, Random* random) {
  switch (style) {
    case ValueStyle::kNormal: {
      int sum = 0;
      for (int i = 0; i < 4; ++i) sum += static_cast<int>(random->below(4097)) - 2048;
      return static_cast<float>(sum) * 0x1p-14f;
    }
    case ValueStyle::kConstant:
      return 0.375f;
    case ValueStyle::kFew:
      return static_cast<float>(random->below(5)) - 2.0f;
    case ValueStyle::kMostlyZero:
      return random->one_in(40) ? static_cast<float>(random->below(255)) - 127.0f : 0.0f;
    case ValueStyle::kAnyBits: {
      const auto bits = random->next() & ~(random->one_in(2) ? 0x40000000u : 0x00800000u);
      return std::bit_cast<float>(bits);
    }
    case ValueStyle::kGeometric:
      return static_cast<float>(std::countl_zero(random->next() | 1)) *
             (random->one_in(2) ? -1.0f : 1.0f);
  }
  return 0.0f;
}

// One element of a dtype that travels as it is.
void store_raw(Dtype dtype, float value, Random* random, uint8_t* to) {
  const size_t item = codec::item_bytes(dtype);
  if (dtype == Dtype::kFloat64) {
    store(to, static_cast<double>(value));
  } else if (dtype == Dtype::kFloat16) {
    store(to, static_cast<uint16_t>(random->next() & ~(random->one_in(2) ? 0x4000u : 0x0400u)));
  } else if (dtype == Dtype::kBool) {
    *to = value > 0.0f;
  } else {
    const auto number = static_cast<int64_t>(std::clamp(value, -1e18f, 1e18f));
    for (size_t i = 0; i < item; ++i) to[i] = static_cast<uint8_t>(number >> (8 * i));
  }
}

}  // namespace

Bytes random_bits(BitStyle style, size_t n, size_t row, Random* random) {
  Bytes bits((n + 7) / 8);
  if (n == 0) return bits;
  switch (style) {
    case BitStyle::kEven:
      set_range(0, n, random_density(random), random, &bits);
      break;
    case BitStyle::kRuns:
      for (size_t i = 0, run; i < n; i += run) {
        run = 1 + random->below(size_t{1} << random->below(8));
        if (random->one_in(2)) set_range(i, std::min(n, i + run), 65536, random, &bits);
      }
      break;
    case BitStyle::kRows:
      set_rows(n, row, random, &bits);
      break;
    case BitStyle::kTiles:
      set_tiles(n, row, random, &bits);
      break;
    case BitStyle::kFar:
      set_far(n, random, &bits);
      break;
    case BitStyle::kSquares:
      set_squares(n, row, random, &bits);
      break;
    case BitStyle::kWide:
      set_wide(n, random, &bits);
      break;
    case BitStyle::kTrivial:
      if (random->one_in(3)) set_range(0, n, 65536, random, &bits);
      if (random->one_in(2)) bits[0] ^= 1;
      break;
  }
  return bits;
}

Bytes random_values(ValueStyle style, ValueMode mode, Dtype dtype, size_t n, Random* random) {
  const size_t item = codec::memory_item_bytes(mode, dtype);
  // Some styles' values are all alike or in one range of a block.
  const float factor = std::ldexp(1.0f, static_cast<int>(random->below(64)) - 32);
  Bytes out(n * item);
  for (size_t i = 0; i < n; ++i) {
    float value = random_float(style, random);
    if (mode == ValueMode::kModular) {
      store(out.data() + i * item, random->next());
      continue;
    }
    if (mode == ValueMode::kRaw) {
      store_raw(dtype, value, random, out.data() + i * item);
      continue;
    }
    if (style == ValueStyle::kNormal) value *= factor;
    store(out.data() + i * item, value);
  }
  return out;
}

}  // namespace sparsefl::fuzz
