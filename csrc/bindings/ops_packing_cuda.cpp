// Bitmaps, signs, votes and the largest elements for torch's CUDA backend. Loads without CUDA, too:
// the runtime is linked statically, and torch's only function that is not in all its builds is
// weak.

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/arguments.h"
#include "cuda/packing.h"

extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace sparsefl {
namespace {

using torch::stable::accelerator::DeviceGuard;

constexpr int64_t kBlockBytes = kBlockPositions / 8;

// The device of a tensor, made the current one, and torch's stream there.
class Device {
 public:
  explicit Device(const Tensor& like) : guard_(like.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "torch is built without CUDA");
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  DeviceGuard guard_;
  cudaStream_t stream_;
};

void check(int code, const char* name) {
  STD_TORCH_CHECK(code == cudaSuccess, "sparsefl::", name, ": ",
                  cudaGetErrorString(static_cast<cudaError_t>(code)));
}

Arena arena_of(const std::optional<Tensor>& table, int64_t numel, int64_t blocks) {
  if (!table.has_value()) {
    STD_TORCH_CHECK(blocks == (numel + kBlockPositions - 1) / kBlockPositions, "bad arena");
    return {nullptr, nullptr, 1, numel, blocks};
  }
  const auto* from = data<int64_t>(*table);
  const int64_t tensors = table->size(1) - 1;
  STD_TORCH_CHECK(table->size(0) == 2 && tensors >= 1, "bad arena");
  return {from, from + tensors + 1, tensors, numel, blocks};
}

Tensor empty_bitmap(const Tensor& like, int64_t blocks) {
  return empty_of(like, {blocks * kBlockBytes}, ScalarType::Byte);
}

uint32_t* mutable_words(const Tensor& bits) {
  return reinterpret_cast<uint32_t*>(mutable_data<uint8_t>(bits));
}

const uint32_t* words(const Tensor& bits, const Arena& arena) {
  const auto* from = data<uint8_t>(bits);
  STD_TORCH_CHECK(bits.numel() == arena.blocks * kBlockBytes, "bad bitmap");
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(from) % 16 == 0, "bad alignment");
  return reinterpret_cast<const uint32_t*>(from);
}

Positions positions_of(const Tensor& bits, const Tensor& prefix, const Arena& arena,
                       int64_t count) {
  STD_TORCH_CHECK(prefix.numel() == arena.blocks + 1, "bad plan");
  return {words(bits, arena), data<int64_t>(prefix), count};
}

int32_t* flag(const Tensor& found_nan) {
  STD_TORCH_CHECK(found_nan.numel() == 1 && data<int32_t>(found_nan) != nullptr, "bad flag");
  return mutable_data<int32_t>(found_nan);
}

Tensor pack(const Tensor& x, const std::optional<Tensor>& table, int64_t blocks, Tensor found_nan) {
  const Device device(x);
  const Arena arena = arena_of(table, x.numel(), blocks);
  Tensor bits = empty_bitmap(x, blocks);
  check(sign_pack(data<float>(x), arena, mutable_words(bits), flag(found_nan), device.stream()),
        "sign_pack");
  return bits;
}

Tensor unpack(const Tensor& bits, const std::optional<Tensor>& table, int64_t n, double scale) {
  const Device device(bits);
  const Arena arena = arena_of(table, n, bits.numel() / kBlockBytes);
  Tensor out = empty_of(bits, {n}, ScalarType::Float);
  check(sign_unpack(words(bits, arena), arena, static_cast<float>(scale), mutable_data<float>(out),
                    device.stream()),
        "sign_unpack");
  return out;
}

Tensor plan(const Tensor& bits, const std::optional<Tensor>& table, int64_t n) {
  const Device device(bits);
  const Arena arena = arena_of(table, n, bits.numel() / kBlockBytes);
  Tensor prefix = empty_of(bits, {arena.blocks + 1}, ScalarType::Long);
  Tensor scratch = empty_of(bits, {scan_scratch(arena.blocks)}, ScalarType::Long);
  check(bitmap_plan(words(bits, arena), arena, mutable_data<int64_t>(prefix),
                    mutable_data<int64_t>(scratch), device.stream()),
        "bitmap_plan");
  return prefix;
}

Tensor gather(const Tensor& x, const Tensor& bits, const Tensor& prefix,
              const std::optional<Tensor>& table, int64_t count) {
  const Device device(x);
  const Arena arena = arena_of(table, x.numel(), bits.numel() / kBlockBytes);
  Tensor values = empty_of(x, {count}, ScalarType::Float);
  check(bitmap_gather(data<float>(x), arena, positions_of(bits, prefix, arena, count),
                      mutable_data<float>(values), device.stream()),
        "bitmap_gather");
  return values;
}

Tensor scatter(const Tensor& values, const Tensor& bits, const Tensor& prefix,
               const std::optional<Tensor>& table, int64_t n) {
  const Device device(values);
  const Arena arena = arena_of(table, n, bits.numel() / kBlockBytes);
  Tensor out = empty_of(values, {n}, ScalarType::Float);
  check(
      bitmap_scatter(data<float>(values), arena, positions_of(bits, prefix, arena, values.numel()),
                     mutable_data<float>(out), device.stream()),
      "bitmap_scatter");
  return out;
}

void add(Tensor model, const Tensor& bits, const Tensor& prefix, const std::optional<Tensor>& table,
         const Tensor& values, double weight) {
  const Device device(model);
  const Arena arena = arena_of(table, model.numel(), bits.numel() / kBlockBytes);
  STD_TORCH_CHECK(data<float>(model) != nullptr || model.numel() == 0, "bad model");
  check(bitmap_add(mutable_data<float>(model), arena,
                   positions_of(bits, prefix, arena, values.numel()), data<float>(values),
                   static_cast<float>(weight), device.stream()),
        "bitmap_add");
}

std::tuple<Tensor, Tensor> vote(const Tensor& packed, int64_t n, int64_t least, bool ties) {
  const Device device(packed);
  const int64_t clients = packed.size(0), words = (n + 31) / 32;
  STD_TORCH_CHECK(packed.dim() == 2 && packed.element_size() == 1 && packed.stride(1) == 1 &&
                      packed.size(1) >= (n + 7) / 8,
                  "bad ballots");
  STD_TORCH_CHECK(clients >= 1 && clients <= kMostClients && least >= 1 && least <= clients + 1,
                  "bad vote");
  Tensor negative = empty_of(packed, {4 * words}, ScalarType::Byte);
  Tensor tied = empty_of(packed, {ties ? 4 * words : 0}, ScalarType::Byte);
  const auto* from = static_cast<const uint8_t*>(packed.const_data_ptr());
  check(majority_vote({from, clients, packed.stride(0), n}, least, mutable_words(negative),
                      ties ? mutable_words(tied) : nullptr, device.stream()),
        "majority_vote");
  return {negative, tied};
}

std::tuple<Tensor, Tensor, Tensor> largest(const Tensor& x, const std::optional<Tensor>& table,
                                           int64_t blocks, int64_t k, Tensor found_nan) {
  const Device device(x);
  const Arena arena = arena_of(table, x.numel(), blocks);
  STD_TORCH_CHECK(k >= 0 && k <= x.numel(), "more elements are asked for than there are");
  Tensor bits = empty_bitmap(x, blocks);
  Tensor prefix = empty_of(x, {blocks + 1}, ScalarType::Long);
  Tensor values = empty_of(x, {k}, ScalarType::Float);
  const auto bytes = static_cast<int64_t>(top_k_scratch(blocks));
  Tensor scratch = empty_of(x, {bytes}, ScalarType::Byte);
  check(top_k(data<float>(x), arena, k, mutable_words(bits), mutable_data<int64_t>(prefix),
              mutable_data<float>(values), flag(found_nan), scratch.mutable_data_ptr(),
              device.stream()),
        "top_k");
  return {bits, prefix, values};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CUDA, m) {
  m.impl("sign_pack", TORCH_BOX(&pack));
  m.impl("sign_unpack", TORCH_BOX(&unpack));
  m.impl("bitmap_plan", TORCH_BOX(&plan));
  m.impl("bitmap_gather", TORCH_BOX(&gather));
  m.impl("bitmap_scatter", TORCH_BOX(&scatter));
  m.impl("bitmap_add", TORCH_BOX(&add));
  m.impl("majority_vote", TORCH_BOX(&vote));
  m.impl("top_k", TORCH_BOX(&largest));
}

}  // namespace
}  // namespace sparsefl
