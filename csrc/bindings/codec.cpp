// Binds the torch-free half of sparsefl: the wire codec and the seed streams.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/codec_bit_code.h"
#include "bindings/codec_byte_code.h"
#include "bindings/codec_kernels.h"
#include "bindings/codec_values.h"
#include "bindings/random.h"
#include "codec/bits.h"
#include "codec/crc32c.h"
#include "codec/message.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::Dtype;
using codec::Message;
using codec::Profile;
using codec::Source;
using codec::SupportMode;
using codec::Target;
using codec::TensorSpec;
using codec::ValueMode;
using Bitmap = py::array_t<uint8_t, py::array::c_style>;
using SignArray = py::array_t<int8_t, py::array::c_style>;

constexpr const char* kModule = "sparsefl._codec";

// The dtypes and sizes of a schema's tensors by ordinal, and its fingerprint.
struct SchemaTable {
  uint64_t fingerprint;
  std::vector<TensorSpec> tensors;
};

// `_codec.RefusedError(reason, where)`; the Python side makes a CodecError or a ValueError of it.
PyObject* refused_type = nullptr;

[[noreturn]] void raise_refused(const codec::Status& status) {
  py::object arguments = py::make_tuple(static_cast<int>(status.reason), status.where);
  PyErr_SetObject(refused_type, arguments.ptr());
  throw py::error_already_set();
}

// What the Python side guarantees; a failure is a mistake of ours, not of the user.
void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("_codec: ") + what);
}

std::span<const uint8_t> as_span(const py::bytes& data) {
  char* begin = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(data.ptr(), &begin, &size) != 0) throw py::error_already_set();
  return {reinterpret_cast<const uint8_t*>(begin), static_cast<size_t>(size)};
}

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

// Sources of one message, and the arrays that they point into.
struct Sources {
  std::vector<Source> list;
  std::vector<py::object> owners;
};

// Returns where the bytes of an array lie, null for None.
const uint8_t* hold(const py::handle& array, uint64_t bytes, Sources* sources) {
  if (array.is_none()) return nullptr;
  const py::array held = py::reinterpret_borrow<py::array>(array);
  require(py::isinstance<py::array>(array) && (held.flags() & py::array::c_style) != 0,
          "an array is not contiguous");
  require(static_cast<uint64_t>(held.nbytes()) == bytes, "an array has the wrong size");
  sources->owners.push_back(held);
  return static_cast<const uint8_t*>(held.data());
}

// Each item: (ordinal, support mode, value mode, scale, count or seed, bitmap | None, values |
// None, bitmap of the base | None, signs of the base | None)
Source load_source(const SchemaTable& schema, const py::tuple& fields, Sources* sources) {
  require(fields.size() == 9, "a source has nine fields");
  Source s;
  s.ordinal = py::cast<uint32_t>(fields[0]);
  s.support = static_cast<SupportMode>(py::cast<uint8_t>(fields[1]));
  s.value = static_cast<ValueMode>(py::cast<uint8_t>(fields[2]));
  s.scale = py::cast<float>(fields[3]);
  s.count = py::cast<uint64_t>(fields[4]);
  require(s.ordinal < schema.tensors.size(), "no such ordinal");
  const TensorSpec& spec = schema.tensors[s.ordinal];
  require(s.support != SupportMode::kChanges && s.value != ValueMode::kFlips,
          "the writer chooses what refers to the base");
  require(codec::is_allowed(s.support, s.value, spec.dtype), "modes do not go together");
  const uint64_t item_bytes = codec::memory_item_bytes(s.value, spec.dtype);
  const bool has_bitmap = s.support == SupportMode::kSent || s.support == SupportMode::kShared;
  require(s.support == SupportMode::kSeed || s.count <= spec.numel, "count exceeds the tensor");
  s.bitmap = hold(fields[5], (spec.numel + 7) / 8, sources);
  s.values = hold(fields[6], s.count * item_bytes, sources);
  s.base_bitmap = hold(fields[7], (spec.numel + 7) / 8, sources);
  s.base_signs = reinterpret_cast<const int8_t*>(hold(fields[8], s.count, sources));
  require((s.bitmap != nullptr) == has_bitmap, "a bitmap is missing or not asked for");
  require((s.values != nullptr) == (item_bytes != 0), "values are missing or not asked for");
  require(s.base_bitmap == nullptr || s.support == SupportMode::kSent,
          "a support of the base is not asked for");
  const bool may_flip =
      s.value == ValueMode::kSign && codec::is_allowed(s.support, ValueMode::kFlips, spec.dtype);
  require(s.base_signs == nullptr || may_flip, "signs of the base are not asked for");
  return s;
}

