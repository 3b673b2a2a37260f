// The list behind a byte code: the symbols without a probability of their own, which an escape
// stands for.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

// Writes the symbols of [0, n) that are marked, in order. `list` has room for their number and
// kListSlack bytes more. marks[s]: 0xFF for a marked symbol, else 0.
void gather_marked(const uint8_t* symbols, size_t n, const uint8_t* marks, uint8_t* list);

// How many of n symbols are the escape.
size_t count_escapes(const uint8_t* symbols, size_t n, uint8_t escape);

// Puts the next of `list` in place of each escape among n symbols; `list` has kListSlack bytes
// after as many as there are escapes.
void put_escaped(const uint8_t* list, size_t n, uint8_t escape, uint8_t* symbols);

inline constexpr size_t kListSlack = 64;

// Their loops over 32 or 64 symbols at a time. Return how many symbols they did, and advance the
// list or the count.
size_t gather_marked_avx2(const uint8_t* symbols, size_t n, const uint8_t* marks, uint8_t** list);
size_t count_escapes_avx2(const uint8_t* symbols, size_t n, uint8_t escape, size_t* count);
size_t put_escaped_avx2(const uint8_t** list, size_t n, uint8_t escape, uint8_t* symbols);
size_t gather_marked_avx512(const uint8_t* symbols, size_t n, const uint8_t* marks, uint8_t** list);
size_t count_escapes_avx512(const uint8_t* symbols, size_t n, uint8_t escape, size_t* count);
size_t put_escaped_avx512(const uint8_t** list, size_t n, uint8_t escape, uint8_t* symbols);

}  // namespace sparsefl::codec
