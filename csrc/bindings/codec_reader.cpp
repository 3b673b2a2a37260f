#include "bindings/codec_reader.h"

#include "codec/bits.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::Dtype;
using codec::Target;
using codec::TensorSpec;
using codec::ValueMode;

PyObject* refused_type = nullptr;

SchemaTable make_schema(uint64_t fingerprint, const py::array_t<uint64_t>& numels,
                        const py::array_t<uint64_t>& rows, const py::array_t<uint8_t>& dtypes) {
  require(numels.ndim() == 1 && rows.ndim() == 1 && dtypes.ndim() == 1 &&
              numels.size() == dtypes.size() && rows.size() == dtypes.size(),
          "numels, rows and dtypes differ in length");
  SchemaTable table{fingerprint, {}};
  for (py::ssize_t i = 0; i < numels.size(); ++i) {
    const Dtype dtype = static_cast<Dtype>(dtypes.at(i));
    require(codec::item_bytes(dtype) != 0, "unknown dtype");
    table.tensors.push_back({numels.at(i), dtype, rows.at(i)});
  }
  return table;
}

py::dtype memory_dtype(ValueMode mode, Dtype dtype) {
  if (codec::is_sign(mode)) return py::dtype("int8");
  if (mode == ValueMode::kModular) return py::dtype("uint32");
  if (mode != ValueMode::kRaw) return py::dtype("float32");
  switch (dtype) {
    case Dtype::kFloat64:
      return py::dtype("float64");
    case Dtype::kFloat16:
      return py::dtype("float16");
    case Dtype::kInt64:
      return py::dtype("int64");
    case Dtype::kInt32:
      return py::dtype("int32");
    case Dtype::kInt16:
      return py::dtype("int16");
    case Dtype::kInt8:
      return py::dtype("int8");
    case Dtype::kBool:
      return py::dtype("bool");
    default:
      return py::dtype("uint8");
  }
}

}  // namespace

void raise_refused(const codec::Status& status) {
  py::object arguments = py::make_tuple(static_cast<int>(status.reason), status.where);
  PyErr_SetObject(refused_type, arguments.ptr());
  throw py::error_already_set();
}

Reader::Reader(std::shared_ptr<SchemaTable> schema, py::bytes data)
    : schema_(std::move(schema)), data_(std::move(data)) {
  const std::span<const uint8_t> all = bytes();
  codec::Status status;
  {
    py::gil_scoped_release release;
    status = codec::parse(all, schema_->fingerprint, schema_->tensors, &message_);
  }
  if (!status.ok()) raise_refused(status);
}

std::span<const uint8_t> Reader::bytes() const {
  char* begin = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(data_.ptr(), &begin, &size) != 0) throw py::error_already_set();
  return {reinterpret_cast<const uint8_t*>(begin), static_cast<size_t>(size)};
}

py::list Reader::descriptors() const {
  py::list all;
  for (const codec::Descriptor& d : message_.descriptors)
    all.append(py::make_tuple(d.ordinal, static_cast<int>(d.support), static_cast<int>(d.value),
                              d.scale, d.count));
  return all;
}

py::list Reader::sections() const {
  py::list all;
  for (const codec::Descriptor& d : message_.descriptors) {
    uint64_t support_bytes = 0, value_bytes = 0;
    uint32_t support_coders = 0, value_coders = 0;
    for (const codec::Chunk& c : std::span(message_.chunks).subspan(d.first_chunk, d.chunks)) {
      support_bytes += c.support_bytes;
      value_bytes += c.value_bytes;
      support_coders |= 1u << c.support_coder;
      value_coders |= 1u << c.value_coder;
    }
    all.append(py::make_tuple(d.chunks, support_bytes, value_bytes, support_coders, value_coders));
  }
  return all;
}

py::list Reader::read(const py::list& bases, size_t threads) const {
  require(bases.size() == message_.descriptors.size(), "one base a descriptor");
  require(threads > 0, "no threads");
  std::vector<Target> targets;
  std::vector<BaseArrays> held;
  py::list result;
  for (size_t i = 0; i < message_.descriptors.size(); ++i) {
    const codec::Descriptor& d = message_.descriptors[i];
    const TensorSpec& spec = schema_->tensors[d.ordinal];
    const auto base = py::cast<py::tuple>(bases[i]);
    held.push_back(base_of(d, base[0], base[1]));
    Target target{held.back().bitmap, held.back().signs, held.back().count};
    py::object bitmap = py::none();
    py::object values = py::none();
    if (codec::sends_support(d.support)) {
      Bitmap fresh(static_cast<py::ssize_t>((spec.numel + 7) / 8));
      target.bitmap = fresh.mutable_data();
      bitmap = fresh;
    }
    if (d.value != ValueMode::kNone) {
      py::array fresh(memory_dtype(d.value, spec.dtype), static_cast<py::ssize_t>(d.count));
      target.values = static_cast<uint8_t*>(fresh.mutable_data());
      values = fresh;
    }
    targets.push_back(target);
    result.append(py::make_tuple(bitmap, values));
  }
  const std::span<const uint8_t> all = bytes();
  codec::Status status;
  {
    py::gil_scoped_release release;
    status = codec::read(all, schema_->tensors, message_, targets, threads);
  }
  if (!status.ok()) raise_refused(status);
  return result;
}

// The base's signs are as many as its positions, of which the message may state another number:
// the chunks are compared with it before they take a sign.
BaseArrays Reader::base_of(const codec::Descriptor& d, const py::object& bitmap,
                           const py::object& signs) const {
  BaseArrays base;
  if (!codec::takes_base(d.support)) return base;
  const uint64_t numel = schema_->tensors[d.ordinal].numel;
  const auto bits = py::cast<Bitmap>(bitmap);
  const auto size = static_cast<uint64_t>(bits.size());
  require(size == (numel + 7) / 8, "a base has the wrong size");
  base.bitmap = bits.data();
  base.owners.push_back(bits);
  if (d.value != ValueMode::kFlips) return base;
  const auto values = py::cast<SignArray>(signs);
  base.count = static_cast<uint64_t>(values.size());
  require(base.count == codec::popcount(base.bitmap, size),
          "a base has a sign too few or too many");
  base.signs = values.data();
  base.owners.push_back(values);
  return base;
}

void bind_reader(py::module_& m) {
  refused_type = PyErr_NewException("sparsefl._codec.RefusedError", PyExc_Exception, nullptr);
  m.add_object("RefusedError", refused_type);
  py::class_<SchemaTable, std::shared_ptr<SchemaTable>>(m, "SchemaTable")
      .def(py::init(&make_schema), py::arg("fingerprint"), py::arg("numels"), py::arg("rows"),
           py::arg("dtypes"));
  py::class_<Reader>(m, "Reader")
      .def(py::init<std::shared_ptr<SchemaTable>, py::bytes>(), py::arg("schema"), py::arg("data"))
      .def_property_readonly("round", &Reader::round)
      .def_property_readonly("base_fingerprint", &Reader::base_fingerprint)
      .def_property_readonly("descriptors", &Reader::descriptors)
      .def_property_readonly("sections", &Reader::sections)
      .def("read", &Reader::read, py::arg("bases"), py::arg("threads") = 1);
}

}  // namespace sparsefl
