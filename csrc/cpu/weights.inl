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

  T operator()(int64_t k) const {
    const int64_t p = kIndirect ? position[k] : k;
    if constexpr (kKind == WeightKind::kValues) {
      return values[p];
    } else {
      const T magnitude = kKind == WeightKind::kSignConstant ? constant : magnitudes[p];
      return values[p] >= 0 ? magnitude : -magnitude;
    }
  }
};

// Calls run(reader) with the reader that the weights and the view need.
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
  }
}

// to[k] = the weight of kept position k, for k in [begin, end).
template <class T>
void read_weights(const Weights<T>& w, const int32_t* position, int64_t begin, int64_t end, T* to) {
  with_reader<T>(w, position, [&](const auto& weight) {
    for (int64_t k = begin; k < end; ++k) to[k] = weight(k);
  });
}

}  // namespace
}  // namespace sparsefl
