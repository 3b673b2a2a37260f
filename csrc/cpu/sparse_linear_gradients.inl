// The gradients in one walk, part of sparse_linear.inl: with two multiplications a load it is the
// multipliers that decide, where each product alone waits for the caches.

namespace sparsefl {
namespace {

// Lanes of a tile: a row of x and one of its gradient stay in registers.
template <class T>
constexpr int kGradientVectors = Vec<T>::kLanes >= 16 ? 8 : 4;

// Above this a tile's rows of grad would leave the L2 cache at the widest tile.
constexpr int64_t kWidestColumns = 1024;

// Products that wait to be summed over their lanes: enough for most rows of a block.
template <class T>
constexpr int kWaiting = 4 * Vec<T>::kLanes;

template <class T>
int gradient_vectors(const GradientsArgs<T>& a, int64_t lane) {
  const int64_t left = (a.batch - lane + Vec<T>::kLanes - 1) / Vec<T>::kLanes;
  const int64_t columns = a.view.block < a.view.columns ? a.view.block : a.view.columns;
  if (left >= kGradientVectors<T> && columns <= kWidestColumns) return kGradientVectors<T>;
  return static_cast<int>(left < 4 ? left : 4);
}

template <class T>
int64_t gradients_scratch(const GradientsArgs<T>& a) {
  if (a.ldg * int64_t{sizeof(T)} < kPageBytes) return 0;
  const int64_t columns = a.view.block < a.view.columns ? a.view.block : a.view.columns;
  return columns * gradient_vectors(a, 0) * Vec<T>::kLanes;
}

// Sums the products of positions [begin, end) over their lanes, that of position k waiting at
// k % kWaiting; at most kLanes of them, all in one aligned group of kLanes. `first`: of what
// is added up.
template <class T>
inline void write_group(const Weights<T>& w, const typename Vec<T>::Type* waiting, int64_t begin,
                        int64_t end, bool first, T* grad_values) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t group = begin / kLanes * kLanes;
  auto sums = sum_each<T>(waiting + group % kWaiting<T>);
  if (w.one_magnitude()) sums *= broadcast<T>(w.constant);
  if (end - begin == kLanes) {
    T* out = grad_values + group;
    if (w.kind == WeightKind::kSignTensor) sums *= load(w.magnitudes + group);
    store(out, first ? sums : load(out) + sums);
    return;
  }
  alignas(SPARSEFL_VECTOR_BYTES) T each[kLanes];
  store(each, sums);
  for (int64_t k = begin; k < end; ++k) {
    T sum = each[k - group];
    if (w.kind == WeightKind::kSignTensor) sum *= w.magnitudes[k];
    grad_values[k] = first ? sum : grad_values[k] + sum;
  }
}

// For k in [begin, end): sums += weight of k * its row of grad if kInput, and the product of that
// row and x waits at k % kWaiting.
template <class T, int kVectors, bool kInput, class R>
inline void meet(const R& weight, const uint16_t* index, int64_t begin, int64_t end, const T* grad,
                 int64_t ldg, const typename Vec<T>::Type* x, typename Vec<T>::Type* sums,
                 typename Vec<T>::Type* waiting) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t k = begin; k < end; ++k) {
    typename Vec<T>::Type w;
    if constexpr (kInput) w = broadcast<T>(weight(k, index[k]));
    const T* row = grad + weight.column(index[k]) * ldg;
    auto g = load(row);
    if constexpr (kInput) {
      keep(g);
      sums[0] += w * g;
    }
    auto product = x[0] * g;
#pragma GCC unroll 8
    for (int v = 1; v < kVectors; ++v) {
      g = load(row + v * kLanes);
      if constexpr (kInput) {
        keep(g);
        sums[v] += w * g;
      }
      product += x[v] * g;
    }
    waiting[static_cast<uint64_t>(k) % kWaiting<T>] = product;
  }
}

