// Runs growth's kernels of every instruction set that this machine has on awkward sizes, against
// plain loops and a full sort. Prints how many were compared, the same on every machine; exits with
// 1 at the first difference.
#include "cpu/growth.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "expect.h"
#include "sets.h"

namespace sparsefl {

extern const GrowthKernels<double> kGrowthF64;
extern const GrowthKernels<float> kGrowthScalarF32, kGrowthAvx2F32, kGrowthAvx512F32;

namespace {

// What collect and take run on.
const void* in_use;

uint64_t random_bits() {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 33;
}

// Few values, so that equal ones meet; of exactly its size, so that the address sanitizer sees a
// lane too far.
template <class T>
std::unique_ptr<T[]> numbers(int64_t n, int64_t values) {
  std::unique_ptr<T[]> made(new T[n]);
  for (int64_t i = 0; i < n; ++i) {
    const auto drawn = static_cast<int64_t>(random_bits() % static_cast<uint64_t>(values));
    made[i] = static_cast<T>(drawn - values / 2) / 4;
  }
  return made;
}

template <class T>
void check_reach(const GrowthKernels<T>& kernels, const char* set, int64_t n) {
  const auto x = numbers<T>(n, 20);
  const int64_t nan = n > 2 ? n / 2 : -1;
  if (nan > 0) x[nan] = std::numeric_limits<T>::quiet_NaN();
  if (n > 5) x[n / 3] = -std::numeric_limits<T>::infinity();
  for (const T least : {T{0}, T{1}, T(2.25), T{100}}) {
    uint16_t at[kMostReached];
    const int64_t found = kernels.reach(x.get(), n, least, at);
    int64_t expected = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (std::abs(x[i]) < least && i != nan) continue;
      expect(expected < found && at[expected] == i, set, "reach");
      ++expected;
    }
    expect(found == expected, set, "reach");
    ++compared;
  }
}

// A matrix in tiles of `height` x `width`.
template <class T>
void check_largest(const char* set, int64_t rows, int64_t columns, int64_t height, int64_t width,
                   int64_t percent, int64_t values) {
  const int64_t n = rows * columns;
  const auto x = numbers<T>(n, values);
  std::vector<uint8_t> kept((n + 7) / 8);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < n; ++i) {
    if (static_cast<int64_t>(random_bits() % 100) < percent) {
      kept[i / 8] = static_cast<uint8_t>(kept[i / 8] | 1 << i % 8);
    } else {
      order.push_back(i);
    }
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return std::abs(x[a]) > std::abs(x[b]); });
  const auto pruned = static_cast<int64_t>(order.size());
  for (const int64_t count : {int64_t{1}, pruned / 7, pruned / 2, pruned}) {
    if (count < 1 || count > pruned) continue;
    const int64_t capacity = count + std::max<int64_t>(1, count / 3);
    std::unique_ptr<typename Candidate<T>::Key[]> keys(new typename Candidate<T>::Key[capacity]);
    Candidates<T> candidates{keys.get(), capacity, count, 0, false};
    for (int64_t c = 0; c < columns; c += width) {
      for (int64_t r = 0; r < rows; r += height) {
        const int64_t h = std::min(height, rows - r), w = std::min(width, columns - c);
        std::unique_ptr<T[]> part(new T[h * w]);
        for (int64_t i = 0; i < h * w; ++i) part[i] = x[(r + i / w) * columns + c + i % w];
        const Tile<T> tile{part.get(), h, w, r * columns + c, columns};
        expect(collect(tile, kept.data(), &candidates), set, "collect");
      }
    }
    std::unique_ptr<int64_t[]> positions(new int64_t[count]);
    std::unique_ptr<T[]> elements(new T[count]);
    take(&candidates, positions.get(), elements.get());
    std::vector<int64_t> expected(order.begin(), order.begin() + count);
    std::sort(expected.begin(), expected.end());
    for (int64_t i = 0; i < count; ++i) {
      expect(positions[i] == expected[i] && elements[i] == x[expected[i]], set, "take");
    }
    ++compared;
  }
}

template <class T>
void check(const GrowthKernels<T>& kernels, const char* set) {
  in_use = &kernels;
  for (const int64_t n : {0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 1000, 1024}) {
    check_reach(kernels, set, n);
  }
  for (const int64_t values : {3, 1000}) {
    check_largest<T>(set, 1, 1, 1, 1, 0, values);
    check_largest<T>(set, 7, 63, 3, 17, 30, values);
    check_largest<T>(set, 65, 129, 16, 129, 1, values);
    check_largest<T>(set, 2, 3001, 2, 3001, 60, values);
    check_largest<T>(set, 300, 5, 64, 2, 99, values);
  }
}

}  // namespace

template <>
const GrowthKernels<float>& growth_kernels() {
  return *static_cast<const GrowthKernels<float>*>(in_use);
}
template <>
const GrowthKernels<double>& growth_kernels() {
  return *static_cast<const GrowthKernels<double>*>(in_use);
}

}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  SPARSEFL_CHECK_SETS(kGrowth, "growth")
  return 0;
}
