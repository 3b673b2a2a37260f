#include "bindings/codec_kernels.h"

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "bindings/random.h"
#include "codec/bits.h"
#include "codec/rank.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::Through;
using Bytes = py::array_t<uint8_t, py::array::c_style>;
using IsaName = std::optional<std::string>;

// What the Python side guarantees; a failure is a mistake of ours, not of the user.
void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("_codec: ") + what);
}

size_t bytes_of(size_t bits) { return (bits + 7) / 8; }

Bytes make_bytes(size_t bits) { return Bytes(static_cast<py::ssize_t>(bytes_of(bits))); }

void require_bitmap(const Bytes& bitmap, size_t n) {
  require(static_cast<size_t>(bitmap.size()) == bytes_of(n), "a bitmap has the wrong size");
  require(codec::tail_is_zero(bitmap.data(), n), "a bitmap has bits past its last position");
}

// The number of positions that a mask of n numbers.
size_t count_through(const Bytes& mask, size_t n, Through through) {
  const size_t set = codec::popcount(mask.data(), static_cast<size_t>(mask.size()));
  return through == Through::kMask ? set : n - set;
}

Bytes compress_bits(const Bytes& bits, const Bytes& mask, size_t n, bool complement,
                    const IsaName& isa) {
  const Isa chosen = isa_by_name(isa);
  const Through through = complement ? Through::kComplement : Through::kMask;
  require_bitmap(bits, n);
  require_bitmap(mask, n);
  const size_t count = count_through(mask, n, through);
  Bytes out = make_bytes(count);
  uint8_t* data = out.mutable_data();
  py::gil_scoped_release release;
  codec::compress_bits(bits.data(), mask.data(), n, through, count, data, chosen);
  return out;
}

Bytes expand_bits(const Bytes& ranks, const Bytes& mask, size_t n, bool complement,
                  const IsaName& isa) {
  const Isa chosen = isa_by_name(isa);
  const Through through = complement ? Through::kComplement : Through::kMask;
  require_bitmap(mask, n);
  const size_t count = count_through(mask, n, through);
  require_bitmap(ranks, count);
  Bytes out = make_bytes(n);
  uint8_t* data = out.mutable_data();
  py::gil_scoped_release release;
  codec::expand_bits(ranks.data(), count, mask.data(), n, through, data, chosen);
  return out;
}

void bind_rank(py::module_& m) {
  m.def("compress_bits", &compress_bits, py::arg("bits"), py::arg("mask"), py::arg("n"),
        py::arg("complement"), py::arg("isa") = py::none());
  m.def("expand_bits", &expand_bits, py::arg("ranks"), py::arg("mask"), py::arg("n"),
        py::arg("complement"), py::arg("isa") = py::none());
  m.def(
      "popcount",
      [](const Bytes& data) {
        return codec::popcount(data.data(), static_cast<size_t>(data.size()));
      },
      py::arg("data"));
}

}  // namespace

void bind_codec_kernels(py::module_& module) { bind_rank(module); }

}  // namespace sparsefl
