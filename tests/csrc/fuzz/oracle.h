// What must hold of the codec whatever the bytes of a message are.
#pragma once

#include "case.h"
#include "codec/format.h"

namespace sparsefl::fuzz {

struct Verdict {
  codec::Reason reason = codec::Reason::kNone;
  // Where the tables were accepted.
  codec::Message message;
};

// Decodes the message of a case. Ends the program, saying why, where the decoder
// - writes outside its targets or reads outside the message,
// - takes more memory or steps than a linear pass over schema and message,
// - adds a message up to something else than it decodes, or anything of one that it refuses,
// - accepts a message whose content is not what its counts say, depends on what lay in the targets
//   before, has a value that the format has no place for, or, where `encodes`, is not the same
//   after it was encoded and decoded once more.
Verdict check(const Case& c, bool encodes);

}  // namespace sparsefl::fuzz
