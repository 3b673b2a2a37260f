#include "bindings/codec_values.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <tuple>
#include <vector>

#include "codec/values.h"

namespace sparsefl {
namespace {

namespace py = pybind11;
using codec::Dtype;
using codec::Profile;
using codec::Reason;
using codec::ValueMode;
using Bytes = py::array_t<uint8_t, py::array::c_style>;
// (seed, stream, word of the first value)
using Rounding = std::optional<std::tuple<uint64_t, uint64_t, uint64_t>>;

// Bytes of one value in memory.
size_t item_bytes(ValueMode mode, Dtype dtype, uint8_t block_log2) {
  const size_t item = codec::memory_item_bytes(mode, dtype);
  const bool has_blocks = codec::is_block_scaled(mode);
  if (!codec::has_value_section(mode) || item == 0 || has_blocks != (block_log2 != 0))
    throw std::invalid_argument("_codec: no such value section");
  if (has_blocks && (block_log2 < codec::kMinBlockLog2 || block_log2 > codec::kMaxBlockLog2))
    throw std::invalid_argument("_codec: no such block");
  return item;
}

py::object value_section(uint8_t mode, uint8_t dtype, uint8_t block_log2, const Bytes& values,
                         uint32_t profile, const Rounding& rounding) {
  const auto how = static_cast<ValueMode>(mode);
  const auto what = static_cast<Dtype>(dtype);
  const size_t n = static_cast<size_t>(values.size()) / item_bytes(how, what, block_log2);
  codec::Draws draws{};
  if (rounding) draws = {std::get<0>(*rounding), std::get<1>(*rounding), std::get<2>(*rounding)};
  const codec::ValueSource source = {how,           what, block_log2,
                                     values.data(), n,    rounding ? &draws : nullptr};
  codec::ValueScratch scratch;
  std::vector<uint8_t> out;
  codec::ValueCoder coder{};
  bool fits;
  {
    py::gil_scoped_release release;
    fits = codec::append_values(source, static_cast<Profile>(profile), &scratch, &out, &coder);
  }
  if (!fits) return py::none();
  const auto* begin = reinterpret_cast<const char*>(out.data());
  return py::make_tuple(static_cast<int>(coder), py::bytes(begin, out.size()));
}

py::object value_counts(uint8_t mode, uint8_t dtype, uint8_t block_log2, const Bytes& values) {
  const auto how = static_cast<ValueMode>(mode);
  const auto what = static_cast<Dtype>(dtype);
  const size_t n = static_cast<size_t>(values.size()) / item_bytes(how, what, block_log2);
  const codec::ValueSource source = {how, what, block_log2, values.data(), n};
  codec::ValueScratch scratch;
  std::vector<uint64_t> counts;
  bool fits;
  {
    py::gil_scoped_release release;
    fits = codec::count_values(source, &scratch, &counts);
  }
  if (!fits) return py::none();
  const auto planes = static_cast<py::ssize_t>(counts.size() / 256);
  return py::array_t<uint64_t>({planes, py::ssize_t{256}}, counts.data());
}

py::tuple read_value_section(uint8_t mode, uint8_t dtype, uint8_t block_log2, uint8_t coder,
                             const py::bytes& data, size_t n) {
  const auto how = static_cast<ValueMode>(mode);
  const auto what = static_cast<Dtype>(dtype);
  const std::string_view view(data);
  Bytes values(static_cast<py::ssize_t>(n * item_bytes(how, what, block_log2)));
  uint8_t* to = values.mutable_data();
  const codec::ValueSection section = {
      how, what, block_log2, coder, reinterpret_cast<const uint8_t*>(view.data()), view.size(), n};
  codec::ValueScratch scratch;
  Reason reason;
  {
    py::gil_scoped_release release;
    reason = codec::read_values(section, &scratch, to);
  }
  return py::make_tuple(static_cast<int>(reason), values);
}

}  // namespace

void bind_values(py::module_& m) {
  m.def("value_section", &value_section, py::arg("mode"), py::arg("dtype"), py::arg("block_log2"),
        py::arg("values"), py::arg("profile"), py::arg("rounding") = py::none(),
        "(coder, section) of the bytes of values in memory, or None where one has no place; "
        "rounding: (seed, stream, first word).");
  m.def("value_counts", &value_counts, py::arg("mode"), py::arg("dtype"), py::arg("block_log2"),
        py::arg("values"),
        "How often each byte occurs in each plane of values in memory, [planes, 256], or None "
        "where one has no place.");
  m.def("read_value_section", &read_value_section, py::arg("mode"), py::arg("dtype"),
        py::arg("block_log2"), py::arg("coder"), py::arg("data"), py::arg("n"),
        "(reason, bytes of n values in memory) of a section.");
}

}  // namespace sparsefl
