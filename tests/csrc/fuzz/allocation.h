// How much memory the program holds, as an address sanitizer counts it.
#pragma once

#include <cstddef>

namespace sparsefl::fuzz {

// Starts anew to find the peak.
void watch_allocation();

// The most bytes that were held at once since then, beyond those that were held at its start; 0
// without an address sanitizer.
size_t peak_allocation();

}  // namespace sparsefl::fuzz