Sources load_sources(const SchemaTable& schema, const py::list& items) {
  Sources sources;
  uint64_t next_ordinal = 0;
  for (const py::handle& item : items) {
    const Source s = load_source(schema, py::cast<py::tuple>(item), &sources);
    require(s.ordinal >= next_ordinal, "ordinal out of order");
    next_ordinal = uint64_t{s.ordinal} + 1;
    sources.list.push_back(s);
  }
  return sources;
}

// A message but for its header.
class Writer {
 public:
  Writer(std::shared_ptr<SchemaTable> schema, const py::list& items, bool rans)
      : schema_(std::move(schema)), profile_(rans ? Profile::kRans : Profile::kPlain) {
    const Sources sources = load_sources(*schema_, items);
    codec::Status status;
    {
      py::gil_scoped_release release;
      status = codec::write(schema_->tensors, sources.list, profile_, &draft_);
    }
    require(status.reason != codec::Reason::kCount, "a count is not its bitmap's");
    if (!status.ok()) raise_refused(status);
  }

  uint64_t nbytes() const { return draft_.bytes.size(); }

  // (support mode, value mode) of each source, as they stand in the message.
  py::list modes() const {
    py::list all;
    for (const codec::Descriptor& d : draft_.descriptors)
      all.append(py::make_tuple(static_cast<int>(d.support), static_cast<int>(d.value)));
    return all;
  }

  py::bytes finish(uint32_t round, uint64_t base_fingerprint) {
    codec::finish(schema_->fingerprint, base_fingerprint, round, profile_, &draft_);
    return {reinterpret_cast<const char*>(draft_.bytes.data()), draft_.bytes.size()};
  }

 private:
  std::shared_ptr<SchemaTable> schema_;
  Profile profile_;
  codec::Draft draft_;
};

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

// A parsed message: what it says is known and checked, its chunks are decoded by read().
class Reader {
 public:
  Reader(std::shared_ptr<SchemaTable> schema, py::bytes data)
      : schema_(std::move(schema)), data_(std::move(data)) {
    const std::span<const uint8_t> bytes = as_span(data_);
    codec::Status status;
    {
      py::gil_scoped_release release;
      status = codec::parse(bytes, schema_->fingerprint, schema_->tensors, &message_);
    }
    if (!status.ok()) raise_refused(status);
  }

  uint32_t round() const { return message_.round; }
  uint64_t base_fingerprint() const { return message_.base_fingerprint; }

  // (ordinal, support mode, value mode, scale, count or seed) of each descriptor.
  py::list descriptors() const {
    py::list all;
    for (const codec::Descriptor& d : message_.descriptors)
      all.append(py::make_tuple(d.ordinal, static_cast<int>(d.support), static_cast<int>(d.value),
                                d.scale, d.count));
    return all;
  }

