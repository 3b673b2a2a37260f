// The value section of a chunk, as FORMAT.md has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/format.h"

namespace sparsefl::codec {

enum class ValueCoder : uint8_t { kRaw = 0, kPlanes = 1 };

struct ValueSource {
  ValueMode mode;
  Dtype dtype;
  uint8_t block_log2;
  const uint8_t* values;
  size_t n;
};

struct ValueSection {
  ValueMode mode;
  Dtype dtype;
  uint8_t block_log2;
  uint8_t coder;
  const uint8_t* data;
  size_t bytes;
  size_t n;
};

using ValueScratch = std::vector<uint8_t>;

bool has_value_section(ValueMode mode);

bool append_values(const ValueSource& source, Profile profile, ValueScratch* scratch,
                   std::vector<uint8_t>* out, ValueCoder* coder);

Reason read_values(const ValueSection& section, ValueScratch* scratch, uint8_t* values);

}  // namespace sparsefl::codec
