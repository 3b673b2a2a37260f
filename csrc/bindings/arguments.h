// Turns operator arguments into what the kernels take. Users' mistakes were refused in
// sparsefl.ops; the checks here would be our own bugs.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/memory.h"
#include "cpu/view.h"

namespace sparsefl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls run with a null pointer of the tensor's element type.
template <class Run>
void with_type(const Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return run(static_cast<float*>(nullptr));
    case ScalarType::Double:
      return run(static_cast<double*>(nullptr));
    default:
      STD_TORCH_CHECK(false, "kernels take float32 and float64");
  }
}

template <class T>
const T* data(const Tensor& x) {
  STD_TORCH_CHECK(x.is_contiguous() && x.element_size() == sizeof(T), "bad operand");
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
const T* data(const std::optional<Tensor>& x) {
  return x.has_value() ? data<T>(*x) : nullptr;
}

template <class T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// An uninitialised tensor without gaps. torch::stable::new_empty would go through the dispatcher,
// twice the time.
inline Tensor empty_strided(const Tensor& like, const std::vector<int64_t>& size,
                            const std::vector<int64_t>& strides) {
  int32_t type, device, index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made;
  int64_t bytes = static_cast<int64_t>(like.element_size());
  for (const int64_t n : size) bytes *= n;
  if (bytes >= kLeastPooledBytes && device == aoti_torch_device_type_cpu() &&
      make_pooled(static_cast<int64_t>(size.size()), size.data(), strides.data(), bytes, type,
                  index, &made)) {
    return Tensor(made);
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(size.size()), size.data(), strides.data(), type, device, index, &made));
  return Tensor(made);
}

inline Tensor empty_of(const Tensor& like, const std::vector<int64_t>& size) {
  std::vector<int64_t> strides(size.size(), 1);
  for (size_t d = size.size(); d-- > 1;) {
    strides[d - 1] = strides[d] * std::max<int64_t>(size[d], 1);
  }
  return empty_strided(like, size, strides);
}

inline Tensor empty_of(const Tensor& like, std::initializer_list<int64_t> size, ScalarType type) {
  return torch::stable::new_empty(like, size, type);
}

// An uninitialised tensor [N, ...] whose batch is innermost in memory. It is no view of another, so
// that autograd lets in-place operations follow an operator that returns it.
inline Tensor empty_batch_last(const Tensor& like, const std::vector<int64_t>& size) {
  std::vector<int64_t> strides(size.size(), 1);
  int64_t stride = size[0];
  for (size_t d = size.size() - 1; d > 0; --d) {
    strides[d] = stride;
    stride *= size[d];
  }
  return empty_strided(like, size, strides);
}

// The tensors of a view, in the operators' order.
struct ViewTensors {
  const Tensor &begin, &index;
  const std::optional<Tensor>& position;
  const Tensor& work;
  int64_t block;

  int64_t rows() const { return work.numel() - 1; }
  int64_t nnz() const { return index.numel(); }
  View view(int64_t columns) const {
    return {rows(),
            columns,
            block,
            data<int32_t>(begin),
            reinterpret_cast<const uint16_t*>(data<int16_t>(index)),
            data<int32_t>(position),
            data<int64_t>(work)};
  }
};

// What a backward gives: the gradients of the input, the stored elements and the bias, those that
// are not wanted being empty.
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// What it is asked for, in this order: the input's gradient (kNone, kBatchLast or kRowMajor, the
// memory order of the input), the stored elements' and the bias's.
enum Wanted : int64_t { kNone = 0, kBatchLast = 1, kRowMajor = 2 };

// What a sign operator adds to the values: the magnitudes, one each or one for all. coded: the
// signs lie in the view's index, and there are no values.
struct Magnitudes {
  const std::optional<Tensor>& each;
  double constant;
  bool coded = false;
};

template <class T>
Weights<T> make_weights(const Tensor& values, const Magnitudes* magnitudes) {
  if (magnitudes == nullptr) return {WeightKind::kValues, data<T>(values), nullptr, T{1}};
  if (magnitudes->coded) {
    return {WeightKind::kSignCoded, nullptr, nullptr, static_cast<T>(magnitudes->constant)};
  }
  const auto kind =
      magnitudes->each.has_value() ? WeightKind::kSignTensor : WeightKind::kSignConstant;
  return {kind, data<T>(values), data<T>(magnitudes->each), static_cast<T>(magnitudes->constant)};
}

}  // namespace sparsefl
