#include "cpu/plan.h"

namespace sparsefl {
namespace {

struct Place {
  int64_t bucket;  // (phase, block, row)
  int64_t column;  // within the block
};

int64_t block_count(int64_t columns, int64_t block) {
  return columns == 0 ? 1 : (columns + block - 1) / block;
}

// Sorts stably by bucket and calls put(k, rank, column) for the rank-th position, which lands at k.
template <class PlaceOf, class Put>
void counting_sort(int64_t nnz, int64_t buckets, int32_t* begin, PlaceOf place_of, Put put) {
  for (int64_t b = 0; b <= buckets; ++b) begin[b] = 0;
  for (int64_t rank = 0; rank < nnz; ++rank) ++begin[place_of(rank).bucket + 1];
  for (int64_t b = 0; b < buckets; ++b) begin[b + 1] += begin[b];
  std::vector<int32_t> next(begin, begin + buckets);
  for (int64_t rank = 0; rank < nnz; ++rank) {
    const Place place = place_of(rank);
    put(next[place.bucket]++, rank, place.column);
  }
}

// Running cost of the rows: a kept position costs one, and so does meeting a block.
void running_work(const int32_t* begin, int64_t segments, int64_t rows, int64_t* work) {
  work[0] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    int64_t cost = segments;
    for (int64_t s = 0; s < segments; ++s) {
      cost += begin[s * rows + row + 1] - begin[s * rows + row];
    }
    work[row + 1] = work[row] + cost;
  }
}

}  // namespace

void build_forward_view(const int64_t* indices, int64_t nnz, int64_t rows, int64_t columns,
                        int64_t block, int32_t* begin, int16_t* index, int64_t* order,
                        int64_t* work) {
  const int64_t blocks = block_count(columns, block);
  counting_sort(
      nnz, blocks * rows, begin,
      [&](int64_t rank) {
        const int64_t row = indices[rank] / columns, column = indices[rank] % columns;
        return Place{column / block * rows + row, column % block};
      },
      [&](int64_t k, int64_t rank, int64_t column) {
        index[k] = static_cast<int16_t>(column);
        order[k] = rank;
      });
  running_work(begin, blocks, rows, work);
}

void build_transposed_view(const int64_t* indices, const int64_t* order, int64_t nnz,
                           const Transposed& shape, int32_t* begin, int16_t* index,
                           int32_t* position, int64_t* work) {
  std::vector<int32_t> stored(nnz);
  for (int64_t k = 0; k < nnz; ++k) stored[order[k]] = static_cast<int32_t>(k);
  const int64_t taps = shape.taps(), group_out = shape.out / shape.groups;
  const int64_t blocks = block_count(shape.columns(), shape.block);
  counting_sort(
      nnz, shape.phases * blocks * shape.rows(), begin,
      [&](int64_t rank) {
        const int64_t tap = indices[rank] % taps, channel = indices[rank] / taps;
        const int64_t out = channel / shape.in, in = channel % shape.in;
        const int64_t row = out / group_out * shape.in + in;
        const int64_t column = out % group_out * taps + tap;
        const int64_t segment = shape.tap_phase[tap] * blocks + column / shape.block;
        return Place{segment * shape.rows() + row, column % shape.block};
      },
      [&](int64_t k, int64_t rank, int64_t column) {
        index[k] = static_cast<int16_t>(column);
        position[k] = stored[rank];
      });
  running_work(begin, shape.phases * blocks, shape.rows(), work);
}

Axis forward_axis(const Extent& e, std::vector<int32_t>& taps) {
  taps.resize(e.kernel);
  for (int64_t t = 0; t < e.kernel; ++t) taps[t] = static_cast<int32_t>(t * e.dilation - e.before);
  return {e.input, e.output, e.output, 0, 1, e.stride, taps.data(), e.kernel};
}

Axis joint_axis(const Extent& e, std::vector<int32_t>& taps, std::vector<int32_t>& phase) {
  taps.resize(e.kernel), phase.resize(e.kernel);
  for (int64_t t = 0; t < e.kernel; ++t) {
    const int64_t from = t * e.dilation - e.before;
    const int64_t residue = (from % e.stride + e.stride) % e.stride;
    phase[t] = static_cast<int32_t>(residue);
    taps[t] = static_cast<int32_t>((residue - from) / e.stride);
  }
  const int64_t grid = (e.input + e.stride - 1) / e.stride;
  return {e.output, e.input, grid, 0, e.stride, 1, taps.data(), e.kernel};
}

Axis transposed_axis(const Extent& e, int64_t residue, std::vector<int32_t>& taps) {
  taps.assign(e.kernel, Axis::kNoTap);
  for (int64_t t = 0; t < e.kernel; ++t) {
    const int64_t distance = residue + e.before - t * e.dilation;
    if (distance % e.stride == 0) taps[t] = static_cast<int32_t>(distance / e.stride);
  }
  const int64_t grid = residue < e.input ? (e.input - residue + e.stride - 1) / e.stride : 0;
  return {e.output, e.input, grid, residue, e.stride, 1, taps.data(), e.kernel};
}

}  // namespace sparsefl
