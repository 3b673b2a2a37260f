// The bytes of a table of frequencies, as FORMAT.md's "Byte code" defines them.
#pragma once

#include <vector>

#include "codec/byte_model.h"

namespace sparsefl::codec {

// How many bytes append_table takes.
size_t table_bytes(const SymbolTable& table);

// Appends a table in the form that takes the fewest bytes.
void append_table(const SymbolTable& table, std::vector<uint8_t>* out);

// Reads what append_table wrote, with an escape or without, from the first of `bytes` bytes.
Reason read_table(const uint8_t* data, size_t bytes, bool escape, SymbolTable* table, size_t* used);

}  // namespace sparsefl::codec
