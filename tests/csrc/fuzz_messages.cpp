// A fuzz target for libFuzzer: any bytes are a case, and its mutations keep to the format.
// fuzz_driver.cpp is a program around it for compilers without libFuzzer.

#include <algorithm>
#include <cstring>

#include "fuzz/case.h"
#include "fuzz/mutate.h"
#include "fuzz/oracle.h"
#include "fuzz/random.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sparsefl::fuzz::check(sparsefl::fuzz::load_case({data, size}), true);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  sparsefl::fuzz::Random random(seed);
  sparsefl::fuzz::Case c = sparsefl::fuzz::load_case({data, size});
  sparsefl::fuzz::mutate(&c, &random);
  const sparsefl::fuzz::Bytes file = sparsefl::fuzz::store_case(c);
  const size_t kept = std::min(file.size(), max_size);
  std::memcpy(data, file.data(), kept);
  return kept;
}
