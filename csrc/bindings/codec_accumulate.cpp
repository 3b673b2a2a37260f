#include "bindings/codec_accumulate.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/codec_reader.h"
#include "bindings/random.h"
#include "codec/accumulate.h"
#include "codec/bits.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::Addend;
using codec::SumType;

SumType sum_type(const py::array& array) {
  if (array.dtype().is(py::dtype::of<float>())) return SumType::kFloat32;
  if (array.dtype().is(py::dtype::of<double>())) return SumType::kFloat64;
  require(array.dtype().is(py::dtype::of<int32_t>()), "sums are float32, float64 or int32");
  return SumType::kInt32;
}

// The memory of `size` sums of a type.
void* sums_in(const py::object& object, uint64_t size, SumType type) {
  auto array = py::cast<py::array>(object);
  require(py::isinstance<py::array>(object) && (array.flags() & py::array::c_style) != 0,
          "sums are not contiguous");
  require(sum_type(array) == type, "sums and weights are of one type");
  require(static_cast<uint64_t>(array.size()) == size, "sums are of the wrong size");
  return array.mutable_data();
}

// Memory between messages, which come one at a time.
class Accumulation {
 public:
  Accumulation(size_t held_bytes, const std::optional<std::string>& isa)
      : memory_(held_bytes, isa_by_name(isa)) {}

  // Each addend: (bitmap of the base | None, signs of the base | None, sums | None, weights |
  // None, whether there is a sum a value).
  void add(const Reader& reader, const py::list& addends, double weight, size_t threads) {
    require(addends.size() == reader.message().descriptors.size(), "one addend a descriptor");
    require(threads > 0, "no threads");
    std::vector<Addend> list;
    std::vector<BaseArrays> held;
    for (size_t i = 0; i < addends.size(); ++i) {
      const auto fields = py::cast<py::tuple>(addends[i]);
      const codec::Descriptor& d = reader.message().descriptors[i];
      held.push_back(reader.base_of(d, fields[0], fields[1]));
      list.push_back(load_addend(reader, d, held.back(), fields));
    }
    const std::span<const uint8_t> bytes = reader.bytes();
    codec::Status status;
    {
      py::gil_scoped_release release;
      status = memory_.add(bytes, reader.schema(), reader.message(), list, weight, threads);
    }
    if (!status.ok()) raise_refused(status);
  }

 private:
  static Addend load_addend(const Reader& reader, const codec::Descriptor& d,
                            const BaseArrays& base, const py::tuple& fields) {
    const uint64_t numel = reader.schema()[d.ordinal].numel;
    Addend a{base.bitmap, base.signs, base.count};
    if (fields[2].is_none()) return a;
    a.type = sum_type(py::cast<py::array>(fields[2]));
    a.ranks = py::cast<bool>(fields[4]);
    require(d.value != codec::ValueMode::kNone && d.value != codec::ValueMode::kModular,
            "a tensor has no values to add");
    require(a.type != SumType::kInt32 || codec::is_sign(d.value), "only signs are counted");
    require(!a.ranks || d.support == codec::SupportMode::kShared, "the base has another support");
    const uint64_t size = a.ranks ? codec::popcount(a.base, (numel + 7) / 8) : numel;
    a.sums = sums_in(fields[2], size, a.type);
    if (!fields[3].is_none()) a.weights = sums_in(fields[3], size, a.type);
    return a;
  }

  codec::Accumulation memory_;
};

}  // namespace

void bind_accumulation(py::module_& m) {
  py::class_<Accumulation>(m, "Accumulation")
      .def(py::init<size_t, const std::optional<std::string>&>(),
           py::arg("held_bytes") = codec::kHeldBytes, py::arg("isa") = py::none())
      .def("add", &Accumulation::add, py::arg("reader"), py::arg("addends"), py::arg("weight"),
           py::arg("threads"));
}

}  // namespace sparsefl
