// Words of a stream that round values at random.
#pragma once

#include <cstdint>

namespace sparsefl::codec {

struct Draws {
  uint64_t seed;
  uint64_t stream;
  uint64_t first;  // the word of the first value; each takes the next
};

}  // namespace sparsefl::codec
