#include "cpu/growth.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace sparsefl {
namespace {

template <class T>
using Bits = typename Candidate<T>::Bits;
template <class T>
using Key = typename Candidate<T>::Key;
template <class T>
constexpr int kWidth = 8 * sizeof(T);

template <class T>
Key<T> make_key(T element, int64_t position) {
  const Bits<T> bits = std::bit_cast<Bits<T>>(element);
  const Bits<T> inverted = ~static_cast<Bits<T>>(position);
  return static_cast<Key<T>>(bits << 1) << kWidth<T> | static_cast<Key<T>>(inverted) << 1 |
         bits >> (kWidth<T> - 1);
}

// By its bits: a compiler may assume that there are none.
template <class T>
bool is_nan(T element) {
  constexpr Bits<T> kInfinity = std::bit_cast<Bits<T>>(std::numeric_limits<T>::infinity());
  return static_cast<Bits<T>>(std::bit_cast<Bits<T>>(element) << 1) > kInfinity << 1;
}

template <class T>
T magnitude_of(Key<T> key) {
  return std::bit_cast<T>(static_cast<Bits<T>>(key >> (kWidth<T> + 1)));
}

template <class T>
int64_t position_of(Key<T> key) {
  return static_cast<int64_t>(static_cast<Bits<T>>(~static_cast<Bits<T>>(key >> 1)));
}

template <class T>
T element_of(Key<T> key) {
  return (key & 1) != 0 ? -magnitude_of<T>(key) : magnitude_of<T>(key);
}

// Leaves the `count` best, the worst of them last.
template <class T>
void thin(Candidates<T>* c) {
  if (c->held <= c->count) return;
  std::nth_element(c->keys, c->keys + c->count - 1, c->keys + c->held, std::greater<>());
  c->held = c->count;
  c->bounded = true;
}

bool bit(const uint8_t* bits, int64_t i) { return (bits[i / 8] >> i % 8 & 1) != 0; }

// Adds what may be wanted of a stretch of a row.
template <class T>
bool collect_stretch(const T* x, int64_t n, int64_t first, const uint8_t* kept, Candidates<T>* c) {
  uint16_t at[kMostReached];
  const T least = c->bounded ? magnitude_of<T>(c->keys[c->count - 1]) : T{0};
  const int64_t found = growth_kernels<T>().reach(x, n, least, at);
  for (int64_t i = 0; i < found; ++i) {
    const T element = x[at[i]];
    if (is_nan(element)) return false;
    const int64_t position = first + at[i];
    if (bit(kept, position)) continue;
    const Key<T> key = make_key(element, position);
    if (c->bounded && key < c->keys[c->count - 1]) continue;
    c->keys[c->held++] = key;
    if (c->held == c->capacity) thin(c);
  }
  return true;
}

}  // namespace

template <class T>
bool collect(const Tile<T>& tile, const uint8_t* kept, Candidates<T>* candidates) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    const T* row = tile.x + r * tile.columns;
    for (int64_t c = 0; c < tile.columns; c += kMostReached) {
      const int64_t n = std::min(kMostReached, tile.columns - c);
      if (!collect_stretch(row + c, n, tile.first + r * tile.step + c, kept, candidates)) {
        return false;
      }
    }
  }
  return true;
}

template <class T>
void take(Candidates<T>* candidates, int64_t* positions, T* elements) {
  thin(candidates);
  Key<T>* keys = candidates->keys;
  std::sort(keys, keys + candidates->count,
            [](Key<T> a, Key<T> b) { return position_of<T>(a) < position_of<T>(b); });
  for (int64_t i = 0; i < candidates->count; ++i) {
    positions[i] = position_of<T>(keys[i]);
    elements[i] = element_of<T>(keys[i]);
  }
}

template bool collect(const Tile<float>&, const uint8_t*, Candidates<float>*);
template bool collect(const Tile<double>&, const uint8_t*, Candidates<double>*);
template void take(Candidates<float>*, int64_t*, float*);
template void take(Candidates<double>*, int64_t*, double*);

}  // namespace sparsefl
