#include "bindings/codec_bit_code.h"

#include <pybind11/numpy.h>

#include <cstdint>
#include <vector>

#include "bindings/codec_require.h"
#include "codec/bit_code.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::BitCoder;
using codec::Profile;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

Bytes to_array(const std::vector<uint8_t>& bytes) {
  return Bytes(static_cast<py::ssize_t>(bytes.size()), bytes.data());
}

// Returns (coder, code): of the given coder, or of the best where `coder` is -1; None where the
// coder has none.
py::object bit_code(const Bytes& bits, size_t n, size_t count, size_t row, uint32_t profile,
                    int coder) {
  require(n <= codec::kMaxBits && static_cast<size_t>(bits.size()) == (n + 7) / 8, "wrong size");
  codec::Scratch scratch;
  std::vector<uint8_t> out;
  auto chosen = static_cast<BitCoder>(coder);
  const auto allowed = static_cast<Profile>(profile);
  if (coder < 0) {
    chosen = codec::append_bit_code(bits.data(), n, count, row, allowed, &scratch, &out);
  } else if (!codec::append_bit_code_as(chosen, bits.data(), n, count, row, allowed, &scratch,
                                        &out)) {
    return py::none();
  }
  return py::make_tuple(static_cast<int>(chosen), to_array(out));
}

// Returns (reason, bits).
py::tuple read_bit_code(int coder, const Bytes& data, size_t n, size_t count, size_t row,
                        uint32_t profile) {
  require(n <= codec::kMaxBits && count <= n, "wrong size");
  codec::Scratch scratch;
  Bytes bits(static_cast<py::ssize_t>((n + 7) / 8));
  const codec::Reason reason = codec::read_bit_code(
      static_cast<BitCoder>(coder), data.data(), static_cast<size_t>(data.size()), n, count, row,
      static_cast<Profile>(profile), &scratch, bits.mutable_data());
  return py::make_tuple(static_cast<int>(reason), bits);
}

// Returns (reason, indices).
py::tuple read_bit_indices(int coder, const Bytes& data, size_t n, size_t count, size_t row,
                           uint32_t profile) {
  require(n <= codec::kMaxBits && count <= n, "wrong size");
  codec::Scratch scratch;
  py::array_t<uint32_t> indices(static_cast<py::ssize_t>(count));
  const codec::Reason reason = codec::read_bit_indices(
      static_cast<BitCoder>(coder), data.data(), static_cast<size_t>(data.size()), n, count, row,
      static_cast<Profile>(profile), &scratch, indices.mutable_data());
  return py::make_tuple(static_cast<int>(reason), indices);
}

}  // namespace

void bind_bit_code(py::module_& m) {
  m.def("bit_code", &bit_code, py::arg("bits"), py::arg("n"), py::arg("count"), py::arg("row"),
        py::arg("profile"), py::arg("coder") = -1,
        "(coder, code) of the set bits: of the coder, or the best for -1; None where it has none.");
  m.def("read_bit_code", &read_bit_code, py::arg("coder"), py::arg("data"), py::arg("n"),
        py::arg("count"), py::arg("row"), py::arg("profile") = 1, "(reason, bits) of a code.");
  m.def("read_bit_indices", &read_bit_indices, py::arg("coder"), py::arg("data"), py::arg("n"),
        py::arg("count"), py::arg("row"), py::arg("profile") = 1, "(reason, positions) of a code.");
}

}  // namespace sparsefl
