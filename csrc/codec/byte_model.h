// Models of bytes for the byte code: which symbols have probabilities of their own, and how a
// message states them. Integers only: every machine makes the same choices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/format.h"
#include "codec/rans.h"

namespace sparsefl::codec {

// Costs count in units of 2^-28 bits.
inline constexpr int kCostFractionBits = 28;

enum class ByteCoder : uint8_t { kRaw = 0, kRepeated = 1, kTable = 2, kGeometric = 3 };

inline constexpr int kNoEscape = -1;
// Symbols of a geometric class that have a probability of their own come before this one.
inline constexpr int kGeometricSymbols = 64;
inline constexpr int kGeometricClasses = 56;

// Probabilities of symbols. One without stands in a list behind the code, `escape` in its place.
struct SymbolTable {
  Frequencies frequencies;
  int escape = kNoEscape;
};

// A choice of coder. `cost` estimates the bits of the whole byte code, its head and tables too.
struct ByteModel {
  ByteCoder coder = ByteCoder::kRaw;
  uint8_t parameter = 0;  // the symbol of kRepeated, the class of kGeometric
  SymbolTable table;
  size_t lanes = 1;
  size_t escaped = 0;       // how many symbols `table` has no probability for
  uint64_t words_cost = 0;  // of the symbols by `table`
  uint64_t cost = 0;
};

// Adds the number of each symbol to `counts`.
void count_bytes(const uint8_t* symbols, size_t n, uint32_t* counts);

// The cheapest model of n >= 1 symbols, counts[s] of them s. `escapes`: whether it may have an
// escape.
ByteModel choose_byte_model(const uint32_t* counts, size_t n, Profile profile, bool escapes = true);

// Whether there is a geometric class for symbols, counts[s] of them s; what words and list of n >=
// 1 then cost by the cheapest one.
bool has_geometric(const uint32_t* counts);
uint64_t geometric_cost(const uint32_t* counts, size_t n);

// Frequencies for counts, not 0 where those are not: of least cost. At least two symbols occur.
void normalise(const uint32_t* counts, size_t n, Frequencies* frequencies);

// The table of a geometric class.
const SymbolTable& geometric_table(int index);

}  // namespace sparsefl::codec
