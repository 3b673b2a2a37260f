// What became of a message, and what it says.
#pragma once

#include <vector>

#include "case.h"
#include "codec/format.h"
#include "guarded.h"

namespace sparsefl::fuzz {

struct Decoded {
  codec::Reason reason = codec::Reason::kNone;
  // Whether `message` has what header, descriptors and directory say.
  bool has_tables = false;
  codec::Message message;
  // One a descriptor, of no bytes where it has none.
  std::vector<Guarded> bitmaps, values;
};

// Not null, which stands for none, where there are no elements.
template <class T>
const T* address_of(const std::vector<T>& elements) {
  static constexpr T kNone{};
  return elements.empty() ? &kNone : elements.data();
}

}  // namespace sparsefl::fuzz
