// The kernels of the walk in strips: an item is a run of them.

namespace sparsefl {
namespace {

// What the kept positions of a row meet of a strip, added up from the bias on.
template <class T, int kVectors, bool kPlain>
[[gnu::always_inline]] inline void gather_strip(const GatherArgs<T>& a, const Runs<T>& runs,
                                                const Strip& strip, int64_t row, T bias, T* y) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type acc[kVectors];
  const auto start = broadcast<T>(bias);
  for (int v = 0; v < kVectors; ++v) acc[v] = start;
  const int64_t blocks = a.view.blocks();
  for (int64_t b = 0; b < blocks; ++b) {
    const int32_t* begin = runs.begin(b) + row;
    const int64_t offset = runs.in_offset(b);
    for (int64_t k = begin[0]; k < begin[1]; ++k) {
      const auto w = broadcast<T>(a.weights[k]);
      const TapPlace place = runs.scratch.table[a.view.index[k]];
      runs.template with_operand<kVectors, kPlain>(
          strip, offset, place, [&](const T* p, auto mask) {
            if (kPlain || mask == nullptr) {
              for (int v = 0; v < kVectors; ++v) acc[v] += w * load(p + v * kLanes);
            } else {
              for (int v = 0; v < kVectors; ++v) {
                acc[v] += w * masked<T>(load(p + v * kLanes), mask + v * kLanes);
              }
            }
          });
    }
  }
  y += strip.out;
  if (kPlain || strip.count == kVectors * kLanes) {
    for (int v = 0; v < kVectors; ++v) store(y + v * kLanes, acc[v]);
  } else {
    for (int v = 0; v < kVectors; ++v) store_some(y + v * kLanes, acc[v], strip.count - v * kLanes);
  }
}

template <class T, int kVectors>
__attribute__((noinline)) void gather_run(const GatherArgs<T>& a, const Runs<T>& runs) {
  const T* bias = a.bias == nullptr ? nullptr : a.bias + runs.first_row();
  for (int64_t row = 0; row < runs.rows(); ++row) {
    const T start = bias == nullptr ? T{0} : bias[row];
    T* y = a.y + runs.out_offset(row);
    for (int64_t i = 0; i < runs.count(); ++i) {
      const Strip& strip = runs.strip(i);
      if (strip.plain) {
        gather_strip<T, kVectors, true>(a, runs, strip, row, start, y);
      } else {
        gather_strip<T, kVectors, false>(a, runs, strip, row, start, y);
      }
    }
  }
}

template <class T>
void gather_strips(const GatherArgs<T>& a, int64_t begin, int64_t end, T* scratch) {
  Runs<T> runs(a.view, a.pass, a.x, begin, end, scratch);
  for (; !runs.done(); runs.advance()) {
    with_vectors<T>(runs.strips.size, [&]<int kVectors>() { gather_run<T, kVectors>(a, runs); });
  }
}

// A row's gradients of a strip; what the strip before had, and what lies beyond the row, is zero.
template <class T, int kVectors>
[[gnu::always_inline]] inline void read_gradients(const T* grad, const Strip& strip,
                                                  typename Vec<T>::Type (&g)[kVectors]) {
  constexpr int kLanes = Vec<T>::kLanes;
  grad += strip.out;
  if (strip.before == 0 && strip.count == kVectors * kLanes) {
    for (int v = 0; v < kVectors; ++v) g[v] = load(grad + v * kLanes);
    return;
  }
  for (int v = 0; v < kVectors; ++v) {
    g[v] = load_some(grad + v * kLanes, strip.count - v * kLanes);
    for (int i = 0; i < kLanes; ++i) {
      if (v * kLanes + i < strip.before) g[v][i] = 0;
    }
  }
}

// Positions whose dot products are summed in vectors over the strips of a run.
constexpr int kSampled = 64;

// sums[i] += the products of a strip's gradients with what the position begin + i meets.
template <class T, int kVectors, bool kPlain>
[[gnu::always_inline]] inline void sample_strip(const SampleArgs<T>& a, const Runs<T>& runs,
                                                const Strip& strip, int64_t offset, int64_t begin,
                                                int64_t count, const T* grad,
                                                typename Vec<T>::Type* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  typename Vec<T>::Type g[kVectors];
  read_gradients<T, kVectors>(grad, strip, g);
  for (int64_t i = 0; i < count; ++i) {
    const TapPlace place = runs.scratch.table[a.view.index[begin + i]];
    runs.template with_operand<kVectors, kPlain>(strip, offset, place, [&](const T* p, auto mask) {
      typename Vec<T>::Type sum[2] = {};
      if (kPlain || mask == nullptr) {
        for (int v = 0; v < kVectors; ++v) sum[v & 1] += g[v] * load(p + v * kLanes);
      } else {
        for (int v = 0; v < kVectors; ++v) {
          sum[v & 1] += g[v] * masked<T>(load(p + v * kLanes), mask + v * kLanes);
        }
      }
      sums[i] += sum[0] + sum[1];
    });
  }
}

// Adds the sums over the lanes of `count` vectors, followed by zeros, to as many elements.
template <class T>
inline void add_lane_sums(const typename Vec<T>::Type* sums, int64_t count, T* to) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (; count > 0; count -= kLanes, sums += kLanes, to += kLanes) {
    const auto each = sum_each<T>(sums);
    if (count >= kLanes) {
      store(to, load(to) + each);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] += each[i];
    }
  }
}

template <class T, int kVectors>
__attribute__((noinline)) void sample_run(const SampleArgs<T>& a, const Runs<T>& runs) {
  const int64_t rows = runs.rows(), blocks = a.view.blocks();
  for (int64_t row = 0; row < rows; ++row) {
    const T* grad = a.grad + runs.out_offset(row);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t offset = runs.in_offset(b), end = runs.begin(b)[row + 1];
      for (int64_t k = runs.begin(b)[row]; k < end; k += kSampled) {
        const int64_t count = end - k < kSampled ? end - k : kSampled;
        typename Vec<T>::Type sums[kSampled];
        for (int64_t i = 0; i < ceil_div(count, Vec<T>::kLanes) * Vec<T>::kLanes; ++i) {
          sums[i] = typename Vec<T>::Type{};
        }
        for (int64_t i = 0; i < runs.count(); ++i) {
          const Strip& strip = runs.strip(i);
          if (strip.plain) {
            sample_strip<T, kVectors, true>(a, runs, strip, offset, k, count, grad, sums);
          } else {
            sample_strip<T, kVectors, false>(a, runs, strip, offset, k, count, grad, sums);
          }
        }
        add_lane_sums<T>(sums, count, a.grad_weights + k);
      }
    }
  }
}

template <class T>
void sample_strips(const SampleArgs<T>& a, int64_t begin, int64_t end, T* scratch) {
  Runs<T> runs(a.view, a.pass, a.x, begin, end, scratch);
  for (; !runs.done(); runs.advance()) {
    with_vectors<T>(runs.strips.size, [&]<int kVectors>() { sample_run<T, kVectors>(a, runs); });
  }
}

template <class T>
int64_t count_runs(const Pass& pass) {
  return Strips<T>(pass).items(pass);
}

}  // namespace
}  // namespace sparsefl