  // (chunks, bytes of their supports, bytes of their values, coders of supports, coders of values)
  // of each descriptor; coders as bits, bit i for coder i.
  py::list sections() const {
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
      all.append(
          py::make_tuple(d.chunks, support_bytes, value_bytes, support_coders, value_coders));
    }
    return all;
  }

  // Returns (bitmap | None, values | None) of each descriptor. `bases` has (bitmap | None, signs |
  // None) of the base for each: the bitmap where its support is shared or changed, the signs where
  // its values are flips.
  py::list read(const py::list& bases) const {
    require(bases.size() == message_.descriptors.size(), "one base a descriptor");
    std::vector<Target> targets;
    std::vector<py::object> held;
    py::list result;
    for (size_t i = 0; i < message_.descriptors.size(); ++i) {
      const codec::Descriptor& d = message_.descriptors[i];
      const TensorSpec& spec = schema_->tensors[d.ordinal];
      Target target = base_target(d, spec, py::cast<py::tuple>(bases[i]), &held);
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
    const std::span<const uint8_t> bytes = as_span(data_);
    codec::Status status;
    {
      py::gil_scoped_release release;
      status = codec::read(bytes, schema_->tensors, message_, targets);
    }
    if (!status.ok()) raise_refused(status);
    return result;
  }

 private:
  // What read() finds in the base of one descriptor. Its signs are as many as its positions, of
  // which the message may state another number: read() compares them before it takes a sign.
  static Target base_target(const codec::Descriptor& d, const TensorSpec& spec,
                            const py::tuple& base, std::vector<py::object>* held) {
    Target target;
    if (!codec::takes_base(d.support)) return target;
    const auto bitmap = py::cast<Bitmap>(base[0]);
    const auto bytes = static_cast<uint64_t>(bitmap.size());
    require(bytes == (spec.numel + 7) / 8, "a base has the wrong size");
    target.base = bitmap.data();
    held->push_back(bitmap);
    if (d.value != ValueMode::kFlips) return target;
    const auto signs = py::cast<SignArray>(base[1]);
    require(static_cast<uint64_t>(signs.size()) == codec::popcount(bitmap.data(), bytes),
            "a base has a sign too few or too many");
    target.base_signs = signs.data();
    held->push_back(signs);
    return target;
  }

  std::shared_ptr<SchemaTable> schema_;
  py::bytes data_;
  Message message_;
};

void bind_codec(py::module_& m) {
  const std::string name = std::string(kModule) + ".RefusedError";
  refused_type = PyErr_NewException(name.c_str(), PyExc_Exception, nullptr);
  m.add_object("RefusedError", refused_type);
  py::class_<SchemaTable, std::shared_ptr<SchemaTable>>(m, "SchemaTable")
      .def(py::init(&make_schema), py::arg("fingerprint"), py::arg("numels"), py::arg("rows"),
           py::arg("dtypes"));
  py::class_<Writer>(m, "Writer")
      .def(py::init<std::shared_ptr<SchemaTable>, py::list, bool>(), py::arg("schema"),
           py::arg("sources"), py::arg("rans"))
      .def_property_readonly("nbytes", &Writer::nbytes)
      .def_property_readonly("modes", &Writer::modes)
      .def("finish", &Writer::finish, py::arg("round"), py::arg("base_fingerprint"));
  py::class_<Reader>(m, "Reader")
      .def(py::init<std::shared_ptr<SchemaTable>, py::bytes>(), py::arg("schema"), py::arg("data"))
      .def_property_readonly("round", &Reader::round)
      .def_property_readonly("base_fingerprint", &Reader::base_fingerprint)
      .def_property_readonly("descriptors", &Reader::descriptors)
      .def_property_readonly("sections", &Reader::sections)
      .def("read", &Reader::read, py::arg("bases"));
  m.def(
      "block_size",
      [](uint8_t mode) {
        const auto value = static_cast<ValueMode>(mode);
        require(codec::is_block_scaled(value), "the mode has no blocks");
        return 1 << codec::block_log2_of(value);
      },
      py::arg("value_mode"));
  m.def(
      "crc32c",
      [](const py::bytes& data) {
        const std::span<const uint8_t> bytes = as_span(data);
        return codec::crc32c(bytes.data(), bytes.size());
      },
      py::arg("data"));
  m.def("crc32c_path", &codec::crc32c_path);
}

}  // namespace
}  // namespace sparsefl

PYBIND11_MODULE(_codec, m) {
  m.doc() = "Wire codec and seed streams of sparsefl; knows no torch.";
  sparsefl::bind_codec(m);
  sparsefl::bind_streams(m);
  sparsefl::bind_codec_kernels(m);
  sparsefl::bind_bit_code(m);
  sparsefl::bind_byte_code(m);
  sparsefl::bind_values(m);
}
