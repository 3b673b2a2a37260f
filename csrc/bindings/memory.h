// Tensors whose memory comes from the pool.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace sparsefl {

// Smaller tensors come from torch's allocator: the C library serves them from its heap, and their
// few pages cost little.
constexpr int64_t kLeastPooledBytes = int64_t{256} << 10;

// An uninitialised tensor of torch's CPU backend whose memory the pool lends until no tensor refers
// to it, or false where the pool is off or has none left.
bool make_pooled(int64_t dim, const int64_t* size, const int64_t* strides, int64_t bytes,
                 int32_t type, int32_t device_index, AtenTensorHandle* made);

}  // namespace sparsefl
