// The loops of sum_kernels.h, included once for each instruction set after it has defined `Lanes`:
//
//   count(word)                  set bits
//   lowest(word)                 position of the lowest set bit, anything for 0
//   filled(bits, i, end, words, begins)
//                                appends words of bits [*i, end) with a set bit and where each
//                                begins, as many as suit it, moves *i on and returns their number
//   kWords                       whether there is Word<T>, the loops here on words of 64 positions
//
// Sums of few kept positions are walked by index: blocks of positions become indices without a
// branch a bit, and their lines are asked for a block ahead. From kDense on whole words of
// positions are cheaper, because every cache line of the sums holds some.

namespace sparsefl::codec {
namespace {

constexpr double kDense = 0.06;
// Positions that become indices at a time: a few hundred at the densities that are walked.
constexpr size_t kBlock = 4096;
constexpr size_t kWordBits = 64;

inline uint64_t load_bits(const uint8_t* bits, size_t n) {
  uint64_t word = 0;
  __builtin_memcpy(&word, bits, n >= kWordBits ? 8 : (n + 7) / 8);
  return word;
}

inline bool is_set(const uint8_t* bits, size_t i) { return (bits[i / 8] >> (i % 8) & 1) != 0; }

// Positions of set bits of one block, and room for those written without asking how many there are.
struct Indices {
  size_t count = 0;
  uint32_t at[kBlock + 8];
};

// Appends the positions of the set bits of a word whose bit 0 is position `begin`.
inline void append(uint64_t word, uint32_t begin, Indices* out) {
  const unsigned set = Lanes::count(word);
  uint32_t* at = out->at + out->count;
  out->count += set;
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j, word &= word - 1) at[j] = begin + Lanes::lowest(word);
  for (unsigned j = 4; j < set; ++j, word &= word - 1) at[j] = begin + Lanes::lowest(word);
}

// The set bits of bits [begin, end), end - begin <= kBlock. Words without a bit take no turn.
inline void find(const uint8_t* bits, size_t begin, size_t end, Indices* out) {
  uint64_t words[kBlock / kWordBits + 8];
  uint32_t begins[kBlock / kWordBits + 8];
  size_t i = begin;
  size_t filled = Lanes::filled(bits, &i, end, words, begins);
  for (; i < end; i += kWordBits) {
    words[filled] = load_bits(bits + i / 8, end - i);
    begins[filled] = static_cast<uint32_t>(i);
    filled += words[filled] != 0;
  }
  out->count = 0;
  for (size_t j = 0; j < filled; ++j) append(words[j], begins[j], out);
}

template <class T>
inline void prefetch(const T* sum, const Indices& indices) {
  for (size_t j = 0; j < indices.count; ++j) __builtin_prefetch(sum + indices.at[j], 1);
}

// Calls change(sum + position, rank) for the set bits of bits [0, n), in order.
template <class T, class Change>
inline void walk(T* sum, const uint8_t* bits, size_t n, Change change) {
  Indices blocks[2];
  size_t rank = 0;
  for (size_t begin = 0, turn = 0; begin < n + kBlock; begin += kBlock, turn ^= 1) {
    Indices& ahead = blocks[turn];
    ahead.count = 0;
    if (begin < n) {
      find(bits, begin, n - begin < kBlock ? n : begin + kBlock, &ahead);
      prefetch(sum, ahead);
    }
    const Indices& now = blocks[turn ^ 1];
    for (size_t j = 0; j < now.count; ++j) change(sum + now.at[j], rank++);
  }
}

// How far ahead of their use sums are asked for where every word changes some: a message of 16.8 M
// positions at density .1 takes 7.7 instead of 8.2 ms on Zen 4.
constexpr size_t kAheadBytes = 4096;

// Calls whole(i, word, rank) for the words of 64 positions from `i` on, and walks what is left.
template <class T, class Whole, class Change>
inline void sweep(T* sum, const uint8_t* bits, size_t n, Whole whole, Change change) {
  size_t i = 0, rank = 0;
  for (; i + kWordBits <= n; i += kWordBits) {
    const uint64_t word = load_bits(bits + i / 8, kWordBits);
#pragma GCC unroll 8
    for (size_t at = 0; at < kWordBits * sizeof(T); at += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(sum + i) + kAheadBytes + at, 1);
    }
    whole(i, word, rank);
    rank += Lanes::count(word);
  }
  walk(sum + i, bits + i / 8, n - i, [&](T* to, size_t) { change(to, rank++); });
}

inline bool is_dense(size_t count, size_t n) {
  return Lanes::kWords && static_cast<double>(count) >= kDense * static_cast<double>(n);
}

inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }

template <class T>
void add(T* sum, const float* values, size_t n, T weight) {
  for (size_t i = 0; i < n; ++i) sum[i] = multiply_add(weight, static_cast<T>(values[i]), sum[i]);
}

template <class T>
void add_at(T* sum, const uint8_t* bits, size_t n, const float* values, size_t count, T weight) {
  const auto change = [&](T* to, size_t rank) {
    *to = multiply_add(weight, static_cast<T>(values[rank]), *to);
  };
  if constexpr (Lanes::kWords) {
    if (is_dense(count, n)) {
      const auto whole = [&](size_t i, uint64_t word, size_t rank) {
        Word<T>::add(sum + i, word, values + rank, weight);
      };
      return sweep(sum, bits, n, whole, change);
    }
  }
  (void)count;
  walk(sum, bits, n, change);
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
void add_signs_at(T* sum, const uint8_t* bits, size_t n, const uint8_t* negative, size_t count,
                  T value) {
  const auto change = [&](T* to, size_t rank) { *to += is_set(negative, rank) ? -value : value; };
  if constexpr (Lanes::kWords) {
    if (is_dense(count, n)) {
      const auto whole = [&](size_t i, uint64_t word, size_t rank) {
        Word<T>::add_signs(sum + i, word, Word<T>::deposit(negative, rank, word), value);
      };
      return sweep(sum, bits, n, whole, change);
    }
  }
  (void)count;
  walk(sum, bits, n, change);
}

template <class T>
void raise(T* sum, size_t n, T value) {
  for (size_t i = 0; i < n; ++i) sum[i] += value;
}

template <class T>
void raise_at(T* sum, const uint8_t* bits, size_t n, size_t count, T value) {
  const auto change = [&](T* to, size_t) { *to += value; };
  if constexpr (Lanes::kWords) {
    if (is_dense(count, n)) {
      const auto whole = [&](size_t i, uint64_t word, size_t) {
        Word<T>::add_signs(sum + i, word, 0, value);
      };
      return sweep(sum, bits, n, whole, change);
    }
  }
  (void)count;
  walk(sum, bits, n, change);
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
