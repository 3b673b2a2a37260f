// CRC32C (Castagnoli: polynomial 0x1EDC6F41, reflected, initial and final inversion).
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

// Checksum of `bytes` bytes following those whose checksum is `before` (0 for none). Uses the CRC
// instruction where the machine has one and SPARSEFL_ISA is not "scalar"; the result is the same.
uint32_t crc32c(const uint8_t* data, size_t bytes, uint32_t before = 0);

// "sse4.2", "armv8" or "table": what crc32c runs on.
const char* crc32c_path();

}  // namespace sparsefl::codec
