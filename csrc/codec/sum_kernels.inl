// The loops of sum_kernels.h, included once for each instruction set after it has defined `Lanes`:
//
//   count(word)   set bits
//   lowest(word)  position of the lowest set bit of a word that has one
//   kWords        whether there is Word<T>, the loops here on words of 64 positions
//
// Sums at indices are asked for long before their use. Of bitmaps whole words of positions are
// changed, because where so many are kept every cache line of the sums holds some.

namespace sparsefl::codec {
namespace {

constexpr size_t kWordBits = 64;

inline uint64_t load_bits(const uint8_t* bits, size_t n) {
  uint64_t word = 0;
  __builtin_memcpy(&word, bits, n >= kWordBits ? 8 : (n + 7) / 8);
  return word;
}

inline bool is_set(const uint8_t* bits, size_t i) { return (bits[i / 8] >> (i % 8) & 1) != 0; }

// Indices ahead of which sums are asked for. Into the second-level cache, which has more misses
// under way than the first: 168 K of 16.8 M floats take 0.15 of the time of a copy of all on Zen 4,
// 0.28 without or with the first-level cache as the place; 256 and 4096 ahead are slower.
constexpr size_t kAhead = 1024;
constexpr int kSecondLevel = 1;

// Calls change(sum + position, rank) for the indices, in order.
template <class T, class Change>
inline void scatter(T* sum, const KeptPositions& positions, Change change) {
  const uint32_t* const at = positions.indices;
  const size_t first = positions.count < kAhead ? positions.count : kAhead;
  const size_t last = positions.count - first;
  for (size_t j = 0; j < first; ++j) __builtin_prefetch(sum + at[j], 0, kSecondLevel);
  for (size_t j = 0; j < last; ++j) {
    __builtin_prefetch(sum + at[j + kAhead], 0, kSecondLevel);
    change(sum + at[j], j);
  }
  for (size_t j = last; j < positions.count; ++j) change(sum + at[j], j);
}

// Where every word changes some, sums are changed at so many places in turn: at one alone each page
// of 4 KiB is waited for. 16.8 M floats at a density of .1 then take 2.8 instead of 3.1 ms on Zen
// 4, 3.7 instead of 5.5 where pages are not huge; 2 places take 3.1 and 4.5 ms, 8 are too many for
// the first-level cache.
constexpr size_t kPlaces = 4;

inline size_t count_bits(const uint8_t* bits, size_t words) {
  size_t count = 0;
  for (size_t w = 0; w < words; ++w) count += Lanes::count(load_bits(bits + 8 * w, kWordBits));
  return count;
}

// Calls whole(i, word, rank) for the words of 64 positions from i on where the set has such loops,
// and change(sum + position, rank) for positions that are not in one of them.
template <class T, class Whole, class Change>
inline void visit(T* sum, const KeptPositions& positions, Whole whole, Change change) {
  if (positions.indices != nullptr) return scatter(sum, positions, change);
  const uint8_t* const bits = positions.bits;
  const size_t words = positions.n / kWordBits;
  const size_t each = words / kPlaces;
  const auto take_bits = [&](size_t i, uint64_t word, size_t rank) {
    for (; word != 0; word &= word - 1) change(sum + i + Lanes::lowest(word), rank++);
  };
  const auto take = [&](size_t w, size_t* rank) {
    const uint64_t word = load_bits(bits + 8 * w, kWordBits);
    if constexpr (Lanes::kWords) {
      whole(kWordBits * w, word, *rank);
    } else {
      take_bits(kWordBits * w, word, *rank);
    }
    *rank += Lanes::count(word);
  };
  size_t ranks[kPlaces] = {};
  for (size_t p = 1; p < kPlaces; ++p)
    ranks[p] = ranks[p - 1] + count_bits(bits + 8 * each * (p - 1), each);
  for (size_t w = 0; w < each; ++w) {
#pragma GCC unroll 4
    for (size_t p = 0; p < kPlaces; ++p) take(each * p + w, &ranks[p]);
  }
  size_t rank = ranks[kPlaces - 1];
  for (size_t w = each * kPlaces; w < words; ++w) take(w, &rank);
  const size_t left = positions.n % kWordBits;
  if (left != 0) take_bits(kWordBits * words, load_bits(bits + 8 * words, left), rank);
}

inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }

template <class T>
void add(T* sum, const float* values, size_t n, T weight) {
  for (size_t i = 0; i < n; ++i) sum[i] = multiply_add(weight, static_cast<T>(values[i]), sum[i]);
}

template <class T>
void add_at(T* sum, const KeptPositions& positions, const float* values, T weight) {
  const auto whole = [&](size_t i, uint64_t word, size_t rank) {
    if constexpr (Lanes::kWords) Word<T>::add(sum + i, word, values + rank, weight);
  };
  visit(sum, positions, whole,
        [&](T* to, size_t rank) { *to = multiply_add(weight, static_cast<T>(values[rank]), *to); });
}

template <class T>
void add_signs(T* sum, const uint8_t* negative, size_t n, T value) {
  size_t i = 0;
  if constexpr (Lanes::kWords) {
    for (; i + kWordBits <= n; i += kWordBits) {
      Word<T>::add_signs(sum + i, ~uint64_t{0}, load_bits(negative + i / 8, kWordBits), value);
    }
  }
  for (; i < n; ++i) sum[i] += is_set(negative, i) ? -value : value;
}

template <class T>
void add_signs_at(T* sum, const KeptPositions& positions, const uint8_t* negative, T value) {
  const auto whole = [&](size_t i, uint64_t word, size_t rank) {
    if constexpr (Lanes::kWords)
      Word<T>::add_signs(sum + i, word, Word<T>::deposit(negative, rank, word), value);
  };
  visit(sum, positions, whole,
        [&](T* to, size_t rank) { *to += is_set(negative, rank) ? -value : value; });
}

template <class T>
void raise(T* sum, size_t n, T value) {
  for (size_t i = 0; i < n; ++i) sum[i] += value;
}

template <class T>
void raise_at(T* sum, const KeptPositions& positions, T value) {
  const auto whole = [&](size_t i, uint64_t word, size_t) {
    if constexpr (Lanes::kWords) Word<T>::add_signs(sum + i, word, 0, value);
  };
  visit(sum, positions, whole, [&](T* to, size_t) { *to += value; });
}

template <class T>
constexpr SumKernels<T> table() {
  return {add<T>, add_at<T>, add_signs<T>, add_signs_at<T>, raise<T>, raise_at<T>};
}

constexpr AllSumKernels kTable = {
    table<float>(),
    table<double>(),
    {nullptr, nullptr, add_signs<int32_t>, add_signs_at<int32_t>, raise<int32_t>,
     raise_at<int32_t>},
};

}  // namespace
}  // namespace sparsefl::codec
