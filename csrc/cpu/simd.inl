// Vector types of the instruction set that the including file selected. The lane count follows the
// instruction set (a 64-byte vector compiled for AVX2 is 20 times slower than a 32-byte one), and
// all names have internal linkage, so that no linker can mix two instruction sets' code.
// Before inclusion: SPARSEFL_VECTOR_BYTES is 16, 32 or 64.

namespace sparsefl {
namespace {

template <class T>
struct Vec {
  static constexpr int kLanes = SPARSEFL_VECTOR_BYTES / sizeof(T);
  typedef T Type __attribute__((vector_size(SPARSEFL_VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(SPARSEFL_VECTOR_BYTES), aligned(sizeof(T))));
};

template <class T>
inline typename Vec<T>::Type load(const T* p) {
  return *reinterpret_cast<const typename Vec<T>::Unaligned*>(p);
}

template <class T>
inline void store(T* p, typename Vec<T>::Type v) {
  *reinterpret_cast<typename Vec<T>::Unaligned*>(p) = v;
}

// Loads or stores the first `lanes` elements; the other lanes load as zero.
template <class T>
inline typename Vec<T>::Type load_some(const T* p, int64_t lanes) {
  typename Vec<T>::Type v = {};
  for (int i = 0; i < Vec<T>::kLanes; ++i) {
    if (i < lanes) v[i] = p[i];
  }
  return v;
}

template <class T>
inline void store_some(T* p, typename Vec<T>::Type v, int64_t lanes) {
  for (int i = 0; i < Vec<T>::kLanes; ++i) {
    if (i < lanes) p[i] = v[i];
  }
}

template <class T>
inline typename Vec<T>::Type broadcast(T value) {
  return value - typename Vec<T>::Type{};
}

// Keeps a loaded vector in a register: compilers would load what is used twice twice.
template <class V>
inline void keep(V& v) {
#if SPARSEFL_VECTOR_BYTES == 64
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#else
  (void)v;
#endif
}

template <int... I>
struct Lanes {};
template <int N, int... I>
struct FirstLanes : FirstLanes<N - 1, N - 1, I...> {};
template <int... I>
struct FirstLanes<0, I...> {
  typedef Lanes<I...> Type;
};

// Adds the halves of every segment of S lanes: of p's segments first, then of q's.
template <int S, class V, int... I>
inline V add_halves(V p, V q, Lanes<I...>) {
  constexpr int H = S / 2;
  return __builtin_shufflevector(p, q, (I / H * S + I % H)...) +
         __builtin_shufflevector(p, q, (I / H * S + I % H + H)...);
}

template <int S, class V, class Sequence>
inline V sum_tree(const V* v, Sequence lanes) {
  if constexpr (S == 1) {
    return *v;
  } else {
    constexpr int kHalf = S / 2;
    constexpr int kSegment = sizeof(V) / sizeof((*v)[0]) / kHalf;
    return add_halves<kSegment>(sum_tree<kHalf>(v, lanes), sum_tree<kHalf>(v + kHalf, lanes),
                                lanes);
  }
}

// Adds neighbouring lanes: those of p, then those of q, in each half of 4 lanes.
template <class V>
inline V add_neighbours(V p, V q) {
  return __builtin_shufflevector(p, q, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(p, q, 1, 3, 9, 11, 5, 7, 13, 15);
}

// Lane i of the result is the sum over the lanes of v[i], of 8 vectors of 8 lanes. All shuffles but
// the first stay within 16 bytes, which takes half the time.
template <class V>
inline V sum_eight(const V* v) {
  V pairs[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pairs[i] = __builtin_shufflevector(v[i], v[i + 4], 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(v[i], v[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  return add_neighbours(add_neighbours(pairs[0], pairs[1]), add_neighbours(pairs[2], pairs[3]));
}

template <class V, class Half, int... I>
inline V concatenate(Half low, Half high, Lanes<I...>) {
  return __builtin_shufflevector(low, high, I...);
}

// Lane i of the result is the sum over the lanes of v[i]; v has as many vectors as a vector lanes.
template <class T>
inline typename Vec<T>::Type sum_each(const typename Vec<T>::Type* v) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename FirstLanes<kLanes>::Type lanes;
  if constexpr (kLanes == 16) {
    // Read by halves, whose sum takes no shuffle.
    typedef T Half __attribute__((vector_size(SPARSEFL_VECTOR_BYTES / 2), may_alias));
    const Half* halves = reinterpret_cast<const Half*>(v);
    Half sums[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sums[i] = halves[2 * i] + halves[2 * i + 1];
    return concatenate<typename Vec<T>::Type>(sum_eight(sums), sum_eight(sums + 8), lanes);
  } else if constexpr (kLanes == 8) {
    return sum_eight(v);
  } else {
    return sum_tree<kLanes>(v, lanes);
  }
}

// Exchanges the off-diagonal H x H blocks of each 2H x 2H block: one step of a transposition.
template <int H, class V, int... I>
inline void exchange(V* a, V* b, Lanes<I...>) {
  const V p = *a, q = *b;
  constexpr int kLanes = sizeof...(I);
  *a = __builtin_shufflevector(p, q, ((I & H) == 0 ? I : I - H + kLanes)...);
  *b = __builtin_shufflevector(p, q, ((I & H) == 0 ? I + H : I + kLanes)...);
}

template <int kLanes, int H, class V, class Sequence>
inline void transpose_steps(V* v, Sequence sequence) {
  if constexpr (H > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & H) == 0) exchange<H>(v + i, v + i + H, sequence);
    }
    transpose_steps<kLanes, H / 2>(v, sequence);
  }
}

// Transposes the square of Vec<T>::kLanes vectors in place.
template <class T>
inline void transpose_square(typename Vec<T>::Type* v) {
  constexpr int kLanes = Vec<T>::kLanes;
  transpose_steps<kLanes, kLanes / 2>(v, typename FirstLanes<kLanes>::Type{});
}

}  // namespace
}  // namespace sparsefl
