#include "bindings/codec_byte_code.h"

#include <cstring>
#include <string_view>
#include <vector>

#include "codec/byte_code.h"

namespace sparsefl {
namespace {

namespace py = pybind11;
using codec::Profile;
using codec::Reason;

const uint8_t* bytes_of(std::string_view data) {
  return reinterpret_cast<const uint8_t*>(data.data());
}

py::bytes as_bytes(const std::vector<uint8_t>& data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

py::bytes byte_code(const py::bytes& symbols, uint32_t profile) {
  const std::string_view view(symbols);
  std::vector<uint8_t> out;
  {
    py::gil_scoped_release release;
    codec::append_byte_code(bytes_of(view), view.size(), static_cast<Profile>(profile), &out);
  }
  return as_bytes(out);
}

py::tuple read_byte_code(const py::bytes& data, size_t n, uint32_t profile) {
  const std::string_view view(data);
  auto symbols = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(n)));
  if (!symbols) throw py::error_already_set();
  auto* const out = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(symbols.ptr()));
  size_t used = 0;
  Reason reason;
  {
    py::gil_scoped_release release;
    reason = codec::read_byte_code(bytes_of(view), view.size(), n, static_cast<Profile>(profile),
                                   out, &used);
  }
  // What a refused code left there is nobody's business.
  if (reason != Reason::kNone) std::memset(out, 0, n);
  return py::make_tuple(static_cast<int>(reason), used, symbols);
}

}  // namespace

void bind_byte_code(py::module_& m) {
  m.def("byte_code", &byte_code, py::arg("symbols"), py::arg("profile"),
        "The byte code of the symbols; profile 0 without rANS, 1 with it.");
  m.def("read_byte_code", &read_byte_code, py::arg("data"), py::arg("n"), py::arg("profile") = 1,
        "(reason, bytes used, n symbols) of the byte code at the start of the data.");
}

}  // namespace sparsefl
