// Bytes by their probabilities, as FORMAT.md's "Byte code" defines it: the code of everything that
// is not evenly distributed. Its length is not stated; it ends where its reader ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/byte_model.h"
#include "codec/format.h"

namespace sparsefl::codec {

// Appends the code of n symbols, nothing for none: at most n + 1 bytes. n < 2^24, so that three
// bytes count its words.
void append_byte_code(const uint8_t* symbols, size_t n, Profile profile, std::vector<uint8_t>* out);

// As above with the model of choose_byte_model() for these symbols, n >= 1.
void append_byte_code(const uint8_t* symbols, size_t n, const ByteModel& model,
                      std::vector<uint8_t>* out);

// Bytes that append_byte_code takes by a model, within 1 % or some bytes.
uint64_t coded_bytes(const ByteModel& model);

// Reads the code of n symbols, one that the profile has, from the first `used` of `bytes` bytes.
// Touches nothing outside, whatever they are, and takes linear time; `symbols` holds nothing of use
// where it is refused.
Reason read_byte_code(const uint8_t* data, size_t bytes, size_t n, Profile profile,
                      uint8_t* symbols, size_t* used);

}  // namespace sparsefl::codec
