// What the normalisations of batch-last memory share.
#pragma once

#include <optional>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/operand.h"

namespace sparsefl {

// The rows of an operand in batch-last memory.
template <class T>
const T* rows(const Tensor& x) {
  STD_TORCH_CHECK((x.numel() == 0 || lies_batch_last(x)) && x.element_size() == sizeof(T),
                  "bad operand");
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
const T* rows(const std::optional<Tensor>& x) {
  return x.has_value() ? rows<T>(*x) : nullptr;
}

template <class T>
T at(const T* x, int64_t i, T otherwise) {
  return x == nullptr ? otherwise : x[i];
}

inline std::vector<int64_t> sizes(const Tensor& x) {
  std::vector<int64_t> size;
  for (int64_t d = 0; d < x.dim(); ++d) size.push_back(x.size(d));
  return size;
}

}  // namespace sparsefl
