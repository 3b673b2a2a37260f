// growth_collect and growth_take for torch's CPU backend: the largest gradients among pruned
// positions, of a weight gradient that comes tile by tile.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/arguments.h"
#include "cpu/growth.h"

namespace sparsefl {
namespace {

// The candidates between calls: `held` is int64 memory of the keys, `state` their number, whether
// they are bounded, and whether a NaN was met.
enum State : int64_t { kHeld, kBounded, kNan, kStates };

template <class T>
Candidates<T> candidates_of(const Tensor& held, const Tensor& state, int64_t count) {
  typedef typename Candidate<T>::Key Key;
  STD_TORCH_CHECK(held.is_contiguous() && state.numel() == kStates, "bad candidates");
  const int64_t capacity = held.numel() * int64_t{sizeof(int64_t)} / int64_t{sizeof(Key)};
  STD_TORCH_CHECK(count >= 1 && capacity > count, "too little memory for candidates");
  const int64_t* from = data<int64_t>(state);
  return {static_cast<Key*>(held.mutable_data_ptr()), capacity, count, from[kHeld],
          from[kBounded] != 0};
}

void growth_collect(const Tensor& tile, const Tensor& kept, int64_t first, int64_t step,
                    int64_t count, Tensor held, Tensor state) {
  const int64_t rows = tile.size(0), columns = tile.size(1);
  const int64_t last = first + (rows - 1) * step + columns;
  STD_TORCH_CHECK(rows == 0 || columns == 0 || (first >= 0 && last <= 8 * kept.numel()),
                  "a tile outside of its matrix");
  with_type(tile, [&]<class T>(T*) {
    STD_TORCH_CHECK(last <= kMostPositions<T>, "too many positions for a candidate");
    Candidates<T> candidates = candidates_of<T>(held, state, count);
    int64_t* to = mutable_data<int64_t>(state);
    if (!collect(Tile<T>{data<T>(tile), rows, columns, first, step}, data<uint8_t>(kept),
                 &candidates)) {
      to[kNan] = 1;
    }
    to[kHeld] = candidates.held;
    to[kBounded] = candidates.bounded ? 1 : 0;
  });
}

std::tuple<Tensor, Tensor> growth_take(Tensor held, Tensor state, const Tensor& like,
                                       int64_t count) {
  Tensor positions = empty_of(like, {count}, ScalarType::Long);
  Tensor elements = empty_of(like, {count});
  with_type(like, [&]<class T>(T*) {
    Candidates<T> candidates = candidates_of<T>(held, state, count);
    STD_TORCH_CHECK(candidates.held >= count, "fewer candidates than are wanted");
    take(&candidates, mutable_data<int64_t>(positions), mutable_data<T>(elements));
    mutable_data<int64_t>(state)[kHeld] = 0;
  });
  return {positions, elements};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("growth_collect", TORCH_BOX(&growth_collect));
  m.impl("growth_take", TORCH_BOX(&growth_take));
}

}  // namespace
}  // namespace sparsefl
