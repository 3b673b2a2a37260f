// What must hold of sums of messages.
#pragma once

#include "case.h"
#include "decoded.h"

namespace sparsefl::fuzz {

// Adds a message to sums. Ends the program where these are not those of what was decoded, where the
// message is refused for another reason, or where a refused one changes a sum.
void check_sums(const Case& c, const Decoded& decoded);

}  // namespace sparsefl::fuzz
