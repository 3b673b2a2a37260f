// Schemas and parsed messages in _codec: SchemaTable, RefusedError, Reader.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bindings/codec_require.h"
#include "codec/message.h"

namespace sparsefl {

using Bitmap = pybind11::array_t<uint8_t, pybind11::array::c_style>;
using SignArray = pybind11::array_t<int8_t, pybind11::array::c_style>;

// The dtypes and sizes of a schema's tensors by ordinal, and its fingerprint.
struct SchemaTable {
  uint64_t fingerprint;
  std::vector<codec::TensorSpec> tensors;
};

// Raises `_codec.RefusedError(reason, where)`; the Python side makes a CodecError or a ValueError
// of it.
[[noreturn]] void raise_refused(const codec::Status& status);

// What the base has of one descriptor, as Target says, and the arrays that it points into.
struct BaseArrays {
  const uint8_t* bitmap = nullptr;
  const int8_t* signs = nullptr;
  uint64_t count = 0;
  std::vector<pybind11::object> owners;
};

// A parsed message: what it says is known and checked, its chunks are decoded by read().
class Reader {
 public:
  Reader(std::shared_ptr<SchemaTable> schema, pybind11::bytes data);

  uint32_t round() const { return message_.round; }
  uint64_t base_fingerprint() const { return message_.base_fingerprint; }
  const codec::Message& message() const { return message_; }
  const std::vector<codec::TensorSpec>& schema() const { return schema_->tensors; }
  std::span<const uint8_t> bytes() const;

  // (ordinal, support mode, value mode, scale, count or seed) of each descriptor.
  pybind11::list descriptors() const;

  // (chunks, bytes of their supports, bytes of their values, coders of supports, coders of values)
  // of each descriptor; coders as bits, bit i for coder i.
  pybind11::list sections() const;

  // Returns (bitmap | None, values | None) of each descriptor. `bases` has (bitmap | None, signs |
  // None) of the base for each: the bitmap where its support is shared or changed, the signs where
  // its values are flips.
  pybind11::list read(const pybind11::list& bases, size_t threads) const;

  // What chunks of one descriptor find in the base.
  BaseArrays base_of(const codec::Descriptor& d, const pybind11::object& bitmap,
                     const pybind11::object& signs) const;

 private:
  std::shared_ptr<SchemaTable> schema_;
  pybind11::bytes data_;
  codec::Message message_;
};

void bind_reader(pybind11::module_& module);

}  // namespace sparsefl
