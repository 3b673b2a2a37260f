// Operands [batch, ...] of the operators, brought into the memory that the kernels read.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/batch_last.h"

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

inline int64_t padded(int64_t samples) {
  return (samples + kLanePadding - 1) / kLanePadding * kLanePadding;
}

// Elements of a sample of x [batch, ...].
inline int64_t features_of(const Tensor& x) {
  int64_t features = 1;
  for (int64_t d = 1; d < x.dim(); ++d) features *= x.size(d);
  return features;
}

// Whether x [batch, ...] lies in memory as [..., batch].
inline bool lies_batch_last(const Tensor& x) {
  int64_t stride = x.size(0);
  if (stride != 1 && x.stride(0) != 1) return false;
  for (int64_t d = x.dim() - 1; d > 0; stride *= x.size(d--)) {
    if (x.size(d) != 1 && x.stride(d) != stride) return false;
  }
  return true;
}

// Samples that are moved at a time, so that they still lie in the caches when a kernel reads them:
// a multiple of kLanePadding, in chunks of one size.
inline int64_t chunk_of(int64_t batch, int64_t bytes_a_sample) {
  constexpr int64_t kChunkBytes = int64_t{1} << 20;
  const int64_t bytes = kChunkBytes * torch::stable::get_num_threads();
  const int64_t most = std::max(bytes / std::max<int64_t>(bytes_a_sample, 1), kLanePadding);
  const int64_t chunks = std::max<int64_t>((batch + most - 1) / most, 1);
  return padded((batch + chunks - 1) / chunks);
}

// An operand [batch, ...] as the convolutions read it: feature-major. What does not lie so is
// moved, one chunk of samples at a time, by read_part, which every part has to run before a kernel
// reads.
class Operand {
 public:
  // In groups of kLanePadding samples: a window of an image then lies in few pages and in all sets
  // of a cache, where those of a large batch lie a power of two apart.
  Operand(const Tensor& x, int64_t chunk) : Operand(x, chunk, kLanePadding) {}

  // The whole batch in one group, without padding.
  static Operand batch_last(const Tensor& x) {
    return Operand(x, x.size(0), std::max<int64_t>(x.size(0), 1));
  }

  int64_t batch() const { return batch_; }
  int64_t features() const { return features_; }
  // From one feature to the next, and from one group of kLanePadding samples.
  int64_t ld() const { return ld_; }
  int64_t group() const { return group_; }
  int64_t chunk() const { return chunk_; }
  // Of the chunk from sample `first` on.
  int64_t samples(int64_t first) const { return std::min(chunk_, batch_ - first); }
  // Of moving a chunk.
  int64_t flops() const { return moves_ ? kFlopsACopy * chunk_ * features_ : 0; }

  // The chunk from sample `first` on.
  template <class T>
  const T* data(int64_t first = 0) const {
    return moves_ ? memory_.as<T>() : source<T>() + first;
  }

  template <class T>
  void read_part(int64_t first, int64_t part, int64_t parts) const {
    if (!moves_) return;
    const Stretch features(features_, part, parts);
    const int64_t samples = this->samples(first);
    const T* from = source<T>() + first * features_;
    T* to = memory_.as<T>();
    for (int64_t n = 0; n < samples; n += ld_, to += ld_ * features_) {
      const int64_t group = std::min(ld_, samples - n);
      batch_last_kernels<T>().transpose(from + n * features_, features_, to, ld_, group,
                                        features.begin, features.end);
      for (int64_t f = features.begin; f < features.end; ++f) {
        std::fill(to + f * ld_ + group, to + (f + 1) * ld_, T{0});
      }
    }
  }

 private:
  Operand(const Tensor& x, int64_t chunk, int64_t moved_ld)
      : batch_(x.size(0)),
        features_(features_of(x)),
        chunk_(chunk),
        batch_last_(lies_batch_last(x)),
        moves_(!batch_last_),
        ld_(moves_ ? moved_ld : batch_),
        group_(moves_ ? moved_ld * features_ : kLanePadding),
        source_(batch_last_ || x.is_contiguous() ? x : torch::stable::contiguous(x)),
        memory_(moves_ ? features_ * padded(chunk) * x.element_size() : 0) {}

  template <class T>
  const T* source() const {
    return static_cast<const T*>(source_.const_data_ptr());
  }

  int64_t batch_, features_, chunk_;
  bool batch_last_, moves_;
  int64_t ld_, group_;
  Tensor source_;
  Workspace memory_;
};

// Moves a chunk of what does not lie as the kernels read it; null operands are none.
template <class T>
void read_operands(int64_t first, std::initializer_list<const Operand*> operands) {
  int64_t flops = 0;
  for (const Operand* operand : operands) flops += operand == nullptr ? 0 : operand->flops();
  if (flops == 0) return;
  const int64_t parts = thread_parts(flops);
  for_parts(parts, [&](int64_t p) {
    for (const Operand* operand : operands) {
      if (operand != nullptr) operand->read_part<T>(first, p, parts);
    }
  });
}

}  // namespace sparsefl
