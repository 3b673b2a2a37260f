// Codes of bit strings without structure, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/format.h"
#include "codec/gap_code.h"
#include "codec/gaps.h"

namespace sparsefl::codec {

enum class BitCoder : uint8_t {
  kBitmap = 0,
  kRice = 1,
  kRansBytes = 2,
  kRansGaps = 3,
  kRows = 4,
  kTiles = 5,
};

// Memory that bit codes take in turn; it grows with the longest bit string that they met.
struct Scratch {
  std::vector<uint8_t> minority;
  std::vector<uint8_t> code;
  std::vector<uint8_t> structured;
  Gaps gaps;
  HeadScratch heads;
};

// The choice among the coders up to kRansGaps, and what it is expected to take.
struct FlatPlan {
  BitCoder coder = BitCoder::kBitmap;
  uint64_t bytes = 0;
  RicePlan rice{};
  HeadPlan heads;
  ByteModel model;  // of kRansBytes
};

// The coder of the fewest bytes by what their models promise; of two that differ little, the one
// that takes less time.
FlatPlan plan_flat_code(const uint8_t* bits, size_t n, size_t count, Profile profile,
                        Scratch* scratch);

// Appends the code that was planned last with the scratch.
void append_planned(const uint8_t* bits, size_t n, size_t count, const FlatPlan& plan,
                    Scratch* scratch, std::vector<uint8_t>* out);

// As append_bit_code, append_bit_code_as and read_bit_code, of the coders up to kRansGaps.
BitCoder append_flat_code(const uint8_t* bits, size_t n, size_t count, Profile profile,
                          Scratch* scratch, std::vector<uint8_t>* out);
bool append_flat_code_as(BitCoder coder, const uint8_t* bits, size_t n, size_t count,
                         Scratch* scratch, std::vector<uint8_t>* out);
Reason read_flat_code(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                      Profile profile, uint8_t* bits);

// Whether the format has the coder and the profile allows it.
bool has_coder(BitCoder coder, Profile profile);

// Reads a code as indices where that is its nature. Returns false where it is not.
bool read_flat_indices(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                       Profile profile, uint32_t* indices, Reason* reason);

// Replaces what `out` has from `at` on by the candidate where that is smaller.
bool keep_smaller(size_t at, const std::vector<uint8_t>& candidate, std::vector<uint8_t>* out);

}  // namespace sparsefl::codec
