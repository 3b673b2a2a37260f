// Operands and results [batch, features] of the linear operators, and how a call is shared out.
// Every part turns what it reads and writes by itself, in its own caches: what another core has
// just written costs some 50 ns a line (1024 features, batch 64 to 256), more than all that is done
// with it at low density.
#pragma once

#include <algorithm>

#include "bindings/arguments.h"
#include "bindings/operand.h"
#include "bindings/parallel.h"
#include "cpu/sparse_linear.h"

namespace sparsefl {

// What reading a kept position and its weight costs, in samples that it is multiplied with.
constexpr int64_t kSamplesAPosition = 16;

// Samples of a group that make reading the positions cheap beside multiplying with them.
constexpr int64_t kFullSamples = 64;

// What turning an element costs, in flops.
constexpr int64_t kFlopsAMove = 8;

inline int64_t position_flops(int64_t batch) { return 2 * (padded(batch) + kSamplesAPosition); }

// The samples of a panel from `first` on.
template <class T>
Panel<T> samples_from(const Panel<T>& panel, int64_t first) {
  return {panel.data + (panel.row_major ? first * panel.ld : first), panel.ld, panel.row_major};
}

// One sample is a plain vector.
template <class T>
Panel<T> panel_of(T* data, int64_t batch, int64_t features, bool row_major) {
  if (batch == 1) return {data, 1, false};
  return {data, row_major ? features : batch, row_major};
}

class LinearOperand {
 public:
  explicit LinearOperand(const Tensor& x)
      : batch_(x.size(0)),
        features_(features_of(x)),
        row_major_(!lies_batch_last(x)),
        source_(!row_major_ || x.is_contiguous() ? x : torch::stable::contiguous(x)) {}

  int64_t batch() const { return batch_; }
  int64_t features() const { return features_; }
  // Features that are turned.
  int64_t turned() const { return row_major_ && batch_ != 1 ? features_ : 0; }

  template <class T>
  Panel<const T> panel() const {
    return panel_of(static_cast<const T*>(source_.const_data_ptr()), batch_, features_, row_major_);
  }

 private:
  int64_t batch_, features_;
  bool row_major_;
  Tensor source_;
};

class LinearResult {
 public:
  LinearResult(const Tensor& like, int64_t batch, int64_t features, bool row_major)
      : batch_(batch),
        features_(features),
        row_major_(row_major),
        result_(row_major ? empty_of(like, {batch, features})
                          : empty_batch_last(like, {batch, features})) {}

  const Tensor& tensor() const { return result_; }
  int64_t turned() const { return row_major_ && batch_ != 1 ? features_ : 0; }

  template <class T>
  Panel<T> panel() const {
    return panel_of(mutable_data<T>(result_), batch_, features_, row_major_);
  }

 private:
  int64_t batch_, features_;
  bool row_major_;
  Tensor result_;
};

// How a call is shared out: into groups of samples, and each into ranges of rows. A part turns the
// samples of its group, and reads the positions of its rows.
struct Sharing {
  int64_t groups, ranges;
  int64_t batch;

  // turns: whether anything lies row-major, so that ranges would all turn the same samples.
  static Sharing of_product(int64_t parts, int64_t batch, int64_t nnz, const View& view,
                            bool turns) {
    const bool few = turns && 2 * nnz <= batch * (view.columns + view.rows);
    const int64_t least = few ? kFullSamples / 2 : kFullSamples;
    int64_t groups = parts;
    while (parts % groups != 0 || (groups > 1 && padded(batch) < groups * least)) --groups;
    return {groups, parts / groups, batch};
  }

  // Every group but the first sums the stored elements' gradient into memory of its own: at most a
  // fifth of what the operands take. More than that did not pay either.
  static Sharing of_gradients(int64_t parts, int64_t batch, int64_t nnz, const View& view) {
    const int64_t most = batch * (view.columns + view.rows) / std::max<int64_t>(5 * nnz, 1) + 1;
    int64_t groups = std::min(parts, most);
    while (parts % groups != 0 || (groups > 1 && padded(batch) < groups * kFullSamples)) --groups;
    return {groups, parts / groups, batch};
  }

  int64_t parts() const { return groups * ranges; }
  int64_t group(int64_t part) const { return part / ranges; }
  int64_t range(int64_t part) const { return part % ranges; }

  // The first sample of a group, a multiple of kLanePadding.
  int64_t first(int64_t group) const {
    const int64_t lanes = padded(batch) / kLanePadding;
    return std::min(batch, lanes * group / groups * kLanePadding);
  }
  int64_t samples(int64_t group) const { return first(group + 1) - first(group); }
};

}  // namespace sparsefl
