// What the kernels' programs compare: how many, and how they end at the first difference.
#pragma once

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace sparsefl {

inline int64_t compared = 0;

inline void expect(bool equal, const char* set, const char* what) {
  if (equal) return;
  std::printf("%s %s differs\n", set, what);
  std::exit(1);
}

// Written so that a NaN is a difference.
inline void expect_near(double result, double expected, double scale, const char* set,
                        const char* what) {
  if (std::abs(result - expected) <= 1e-5 * scale) return;
  std::printf("%s %s: %.9g, not %.9g\n", set, what, result, expected);
  std::exit(1);
}

}  // namespace sparsefl