template <class T, int kVectors, bool kInput, class R>
[[gnu::noinline]] void gradients_tile(const GradientsArgs<T>& a, const R weight, const Part& part,
                                      int64_t lane, T* scratch) {
  constexpr int kLanes = Vec<T>::kLanes;
  const View view = a.view;
  const Weights<T> weights = a.weights;
  const int64_t lanes = a.batch - lane;
  const bool first = lane == 0 && !a.adds;
  typename Vec<T>::Type waiting[kWaiting<T>] = {};
  for (int64_t b = 0; b < view.blocks(); ++b) {
    const int32_t* begin = view.begin + b * view.rows;
    const T* grad = a.grad + b * view.block * a.ldg + lane;
    int64_t ldg = a.ldg;
    if (gradients_scratch(a) > 0) {
      const int64_t left = view.columns - b * view.block;
      copy_block<T, kVectors>(grad, ldg, left < view.block ? left : view.block, scratch);
      grad = scratch;
      ldg = kVectors * kLanes;
    }
    int64_t k = begin[part.row_begin], done = k;
    for (int64_t row = part.row_begin; row < part.row_end; ++row) {
      T* out = a.grad_x + (kInput ? row * a.ld_grad_x + lane : 0);
      typename Vec<T>::Type x[kVectors], sums[kVectors] = {};
      for (int v = 0; v < kVectors; ++v) x[v] = load(a.x + row * a.ldx + lane + v * kLanes);
      const int64_t end = begin[row + 1];
      while (k < end) {
        const int64_t room = done / kLanes * kLanes + kWaiting<T>, stop = end < room ? end : room;
        meet<T, kVectors, kInput>(weight, view.index, k, stop, grad, ldg, x, sums, waiting);
        for (k = stop; done / kLanes < k / kLanes;) {
          const int64_t next = (done / kLanes + 1) * kLanes;
          write_group<T>(weights, waiting, done, next, first, a.grad_values);
          done = next;
        }
      }
      if (kInput && b > 0) {
        typename Vec<T>::Type before[kVectors] = {};
        load_row<T, kVectors>(out, before, lanes);
        for (int v = 0; v < kVectors; ++v) sums[v] += before[v];
      }
      if (kInput) store_row<T, kVectors>(out, sums, lanes);
    }
    if (done < k) write_group<T>(weights, waiting, done, k, first, a.grad_values);
  }
}

// Calls run with the widths that gradient_vectors gives as constants.
template <class T, class Run>
inline void with_gradient_vectors(int vectors, Run run) {
  if constexpr (kGradientVectors<T> > 4) {
    if (vectors == kGradientVectors<T>) return run(Lanes<kGradientVectors<T>>{});
  }
  with_vectors<4>(vectors, run);
}

template <class T, bool kInput, class R>
void gradients_tiles(const GradientsArgs<T>& a, const R& weight, const Part& part, T* scratch) {
  for (int64_t lane = 0; lane < a.batch;) {
    with_gradient_vectors<T>(gradient_vectors(a, lane), [&]<int kVectors>(Lanes<kVectors>) {
      gradients_tile<T, kVectors, kInput>(a, weight, part, lane, scratch);
      lane += kVectors * Vec<T>::kLanes;
    });
  }
}

template <class T>
void gradients(const GradientsArgs<T>& a, const Part& part, T* scratch) {
  if (a.grad_x == nullptr && a.ldg != 1) {
    // No weight is read, but for the column that is in one element with its sign.
    if (a.weights.kind == WeightKind::kSignCoded) {
      return gradients_tiles<T, false>(a, CodeReader<T>(a.weights), part, scratch);
    }
    const Reader<T, WeightKind::kValues, false> none(a.weights, nullptr);
    return gradients_tiles<T, false>(a, none, part, scratch);
  }
  with_stored_reader<T>(a.weights, [&](const auto& weight) {
    if (a.ldg == 1) return vector_gradients(a, weight, part);
    gradients_tiles<T, true>(a, weight, part, scratch);
  });
}

// In lanes, and in double between stretches of them, so that a long batch loses no precision.
template <class T>
void row_sums(const T* x, int64_t ld, int64_t batch, int64_t begin, int64_t end, T* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  constexpr int64_t kStretch = 64 * kLanes;
  if (batch == 1) {
    for (int64_t row = begin; row < end; ++row) sums[row] = x[row * ld];
    return;
  }
  for (int64_t row = begin; row < end; row += kLanes) {
    const int rows = static_cast<int>(end - row < kLanes ? end - row : kLanes);
    double totals[kLanes] = {};
    for (int64_t n = 0; n < batch; n += kStretch) {
      const int64_t stop = batch - n < kStretch ? batch : n + kStretch;
      typename Vec<T>::Type lanes[kLanes] = {};
      for (int r = 0; r < rows; ++r) {
        auto total = load(x + (row + r) * ld + n);
        for (int64_t i = n + kLanes; i < stop; i += kLanes) total += load(x + (row + r) * ld + i);
        lanes[r] = total;
      }
      const auto each = sum_each<T>(lanes);
      for (int r = 0; r < kLanes; ++r) totals[r] += each[r];
    }
    for (int r = 0; r < rows; ++r) sums[row + r] = static_cast<T>(totals[r]);
  }
}

}  // namespace
}  // namespace sparsefl
