// Bytes whose probabilities differ from place to place, as FORMAT.md's "Classed code" defines it:
// short blocks, each of one of a few classes, and a byte code of all the bytes of a class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/format.h"

namespace sparsefl::codec {

// Appends the classed code of n symbols where it takes fewer than `bytes` bytes, clearly. Else
// returns false, in a fraction of the time that a code takes. `always`: of 64 symbols or more even
// where it takes more.
bool append_class_code(const uint8_t* symbols, size_t n, uint64_t bytes, bool always,
                       std::vector<uint8_t>* out);

// Reads the code of n symbols from the first `used` of `bytes` bytes, as read_byte_code does.
Reason read_class_code(const uint8_t* data, size_t bytes, size_t n, uint8_t* symbols, size_t* used);

}  // namespace sparsefl::codec
