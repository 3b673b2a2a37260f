// Operands for kernels.cpp: small integers, whose sums are exact in any order, each in a heap block
// of exactly its size, so that the address sanitizer sees a lane too far.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <vector>

#include "cpu/batch_last.h"
#include "cpu/dense_weight.h"
#include "cpu/plan.h"
#include "cpu/sign_codes.h"
#include "cpu/sparse_conv2d.h"
#include "cpu/sparse_linear.h"
#include "sets.h"

namespace sparsefl {

extern const SparseLinearKernels<double> kSparseLinearF64;
extern const SparseConv2dKernels<double> kSparseConv2dF64;
extern const SignCodesKernels<double> kSignCodesF64;
extern const BatchLastKernels<double> kBatchLastF64;
extern const SparseLinearKernels<float> kSparseLinearScalarF32, kSparseLinearAvx2F32,
    kSparseLinearAvx512F32;
extern const SignCodesKernels<float> kSignCodesScalarF32, kSignCodesAvx2F32, kSignCodesAvx512F32;
extern const SparseConv2dKernels<float> kSparseConv2dScalarF32, kSparseConv2dAvx2F32,
    kSparseConv2dAvx512F32;
extern const BatchLastKernels<float> kBatchLastScalarF32, kBatchLastAvx2F32, kBatchLastAvx512F32;

using Numbers = std::vector<double>;

// What unwritten memory holds: no sum that it enters can come out right.
constexpr double kGarbage = 1e30;

template <class T>
struct Kernels {
  const char* name;
  const SparseLinearKernels<T>& linear;
  const SignCodesKernels<T>& sign_codes;
  const SparseConv2dKernels<T>& conv2d;
  const BatchLastKernels<T>& batch_last;
};

template <class Run>
void for_each_set(const Run& run) {
  run(Kernels<double>{"float64", kSparseLinearF64, kSignCodesF64, kSparseConv2dF64, kBatchLastF64});
  run(Kernels<float>{"scalar", kSparseLinearScalarF32, kSignCodesScalarF32, kSparseConv2dScalarF32,
                     kBatchLastScalarF32});
#if defined(__x86_64__)
  if (has_avx2()) {
    run(Kernels<float>{"avx2", kSparseLinearAvx2F32, kSignCodesAvx2F32, kSparseConv2dAvx2F32,
                       kBatchLastAvx2F32});
  }
  if (has_avx512()) {
    run(Kernels<float>{"avx512", kSparseLinearAvx512F32, kSignCodesAvx512F32,
                       kSparseConv2dAvx512F32, kBatchLastAvx512F32});
  }
#endif
}

// A heap block of exactly `size` elements; scratch is aligned as the kernels ask for, operands are
// only as far as their element needs it.
template <class T>
class Block {
 public:
  explicit Block(int64_t size, bool scratch = false) : size_(size) {
    const size_t bytes = size * sizeof(T), shift = scratch ? 0 : sizeof(T);
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, bytes + shift) != 0) std::abort();
    memory_.reset(memory);
    data_ = reinterpret_cast<T*>(static_cast<char*>(memory) + shift);
    for (int64_t i = 0; i < size; ++i) data_[i] = static_cast<T>(kGarbage);
  }
  explicit Block(const Numbers& numbers) : Block(static_cast<int64_t>(numbers.size())) {
    for (int64_t i = 0; i < size_; ++i) data_[i] = static_cast<T>(numbers[i]);
  }
  T* get() const { return data_; }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  int64_t size_;
  std::unique_ptr<void, Free> memory_;
  T* data_;
};

inline int64_t random_below(int64_t n) {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<int64_t>((state >> 33) % n);
}

inline Numbers small_integers(int64_t n) {
  Numbers numbers(n);
  for (double& x : numbers) x = static_cast<double>(random_below(7) - 3);
  return numbers;
}

// Of the float64 results: every machine has those, and all others were equal to them.
struct Checksum {
  const char* name;
  uint64_t sum = 0;
};

template <class T>
void expect_equal(const Block<T>& result, const Numbers& expected, const char* set,
                  Checksum& checksum) {
  for (int64_t i = 0; i < result.size(); ++i) {
    if (result.get()[i] != expected[i]) {
      std::printf("%s %s: element %" PRId64 " of %" PRId64 " is %g, not %g\n", set, checksum.name,
                  i, result.size(), static_cast<double>(result.get()[i]), expected[i]);
      std::exit(1);
    }
    if (sizeof(T) == sizeof(double)) {
      checksum.sum += static_cast<uint64_t>(static_cast<int64_t>(expected[i])) * (2 * i + 1);
    }
  }
}

