// Codes of gaps: Golomb-Rice and, with rANS, of gap heads. FORMAT.md, "Bit code", defines them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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

// Appends the code of heads whose parameter promises the fewest bits, near that of plan_rice().
// gaps.count >= 1.
void append_rans_gaps(const Gaps& gaps, int rice_parameter, std::vector<uint8_t>* out);

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
