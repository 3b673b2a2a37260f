// The gradients in one walk, part of sparse_linear.inl: with two multiplications a load it is the
// multipliers that decide, where each product alone waits for the caches.

namespace sparsefl {
namespace {

// Lanes of a tile: a row of x and one of its gradient stay in registers.
template <class T>
constexpr int kGradientVectors = Vec<T>::kLanes >= 16 ? 8 : 4;

// Products that wait to be summed over their lanes: enough for most rows of a block.
template <class T>
constexpr int kWaiting = 4 * Vec<T>::kLanes;

// Whether the products of a tile of kVectors vectors are summed in its loop. One vector leaves the
// registers that this takes, and its sums are most of the work.
template <class T, int kVectors>
constexpr bool kSumsInLoop = kVectors == 1 && Vec<T>::kLanes == 16;

template <class T>
int gradient_vectors(const GradientsArgs<T>& a, const Part& part, int64_t lane) {
  const int64_t left = (a.batch - lane + Vec<T>::kLanes - 1) / Vec<T>::kLanes;
  if (left >= kGradientVectors<T> && columns_of_block(a.view) <= kWidestColumns) {
    return kGradientVectors<T>;
  }
  const int64_t turned = (a.x.row_major ? 1 : 0) + (a.grad_x.row_major ? 1 : 0);
  const bool large = is_large<T>(a.view, turned * (part.row_end - part.row_begin));
  return static_cast<int>(least(left, large ? 2 : 4));
}

template <class T>
bool copies_blocks(const GradientsArgs<T>& a) {
  return a.grad.ld * int64_t{sizeof(T)} >= kPageBytes;
}

// Rows of x, and of its gradient, that lie in buffers: all where blocks follow, or as many as are
// turned together.
template <class T>
int64_t buffered_rows(const GradientsArgs<T>& a, const Part& part) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  return a.view.blocks() > 1 ? whole_vectors(part.row_end - part.row_begin, kLanes) : kTurned<T>;
}

template <class T>
int64_t gradients_scratch(const GradientsArgs<T>& a, const Part& part) {
  const bool tail = a.batch % Vec<T>::kLanes != 0, input = a.grad_x.data != nullptr;
  int64_t rows = 0;
  if (a.grad.row_major || tail || copies_blocks(a)) rows += columns_of_block(a.view);
  if (a.x.row_major || tail) rows += buffered_rows(a, part);
  if (input && a.grad_x.row_major) rows += buffered_rows(a, part);
  return rows * gradient_vectors(a, part, 0) * Vec<T>::kLanes;
}

// Sums the products of positions [begin, end) over their lanes, that of position k waiting at
// k % kWaiting; at most kLanes of them, all in one aligned group of kLanes. `first`: of what
// is added up.
template <class T, bool kInLoop = false>
inline void write_group(const Weights<T>& w, const typename Vec<T>::Type* waiting, int64_t begin,
                        int64_t end, bool first, T* grad_values) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t group = begin / kLanes * kLanes;
  typename Vec<T>::Type sums;
  if constexpr (kInLoop) {
    sums = sum_tree<kLanes>(waiting + group % kWaiting<T>, typename FirstLanes<kLanes>::Type{});
  } else {
    sums = sum_each<T>(waiting + group % kWaiting<T>);
  }
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

// Writes the whole groups of kLanes positions that wait in [done, k) and returns where they end.
template <class T, bool kInLoop>
[[gnu::always_inline]] inline int64_t write_whole_groups(const Weights<T>& w,
                                                         const typename Vec<T>::Type* waiting,
                                                         int64_t done, int64_t k, bool first,
                                                         T* grad_values) {
  constexpr int kLanes = Vec<T>::kLanes;
  while (done / kLanes < k / kLanes) {
    const int64_t next = (done / kLanes + 1) * kLanes;
    write_group<T, kInLoop>(w, waiting, done, next, first, grad_values);
    done = next;
  }
  return done;
}

// Not inlined: the registers of a sum tree would push the products' sums into memory.
template <class T>
[[gnu::noinline]] int64_t write_groups(const Weights<T>& w, const typename Vec<T>::Type* waiting,
                                       int64_t done, int64_t k, bool first, T* grad_values) {
  return write_whole_groups<T, false>(w, waiting, done, k, first, grad_values);
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

// Rows [begin, end) of one block; x and `out` are their rows of x and of its gradient, one `ld_x`
// and one `ld_out` after the other, the latter `lanes` long.
template <class T>
struct Group {
  const T *grad, *x;
  int64_t ldg, ld_x;
  T* out;
  int64_t ld_out, lanes;
  bool adds;
};

// Where a block's walk has come to: position k, those from `done` on wait.
template <class T>
struct Walk {
  typename Vec<T>::Type* waiting;
  int64_t k, done;
  bool first;
};

// A function of its own: in a larger one the loop's addresses do not stay in registers.
template <class T, int kVectors, bool kInput, class R>
[[gnu::noinline]] void meet_rows(const GradientsArgs<T>& a, const R weight, const Group<T>& given,
                                 const int32_t* ends, int64_t count, Walk<T>& walk) {
  constexpr int kLanes = Vec<T>::kLanes;
  const Group<T> group = given;
  const uint16_t* index = a.view.index;
  const Weights<T> weights = a.weights;
  typename Vec<T>::Type* const waiting = walk.waiting;
  const bool first = walk.first;
  int64_t k = walk.k, done = walk.done;
  for (int64_t r = 0; r < count; ++r) {
    if (!kSumsInLoop<T, kVectors> && ends[r] - done / kLanes * kLanes > kWaiting<T>) {
      done = write_groups<T>(weights, waiting, done, k, first, a.grad_values);
    }
    typename Vec<T>::Type x[kVectors], sums[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = typename Vec<T>::Type{};
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load(group.x + r * group.ld_x + v * kLanes);
    const int64_t end = ends[r];
    if constexpr (kSumsInLoop<T, kVectors>) {
      while (k < end) {
        const int64_t stop = least(end, done / kLanes * kLanes + kWaiting<T>);
        meet<T, kVectors, kInput>(weight, index, k, stop, group.grad, group.ldg, x, sums, waiting);
        k = stop;
        done = write_whole_groups<T, true>(weights, waiting, done, k, first, a.grad_values);
      }
    } else {
      int64_t room = done / kLanes * kLanes + kWaiting<T>;
      for (; room < end; room = done + kWaiting<T>) {
        meet<T, kVectors, kInput>(weight, index, k, room, group.grad, group.ldg, x, sums, waiting);
        k = room;
        done = write_groups<T>(weights, waiting, done, k, first, a.grad_values);
      }
      meet<T, kVectors, kInput>(weight, index, k, end, group.grad, group.ldg, x, sums, waiting);
    }
    k = end;
    if constexpr (kInput) {
      T* out = group.out + r * group.ld_out;
      if (group.adds) {
        typename Vec<T>::Type before[kVectors] = {};
        load_row<T, kVectors>(out, before, group.lanes);
        for (int v = 0; v < kVectors; ++v) sums[v] += before[v];
      }
      store_row<T, kVectors>(out, sums, group.lanes);
    }
  }
  walk.k = k, walk.done = done;
}

template <class T, int kVectors, bool kInput, class R>
[[gnu::noinline]] void gradients_tile(const GradientsArgs<T>& a, const R weight, const Part& part,
                                      int64_t lane, T* scratch) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kWidth = kVectors * kLanes;
  const View view = a.view;
  const int64_t left = a.batch - lane, lanes = left < kWidth ? left : kWidth;
  const int64_t blocks = view.blocks();
  const bool x_lies = reads_in_place<T, kVectors>(a.x, lanes), turns = a.grad_x.row_major;
  const bool grad_lies = reads_in_place<T, kVectors>(a.grad, lanes) && !copies_blocks(a);
  T* const x_rows = scratch + (grad_lies ? 0 : columns_of_block(view) * kWidth);
  T* const sums = x_rows + (x_lies ? 0 : buffered_rows(a, part) * kWidth);
  typename Vec<T>::Type waiting[kWaiting<T>] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const int32_t* begin = view.begin + b * view.rows;
    Group<T> at;
    at.grad = a.grad.data + b * view.block * a.grad.ld + lane, at.ldg = a.grad.ld;
    if (!grad_lies) {
      const int64_t columns = view.columns - b * view.block;
      read_features<T, kVectors>(a.grad, view.columns, a.batch, b * view.block,
                                 columns < view.block ? columns : view.block, lane, lanes, scratch);
      at.grad = scratch, at.ldg = kWidth;
    }
    at.ld_x = x_lies ? a.x.ld : kWidth;
    at.ld_out = turns ? kWidth : a.grad_x.ld, at.lanes = turns ? kWidth : lanes, at.adds = b > 0;
    Walk<T> walk{waiting, begin[part.row_begin], begin[part.row_begin], lane == 0};
    for (int64_t row = part.row_begin; row < part.row_end; row += kTurned<T>) {
      const int64_t count = least(part.row_end - row, kTurned<T>);
      const int64_t buffered = blocks > 1 ? (row - part.row_begin) * kWidth : 0;
      at.x = x_lies ? a.x.data + row * a.x.ld + lane : x_rows + buffered;
      if (!x_lies && b == 0) {
        read_features<T, kVectors>(a.x, view.rows, a.batch, row, count, lane, lanes,
                                   x_rows + buffered);
      }
      if (kInput) at.out = turns ? sums + buffered : a.grad_x.data + row * a.grad_x.ld + lane;
      meet_rows<T, kVectors, kInput>(a, weight, at, begin + row + 1, count, walk);
      if (kInput && turns && b + 1 == blocks) {
        write_features<T, kVectors>(at.out, a.grad_x, row, count, lane, lanes);
      }
    }
    walk.done = write_groups<T>(a.weights, waiting, walk.done, walk.k, walk.first, a.grad_values);
    if (walk.done < walk.k) {
      write_group<T>(a.weights, waiting, walk.done, walk.k, walk.first, a.grad_values);
    }
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
    with_gradient_vectors<T>(gradient_vectors(a, part, lane), [&]<int kVectors>(Lanes<kVectors>) {
      gradients_tile<T, kVectors, kInput>(a, weight, part, lane, scratch);
      lane += kVectors * Vec<T>::kLanes;
    });
  }
}

template <class T>
void gradients(const GradientsArgs<T>& a, const Part& part, T* scratch) {
  if (a.grad_x.data == nullptr && !a.grad.is_vector()) {
    // No weight is read, but for the column that is in one element with its sign.
    if (a.weights.kind == WeightKind::kSignCoded) {
      return gradients_tiles<T, false>(a, CodeReader<T>(a.weights), part, scratch);
    }
    const Reader<T, WeightKind::kValues, false> none(a.weights, nullptr);
    return gradients_tiles<T, false>(a, none, part, scratch);
  }
  with_stored_reader<T>(a.weights, [&](const auto& weight) {
    if (a.grad.is_vector()) return vector_gradients(a, weight, part);
    gradients_tiles<T, true>(a, weight, part, scratch);
  });
}

// Samples that a lane adds up before the sum goes on in double, so that a long batch loses no
// precision.
constexpr int64_t kSumStretch = 64;

template <class T>
void row_major_sums(const Panel<const T>& x, int64_t batch, int64_t begin, int64_t end,
                    double* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int64_t f = begin; f < end; f += kLanes) {
    const int64_t features = end - f < kLanes ? end - f : kLanes;
    for (int64_t i = 0; i < features; ++i) sums[f + i] = 0;
    for (int64_t n = 0; n < batch;) {
      const int64_t stop = batch - n < kSumStretch ? batch : n + kSumStretch;
      typename Vec<T>::Type total = {};
      for (; n < stop; ++n) {
        const T* from = x.data + n * x.ld + f;
        total += features == kLanes ? load(from) : load_some(from, features);
      }
      for (int64_t i = 0; i < features; ++i) sums[f + i] += total[i];
    }
  }
}

