// The elements of largest magnitude among the pruned positions of a matrix that comes tile by tile:
// memory for twice as many as are wanted, whatever the size of the matrix.
#pragma once

#include <cstdint>

namespace sparsefl {

// A candidate is one integer of twice the width of T: magnitude, position (inverted) and sign, the
// highest bits first. Of two the better one is the larger: the one of larger magnitude, of equal
// ones that of the lower position.
template <class T>
struct Candidate;
template <>
struct Candidate<float> {
  typedef uint32_t Bits;
  typedef uint64_t Key;
};
template <>
struct Candidate<double> {
  typedef uint64_t Bits;
  __extension__ typedef unsigned __int128 Key;
};

// Positions that a candidate has room for.
template <class T>
constexpr int64_t kMostPositions = int64_t{1} << (sizeof(T) == 4 ? 32 : 62);

template <class T>
struct Candidates {
  typename Candidate<T>::Key* keys;  // [capacity]
  int64_t capacity;                  // more than count
  int64_t count;                     // how many are wanted, at least 1
  int64_t held;
  bool bounded;  // whether keys[count - 1] is a bound: worse ones are not wanted
};

// A tile of a row-major matrix: element (r, c) is at position first + r * step + c of it.
template <class T>
struct Tile {
  const T* x;  // [rows, columns]
  int64_t rows, columns;
  int64_t first, step;
};

// Adds the tile's elements whose bit in `kept` (a bit a position, least significant first) is not
// set, those that may be wanted. Returns false at a NaN, whether kept or pruned.
template <class T>
bool collect(const Tile<T>& tile, const uint8_t* kept, Candidates<T>* candidates);

// Writes positions and elements of the `count` best, by increasing position. At least as many are
// held; the candidates are spent.
template <class T>
void take(Candidates<T>* candidates, int64_t* positions, T* elements);

// Elements that `reach` takes at a time.
constexpr int64_t kMostReached = 1024;

template <class T>
struct GrowthKernels {
  // Writes the places of x[0, n), n <= kMostReached, whose magnitude is not below `least`, in
  // order; a NaN's is not. Returns how many. `at` has room for kMostReached.
  int64_t (*reach)(const T* x, int64_t n, T least, uint16_t* at);
};

template <class T>
const GrowthKernels<T>& growth_kernels();

}  // namespace sparsefl
