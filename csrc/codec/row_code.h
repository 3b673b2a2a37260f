// Codes of bit strings that are rows of one length: rows of very different density, and tiles of
// which each is all set or all clear. FORMAT.md, "Bit code", defines them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/flat_code.h"
#include "codec/format.h"

namespace sparsefl::codec {

// Whether a string of n bits is two rows or more.
constexpr bool has_rows(size_t n, size_t row) { return row != 0 && n % row == 0 && n / row > 1; }

// Appends the code of the rows by classes of density. Returns false and appends nothing where the
// rows differ too little in density for it, or not `always`. has_rows(n, row).
bool append_rows(const uint8_t* bits, size_t n, size_t row, Profile profile, bool always,
                 Scratch* scratch, std::vector<uint8_t>* out);

// Appends the code of the coarsest tiles of which the string consists. Returns false and appends
// nothing where there are none: for a string without structure, after some words of it.
bool append_tiles(const uint8_t* bits, size_t n, size_t row, Profile profile, Scratch* scratch,
                  std::vector<uint8_t>* out);

Reason read_rows(const uint8_t* data, size_t bytes, size_t n, size_t count, size_t row,
                 Profile profile, uint8_t* bits);
Reason read_tiles(const uint8_t* data, size_t bytes, size_t n, size_t count, size_t row,
                  Profile profile, uint8_t* bits);

}  // namespace sparsefl::codec
