#include "codec/byte_model.h"

#include <algorithm>
#include <array>
#include <bit>

#include "codec/byte_table.h"

namespace sparsefl::codec {
namespace {

constexpr uint64_t kBit = uint64_t{1} << kCostFractionBits;
// A symbol rarer than this part of 2^-12 wastes more on its neighbours than an
// escape costs.
constexpr uint64_t kRareNumerator = 11, kRareDenominator = 16;

// log2(x) in units of 2^-28, less at most one, for 1 <= x <= 2^12: each
// squaring of the mantissa gives a bit. So fine that their differences fall
// like the logarithm's.
constexpr std::array<uint32_t, kProbabilityOne + 1> make_logarithms() {
  std::array<uint32_t, kProbabilityOne + 1> logs{};
  for (uint32_t x = 1; x <= kProbabilityOne; ++x) {
    const int whole = std::bit_width(x) - 1;
    uint64_t mantissa = uint64_t{x} << (31 - whole);  // in [2^31, 2^32)
    uint32_t log = static_cast<uint32_t>(whole);
    for (int bit = 0; bit < kCostFractionBits; ++bit) {
      mantissa = mantissa * mantissa >> 31;
      const auto doubled = static_cast<uint32_t>(mantissa >> 32);
      log = log << 1 | doubled;
      mantissa >>= doubled;
    }
    logs[x] = log;
  }
  return logs;
}
constexpr auto kLog2 = make_logarithms();

constexpr uint64_t symbol_cost(uint32_t frequency) {
  return kLog2[kProbabilityOne] - kLog2[frequency];
}

// The cost of the symbols by a table, escapes without the list of what they
// stand for.
uint64_t cost_of(const uint32_t* counts, const SymbolTable& table) {
  uint64_t cost = 0;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] == 0) continue;
    const bool own = table.frequencies.of[s] != 0 && s != table.escape;
    cost += counts[s] * symbol_cost(table.frequencies.of[own ? s : table.escape]);
  }
  return cost;
}

// What is left over for a symbol i or more of a geometric distribution, in
// units of 2^-32, for i = 0, 1, ...: its mean is 2^(index / 8 - 2).
struct GeometricTail {
  constexpr explicit GeometricTail(int index) {
    // 2^(j / 8) in units of 2^-16.
    constexpr uint64_t kRoots[8] = {65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194};
    const uint64_t mean = kRoots[index % 8] << (index / 8);  // in units of 2^-18
    ratio = (mean << 32) / (mean + (1 << 18));
  }
  constexpr void step() { left = left * ratio >> 32; }
  constexpr uint32_t rounded() const {
    return static_cast<uint32_t>((left + (1 << 19)) >> (32 - kProbabilityBits));
  }
  uint64_t ratio = 0;
  uint64_t left = uint64_t{1} << 32;
};

constexpr SymbolTable make_geometric(int index) {
  SymbolTable table{};
  GeometricTail tail(index);
  int s = 0;
  for (uint32_t here = kProbabilityOne; s < kGeometricSymbols; ++s) {
    tail.step();
    const uint32_t next = tail.rounded();
    if (next == 0 || next == here) break;
    table.frequencies.of[s] = static_cast<uint16_t>(here - next);
    here = next;
    table.frequencies.of[s + 1] = static_cast<uint16_t>(here);
  }
  table.escape = s;
  return table;
}

constexpr std::array<SymbolTable, kGeometricClasses> make_geometrics() {
  std::array<SymbolTable, kGeometricClasses> tables{};
  for (int i = 0; i < kGeometricClasses; ++i) tables[static_cast<size_t>(i)] = make_geometric(i);
  return tables;
}
constexpr auto kGeometrics = make_geometrics();

// 64 lanes keep vector units busy, 4 a scalar one; the states take less than a
// 256th of the code.
size_t lanes_for(uint64_t cost) {
  const uint64_t bytes = cost / (8 * kBit);
  return bytes >= 80 * 1024 ? 64 : bytes >= 32 * 1024 ? 32 : bytes >= 4 * 1024 ? 4 : 1;
}

// Cost of head, number of words and states. A state holds 8 bits of the words on average.
constexpr uint64_t frame_cost(size_t lanes) { return (4 + 3 * lanes) * 8 * kBit; }

void finish_cost(ByteModel* model, uint64_t table_bytes) {
  model->lanes = lanes_for(model->words_cost);
  model->cost = model->words_cost + table_bytes * 8 * kBit + frame_cost(model->lanes);
}

// Adds the list of what the table's escapes stand for.
void add_list(const uint32_t* counts, ByteModel* model) {
  const SymbolTable& table = model->table;
  if (table.escape == kNoEscape) return;
  uint32_t escaped[256] = {};
  for (int s = 0; s < 256; ++s) {
    if (s != table.escape && table.frequencies.of[s] != 0) continue;
    escaped[s] = counts[s];
    model->escaped += counts[s];
  }
  if (model->escaped != 0)
    model->cost += choose_byte_model(escaped, model->escaped, Profile::kRans, false).cost;
}

ByteModel table_model(const uint32_t* counts, size_t n, const bool* rare) {
  ByteModel model;
  model.coder = ByteCoder::kTable;
  uint32_t kept[256];
  uint32_t escaped = 0;
  for (int s = 0; s < 256; ++s) {
    kept[s] = rare[s] ? 0 : counts[s];
    escaped += counts[s] - kept[s];
  }
  if (escaped != 0) {
    model.table.escape = static_cast<int>(std::find(kept, kept + 256, 0u) - kept);
    kept[model.table.escape] = escaped;
  }
  normalise(kept, n, &model.table.frequencies);
  model.words_cost = cost_of(counts, model.table);
  finish_cost(&model, table_bytes(model.table));
  add_list(counts, &model);
  return model;
}

