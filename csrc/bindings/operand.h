// Sample-major operands of the linear operators, brought into the memory that the kernels read.
#pragma once

#include <algorithm>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "cpu/batch_last.h"
#include "cpu/sparse_linear.h"

namespace sparsefl {

// What moving an element costs, in flops: it waits for memory where a kernel reads its cache.
constexpr int64_t kFlopsACopy = 32;

// The stretch [begin, end) of `columns` that a part moves; stretches start at whole cache lines.
struct Stretch {
  int64_t begin, end;

  Stretch(int64_t columns, int64_t part, int64_t parts) {
    const int64_t step = (columns + 16 * parts - 1) / (16 * parts) * 16;
    begin = std::min(columns, part * step);
    end = std::min(columns, begin + step);
  }
};

// An operand [batch, features], row-major or batch-last, as the kernels read it: feature-major, its
// rows readable up to the next multiple of kLanePadding samples. What does not lie so is moved by
// read_part, which every part has to run before a kernel reads.
class Operand {
 public:
  explicit Operand(const Tensor& x)
      : batch_(x.size(0)),
        features_(x.size(1)),
        ld_((batch_ + kLanePadding - 1) / kLanePadding * kLanePadding),
        batch_last_(x.stride(0) == 1 && (features_ <= 1 || x.stride(1) == batch_)),
        source_(batch_last_ ? x : torch::stable::contiguous(x)),
        tensor_(moves() ? empty_of(x, {features_, ld_}) : x) {}

  int64_t batch() const { return batch_; }
  int64_t features() const { return features_; }
  int64_t ld() const { return ld_; }
  const Tensor& tensor() const { return tensor_; }
  int64_t flops() const { return moves() ? kFlopsACopy * batch_ * features_ : 0; }

  template <class T>
  const T* data() const {
    return static_cast<const T*>(tensor_.const_data_ptr());
  }

  template <class T>
  void read_part(int64_t part, int64_t parts) const {
    if (!moves()) return;
    const Stretch features(features_, part, parts);
    const T* from = static_cast<const T*>(source_.const_data_ptr());
    T* to = mutable_data<T>(tensor_);
    if (!batch_last_) {
      batch_last_kernels<T>().transpose(from, features_, to, ld_, batch_, features.begin,
                                        features.end);
    }
    for (int64_t f = features.begin; f < features.end; ++f) {
      if (batch_last_) std::copy_n(from + f * batch_, batch_, to + f * ld_);
      std::fill(to + f * ld_ + batch_, to + (f + 1) * ld_, T{0});
    }
  }

 private:
  bool moves() const { return !batch_last_ || ld_ != batch_; }

  int64_t batch_, features_, ld_;
  bool batch_last_;
  Tensor source_, tensor_;
};

}  // namespace sparsefl
