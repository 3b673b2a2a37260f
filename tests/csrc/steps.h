// How much work a part of a program does, the same on a machine however busy.
#pragma once

#include <cstddef>

namespace sparsefl {

// Basic blocks that this thread has run of sources compiled with -fsanitize-coverage=trace-pc.
size_t steps_taken();

}  // namespace sparsefl
