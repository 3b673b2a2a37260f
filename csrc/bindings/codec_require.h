// What the Python side guarantees; a failure is a mistake of ours, not of the user.
#pragma once

#include <stdexcept>
#include <string>

namespace sparsefl {

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("_codec: ") + what);
}

}  // namespace sparsefl
