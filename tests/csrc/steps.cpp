#include "steps.h"

#if !defined(__clang__)
namespace {
thread_local size_t steps = 0;
}

// What -fsanitize-coverage=trace-pc calls at each basic block. libFuzzer has one of its own.
extern "C" void __sanitizer_cov_trace_pc() { ++steps; }

namespace sparsefl {

size_t steps_taken() { return steps; }

}  // namespace sparsefl
#else
namespace sparsefl {

size_t steps_taken() { return 0; }

}  // namespace sparsefl
#endif
