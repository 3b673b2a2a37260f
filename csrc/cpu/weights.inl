// Reads the weights of a view, one policy a kind, so that a sign layer never stores its weights.

namespace sparsefl {
namespace {

template <class T, WeightKind kKind, bool kIndirect>
struct Reader {
  const T* values;
  const T* magnitudes;
  T constant;
  const int32_t* position;

  Reader(const Weights<T>& w, const int32_t* position)
      : values(w.values), magnitudes(w.magnitudes), constant(w.constant), position(position) {}

  // Of kept position k; the view's index has no part in it.
  T operator()(int64_t k, uint16_t) const {
    const int64_t p = kIndirect ? position[k] : k;
    if constexpr (kKind == WeightKind::kValues) {
      return values[p];
    } else {
      const T magnitude = kKind == WeightKind::kSignConstant ? constant : magnitudes[p];
      return values[p] >= 0 ? magnitude : -magnitude;
    }
  }

  // The column within its block that an element of the view's index names.
  static int64_t column(uint16_t index) { return index; }
};

// Signs in the index: a weight costs no more than the two bytes that name its column.
template <class T>
struct CodeReader {
  T signed_constant[2];

  explicit CodeReader(const Weights<T>& w) : signed_constant{w.constant, -w.constant} {}

  T operator()(int64_t, uint16_t code) const { return signed_constant[code >> 15]; }
  static int64_t column(uint16_t code) { return code & kCodedColumn; }
};

// Calls run(reader) with the reader that the weights and the view need; signs in the index have
// one of their own.
template <class T, class Run>
inline void with_reader(const Weights<T>& w, const int32_t* position, Run run) {
  switch (w.kind) {
    case WeightKind::kValues:
      if (position == nullptr) return run(Reader<T, WeightKind::kValues, false>(w, position));
      return run(Reader<T, WeightKind::kValues, true>(w, position));
    case WeightKind::kSignConstant:
      if (position == nullptr) return run(Reader<T, WeightKind::kSignConstant, false>(w, position));
      return run(Reader<T, WeightKind::kSignConstant, true>(w, position));
    case WeightKind::kSignTensor:
      if (position == nullptr) return run(Reader<T, WeightKind::kSignTensor, false>(w, position));
      return run(Reader<T, WeightKind::kSignTensor, true>(w, position));
    case WeightKind::kSignCoded:
      return;
  }
}

// The same for the linear kernels, which read signs in the index too.
template <class T, class Run>
inline void with_linear_reader(const Weights<T>& w, const int32_t* position, Run run) {
  if (w.kind == WeightKind::kSignCoded) return run(CodeReader<T>(w));
  with_reader<T>(w, position, run);
}

// The same where the weights are stored in the view's order.
template <class T, class Run>
inline void with_stored_reader(const Weights<T>& w, Run run) {
  switch (w.kind) {
    case WeightKind::kValues:
      return run(Reader<T, WeightKind::kValues, false>(w, nullptr));
    case WeightKind::kSignConstant:
      return run(Reader<T, WeightKind::kSignConstant, false>(w, nullptr));
    case WeightKind::kSignTensor:
      return run(Reader<T, WeightKind::kSignTensor, false>(w, nullptr));
    case WeightKind::kSignCoded:
      return run(CodeReader<T>(w));
  }
}

// to[k] = the weight of kept position k, for k in [begin, end); not for signs in the index.
template <class T>
void read_weights(const Weights<T>& w, const int32_t* position, int64_t begin, int64_t end, T* to) {
  if (w.kind == WeightKind::kSignConstant && position != nullptr) {
    // Scores are moved first: with a comparison among the loads no loop would be one of vectors.
    constexpr int64_t kStretch = 1024;
    const T constant = w.constant;
    for (int64_t first = begin; first < end; first += kStretch) {
      const int64_t last = first + kStretch < end ? first + kStretch : end;
      for (int64_t k = first; k < last; ++k) to[k] = w.values[position[k]];
      for (int64_t k = first; k < last; ++k) to[k] = to[k] >= 0 ? constant : -constant;
    }
    return;
  }
  with_reader<T>(w, position, [&](const auto& weight) {
    for (int64_t k = begin; k < end; ++k) to[k] = weight(k, 0);
  });
}

}  // namespace
}  // namespace sparsefl
