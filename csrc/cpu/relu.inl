// The kernels of relu.h, written once for every instruction set.

#include <cstring>
#include <type_traits>

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// Lane l of a stored vector of words holds in bit j what is said of element j * kLanes + l: no lane
// ever moves.
template <class T>
struct Words {
  typedef std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> Word;
  typedef typename Vec<Word>::Type Type;
  static constexpr int kLanes = Vec<T>::kLanes;
  static constexpr int kBits = 8 * sizeof(T);
  static constexpr int64_t kElements = int64_t{kLanes} * kBits;
};

// Calls step(vector's first element, vectors) for each stored vector of words; of the last, behind
// its full vectors, `rest` elements are left.
template <class T, class Step>
inline void for_words(int64_t n, const Step& step) {
  static_assert(kReluSpan % Words<T>::kElements == 0);
  for (int64_t at = 0; at < n; at += Words<T>::kElements) {
    const int64_t left = n - at < Words<T>::kElements ? n - at : Words<T>::kElements;
    step(at, left / Words<T>::kLanes, left % Words<T>::kLanes);
  }
}

template <class T>
void forward(const T* x, int64_t n, T* y, uint8_t* passed) {
  typedef typename Vec<T>::Type V;
  typedef typename Words<T>::Type W;
  for_words<T>(n, [&](int64_t at, int64_t vectors, int64_t rest) {
    W said = {}, bit = W{} + 1;
    const auto relu = [&](V v) {
      const auto stops = v <= V{};
      said |= ~reinterpret_cast<W>(stops) & bit;
      bit += bit;
      return stops ? V{} : v;
    };
    const T* from = x + at;
    T* to = y + at;
    for (int64_t j = 0; j < vectors; ++j, from += Words<T>::kLanes, to += Words<T>::kLanes) {
      store(to, relu(load(from)));
    }
    if (rest > 0) store_some(to, relu(load_some(from, rest)), rest);
    std::memcpy(passed + at / 8, &said, sizeof said);
  });
}

template <class T>
void backward(const T* grad, const uint8_t* passed, int64_t n, T* grad_x) {
  typedef typename Vec<T>::Type V;
  typedef typename Words<T>::Type W;
  for_words<T>(n, [&](int64_t at, int64_t vectors, int64_t rest) {
    W said, bit = W{} + 1;
    std::memcpy(&said, passed + at / 8, sizeof said);
    const auto let = [&](V g) {
      const V kept = (said & bit) != 0 ? g : V{};
      bit += bit;
      return kept;
    };
    const T* from = grad + at;
    T* to = grad_x + at;
    for (int64_t j = 0; j < vectors; ++j, from += Words<T>::kLanes, to += Words<T>::kLanes) {
      store(to, let(load(from)));
    }
    if (rest > 0) store_some(to, let(load_some(from, rest)), rest);
  });
}

}  // namespace

#define SPARSEFL_RELU_TABLE(T) {forward<T>, backward<T>}

}  // namespace sparsefl