// A support with both its views; `columns` is in * taps. The stored elements are in view order.
struct Support {
  int64_t nnz;
  std::vector<int64_t> indices, order, work, work_t;
  std::vector<int32_t> begin, begin_t, position;
  std::vector<int16_t> index, index_t;
  View forward, transposed;

  Support(int64_t percent, int64_t block, const Transposed& shape) {
    const int64_t columns = shape.in * shape.taps();
    for (int64_t i = 0; i < shape.out * columns; ++i) {
      if (random_below(100) < percent) indices.push_back(i);
    }
    nnz = static_cast<int64_t>(indices.size());
    forward = {shape.out, columns, block, nullptr, nullptr, nullptr, nullptr};
    transposed = {shape.rows(), shape.columns(), shape.block, nullptr, nullptr, nullptr, nullptr};
    // Vectors are never longer than resize asks for: no reallocation grows their capacity.
    begin.resize(forward.blocks() * shape.out + 1);
    begin_t.resize(shape.phases * transposed.blocks() * shape.rows() + 1);
    index.resize(nnz), index_t.resize(nnz), position.resize(nnz), order.resize(nnz);
    work.resize(shape.out + 1), work_t.resize(shape.rows() + 1);
    build_forward_view(indices.data(), nnz, shape.out, columns, block, begin.data(), index.data(),
                       order.data(), work.data());
    build_transposed_view(indices.data(), order.data(), nnz, shape, begin_t.data(), index_t.data(),
                          position.data(), work_t.data());
    forward.begin = begin.data(), transposed.begin = begin_t.data();
    forward.index = reinterpret_cast<const uint16_t*>(index.data());
    transposed.index = reinterpret_cast<const uint16_t*>(index_t.data());
    transposed.position = position.data();
    forward.work = work.data(), transposed.work = work_t.data();
  }
};

// The stored elements of a support and, in plain numbers, what they stand for.
struct Stored {
  WeightKind kind;
  Numbers values, magnitudes, dense, scale;
  double constant = 2;

  Stored(const Support& support, WeightKind kind, int64_t numel)
      : kind(kind), values(small_integers(support.nnz)), dense(numel), scale(support.nnz) {
    for (int64_t k = 0; k < support.nnz; ++k) {
      magnitudes.push_back(static_cast<double>(random_below(4)));
      scale[k] = kind == WeightKind::kSignConstant ? constant : magnitudes[k];
      if (kind == WeightKind::kValues) scale[k] = 1;
      const double sign = values[k] >= 0 ? 1 : -1;
      dense[support.indices[support.order[k]]] =
          kind == WeightKind::kValues ? values[k] : scale[k] * sign;
    }
  }
};

template <class T>
Weights<T> weights_of(const Stored& stored, const Block<T>& values, const Block<T>& magnitudes) {
  return {stored.kind, values.get(), magnitudes.get(), static_cast<T>(stored.constant)};
}

inline int64_t padded(int64_t batch) {
  return (batch + kLanePadding - 1) / kLanePadding * kLanePadding;
}

// The samples of features as the linear kernels take them, one a plain vector.
template <class T>
Panel<const T> panel(const Block<T>& block, int64_t features, int64_t batch, bool row_major) {
  return {block.get(), row_major ? features : batch, row_major};
}

template <class T>
Panel<T> panel(Block<T>& block, int64_t features, int64_t batch, bool row_major) {
  return {block.get(), row_major ? features : batch, row_major};
}

// Feature-major samples row-major.
inline Numbers turned(const Numbers& x, int64_t batch) {
  Numbers y;
  const int64_t size = static_cast<int64_t>(x.size());
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t i = n; i < size; i += batch) y.push_back(x[i]);
  }
  return y;
}

// Feature-major samples, kLanePadding after the other; nothing may be read of the padding.
template <class T>
Block<T> pad_groups(const Numbers& x, int64_t rows, int64_t batch) {
  Numbers groups(rows * padded(batch), kGarbage);
  for (int64_t i = 0; i < rows * batch; ++i) {
    const int64_t n = i % batch;
    groups[(n / kLanePadding * rows + i / batch) * kLanePadding + n % kLanePadding] = x[i];
  }
  return Block<T>(groups);
}

}  // namespace sparsefl
