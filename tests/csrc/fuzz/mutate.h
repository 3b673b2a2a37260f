// Changes of a case that a decoder has to see through: field by field, or byte by byte.
#pragma once

#include "case.h"
#include "random.h"

namespace sparsefl::fuzz {

// Changes the message, seldom what the receiver holds. Lengths, counts, fingerprints and checksums
// are mostly made right again, so that the damage reaches the checks behind theirs.
void mutate(Case* c, Random* random);

}  // namespace sparsefl::fuzz
