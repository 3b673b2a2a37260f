// Codes of gaps: Golomb-Rice and, with rANS, of gap heads. FORMAT.md, "Bit code", defines them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/byte_model.h"
#include "codec/format.h"
#include "codec/gaps.h"

namespace sparsefl::codec {

struct RicePlan {
  uint8_t parameter;
  uint64_t bytes;  // of the whole section
};

// The parameter whose code takes the fewest bits, the smallest of equals. gaps.count >= 1.
RicePlan plan_rice(const Gaps& gaps);

void append_rice(const Gaps& gaps, const RicePlan& plan, std::vector<uint8_t>* out);

// A head of this symbol: so many heads more, and no position.
inline constexpr uint32_t kMoreHeads = 255;

// Memory that codes of heads take in turn.
struct HeadScratch {
  std::vector<uint32_t> counts;
  std::vector<uint8_t> symbols;
};

// A parameter of heads, about what symbols and lows then cost in units of entropy_cost(), and how
// many gaps have which head, those of kMoreHeads or more together.
struct HeadChoice {
  uint8_t parameter = 0;
  uint64_t cost = ~uint64_t{0};
  uint32_t counts[256] = {};
};

// The parameter near that of plan_rice() whose code of `scale` times as many gaps of the same
// distribution promises the fewest bits where a table states their probabilities. gaps.count >= 1.
// In *by_class, unless it is null, that of the fewest bits by a geometric class: it states nothing,
// so that the heads of few gaps may be finer.
HeadChoice choose_heads(const Gaps& gaps, int rice_parameter, uint64_t scale, HeadScratch* scratch,
                        HeadChoice* by_class = nullptr);

struct HeadPlan {
  uint8_t parameter = 0;
  // Whether a head takes more than one symbol.
  bool is_long = false;
  size_t symbols = 0;
  ByteModel model;
  // Of the whole section, by the model's estimate.
  uint64_t bytes = 0;
};

// What append_rans_gaps() then writes with the same scratch. gaps.count >= 1.
HeadPlan plan_heads(const Gaps& gaps, int rice_parameter, HeadScratch* scratch);

// The symbols of the gaps' heads.
void find_heads(const Gaps& gaps, const HeadPlan& plan, std::vector<uint8_t>* symbols);

void append_rans_gaps(const Gaps& gaps, const HeadPlan& plan, HeadScratch* scratch,
                      std::vector<uint8_t>* out);

// Where positions go that a code stands for: as indices, or as set bits of clear ones.
struct PositionSink {
  uint32_t* indices;  // `count` of them, or null
  uint8_t* bits;
};

// Reads `count` >= 1 increasing positions below n <= 2^22 from a code of `bytes` bytes. Where the
// reason is not kNone, the sink holds nothing of use.
Reason read_rice(const uint8_t* data, size_t bytes, size_t n, size_t count,
                 const PositionSink& sink);
Reason read_rans_gaps(const uint8_t* data, size_t bytes, size_t n, size_t count,
                      const PositionSink& sink);

}  // namespace sparsefl::codec