// In lanes, and in double between stretches of them.
template <class T>
void feature_sums(const Panel<const T>& x, int64_t batch, int64_t begin, int64_t end,
                  double* sums) {
  constexpr int kLanes = Vec<T>::kLanes;
  constexpr int64_t kStretch = kSumStretch * kLanes;
  if (x.row_major) return row_major_sums(x, batch, begin, end, sums);
  if (x.is_vector()) {
    for (int64_t f = begin; f < end; ++f) sums[f] = x.data[f];
    return;
  }
  const T* stop = x.data + (end - 1) * x.ld + batch;
  for (int64_t row = begin; row < end; row += kLanes) {
    const int rows = static_cast<int>(end - row < kLanes ? end - row : kLanes);
    double totals[kLanes] = {};
    for (int64_t n = 0; n < batch; n += kStretch) {
      const int64_t samples = batch - n < kStretch ? batch - n : kStretch;
      typename Vec<T>::Type lanes[kLanes] = {};
      for (int r = 0; r < rows; ++r) {
        const T* from = x.data + (row + r) * x.ld + n;
        typename Vec<T>::Type total = {};
        int64_t i = 0;
        for (; i + kLanes <= samples; i += kLanes) total += load(from + i);
        if (i < samples) total += load_within(from + i, samples - i, stop);
        lanes[r] = total;
      }
      const auto each = sum_each<T>(lanes);
      for (int r = 0; r < rows; ++r) totals[r] += each[r];
    }
    for (int r = 0; r < rows; ++r) sums[row + r] = totals[r];
  }
}

}  // namespace
}  // namespace sparsefl