ByteModel geometric_model(const uint32_t* counts, int index) {
  ByteModel model;
  model.coder = ByteCoder::kGeometric;
  model.parameter = static_cast<uint8_t>(index);
  model.table = geometric_table(index);
  model.words_cost = cost_of(counts, model.table);
  finish_cost(&model, 1);
  add_list(counts, &model);
  return model;
}

void take_cheaper(const ByteModel& other, ByteModel* best) {
  if (other.cost < best->cost) *best = other;
}

// The class of the next smaller mean, and the one above it.
void try_geometrics(const uint32_t* counts, size_t n, ByteModel* best) {
  uint64_t sum = 0;
  for (uint64_t s = 0; s <= kGeometricSymbols; ++s) sum += s * counts[s];
  int index = 0;
  const auto below = [&](int i) {
    const uint64_t ratio = GeometricTail(i).ratio;
    // mean = ratio / (1 - ratio)
    return (sum + n) * ratio <= sum << 32;
  };
  while (index + 1 < kGeometricClasses && below(index + 1)) ++index;
  take_cheaper(geometric_model(counts, index), best);
  if (index + 1 < kGeometricClasses) take_cheaper(geometric_model(counts, index + 1), best);
}

}  // namespace

void count_bytes(const uint8_t* symbols, size_t n, uint32_t* counts) {
  // Equal neighbours would wait for each other's count: eight tables.
  uint32_t part[8][256] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto word = load<uint64_t>(symbols + i);
    for (int j = 0; j < 8; ++j) ++part[j][word >> (8 * j) & 0xFF];
  }
  for (; i < n; ++i) ++part[0][symbols[i]];
  for (const auto& counted : part)
    for (int s = 0; s < 256; ++s) counts[s] += counted[s];
}

const SymbolTable& geometric_table(int index) { return kGeometrics[static_cast<size_t>(index)]; }

void normalise(const uint32_t* counts, size_t n, Frequencies* frequencies) {
  uint64_t rest = n;
  uint32_t units = kProbabilityOne;
  std::fill_n(frequencies->of, 256, uint16_t{0});
  uint8_t present[256];
  int m = 0;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] == 0) continue;
    present[m++] = static_cast<uint8_t>(s);
    if (uint64_t{counts[s]} * kProbabilityOne >= n) continue;
    frequencies->of[s] = 1;
    rest -= counts[s];
    --units;
  }
  uint32_t sum = 0;
  for (int i = 0; i < m; ++i) {
    uint16_t& f = frequencies->of[present[i]];
    if (f == 0) {
      const uint64_t share = (uint64_t{counts[present[i]]} * units + rest / 2) / rest;
      f = static_cast<uint16_t>(std::max<uint64_t>(1, share));
    }
    sum += f;
  }
  // What a unit more saves and a unit less costs.
  const auto gain = [&](int s) {
    const uint32_t f = frequencies->of[s];
    return uint64_t{counts[s]} * (kLog2[f + 1] - kLog2[f]);
  };
  const auto loss = [&](int s) {
    const uint32_t f = frequencies->of[s];
    return f == 1 ? ~uint64_t{0} : uint64_t{counts[s]} * (kLog2[f] - kLog2[f - 1]);
  };
  for (;;) {
    int up = present[0], down = present[0];
    uint64_t most = 0, least = ~uint64_t{0};
    for (int i = 0; i < m; ++i) {
      const int s = present[i];
      if (const uint64_t g = frequencies->of[s] == kProbabilityOne ? 0 : gain(s); g > most)
        most = g, up = s;
      if (const uint64_t l = loss(s); l < least) least = l, down = s;
    }
    if (sum == kProbabilityOne && most <= least) return;
    if (sum <= kProbabilityOne) ++frequencies->of[up], ++sum;
    if (sum > kProbabilityOne) --frequencies->of[down], --sum;
  }
}

bool has_geometric(const uint32_t* counts) {
  return std::all_of(counts + kGeometricSymbols + 1, counts + 256,
                     [](uint32_t c) { return c == 0; });
}

uint64_t geometric_cost(const uint32_t* counts, size_t n) {
  ByteModel best;
  best.cost = ~uint64_t{0};
  try_geometrics(counts, n, &best);
  return best.cost - frame_cost(best.lanes);
}

ByteModel choose_byte_model(const uint32_t* counts, size_t n, Profile profile, bool escapes) {
  ByteModel best;
  best.cost = (n + 1) * 8 * kBit;
  bool rare[256];
  int symbols = 0, rares = 0, last = 0;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] == 0) {
      rare[s] = false;
      continue;
    }
    last = s;
    ++symbols;
    rare[s] = uint64_t{counts[s]} * kProbabilityOne * kRareDenominator < n * kRareNumerator;
    rares += rare[s];
  }
  if (symbols == 1) {
    if (n == 1) return best;
    best.coder = ByteCoder::kRepeated;
    best.parameter = static_cast<uint8_t>(last);
    best.cost = 16 * kBit;
    return best;
  }
  if (profile == Profile::kPlain) return best;
  constexpr bool kNone[256] = {};
  take_cheaper(table_model(counts, n, kNone), &best);
  if (!escapes) return best;
  if (rares != 0) take_cheaper(table_model(counts, n, rare), &best);
  if (has_geometric(counts)) try_geometrics(counts, n, &best);
  return best;
}

}  // namespace sparsefl::codec
