// The loops of rank.h for machines that have the instructions pext and pdep.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

#if defined(__x86_64__)
// As compress_bits and expand_bits; `flip` is XORed with the mask's words.
void compress_words_bmi2(const uint8_t* bits, const uint8_t* mask, size_t n, uint64_t flip,
                         size_t count, uint8_t* out);
void expand_words_bmi2(const uint8_t* ranks, size_t count, const uint8_t* mask, size_t n,
                       uint64_t flip, uint8_t* out);
#endif

}  // namespace sparsefl::codec
