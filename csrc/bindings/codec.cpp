// Binds the torch-free half of sparsefl: the wire codec and the seed streams.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/codec_accumulate.h"
#include "bindings/codec_bit_code.h"
#include "bindings/codec_byte_code.h"
#include "bindings/codec_kernels.h"
#include "bindings/codec_reader.h"
#include "bindings/codec_values.h"
#include "bindings/random.h"
#include "codec/bits.h"
#include "codec/crc32c.h"
#include "codec/message.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::Dtype;
using codec::Profile;
using codec::Source;
using codec::SupportMode;
using codec::TensorSpec;
using codec::ValueMode;

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
// None, bitmap of the base | None, signs of the base | None, (seed, stream) of random rounding |
// None)
Source load_source(const SchemaTable& schema, const py::tuple& fields, Sources* sources) {
  require(fields.size() == 10, "a source has ten fields");
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
  if (!fields[9].is_none()) {
    const auto [seed, stream] = py::cast<std::pair<uint64_t, uint64_t>>(fields[9]);
    s.draws = codec::Draws{seed, stream, 0};
  }
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
  Writer(std::shared_ptr<SchemaTable> schema, const py::list& items, bool rans, size_t threads)
      : schema_(std::move(schema)), profile_(rans ? Profile::kRans : Profile::kPlain) {
    require(threads > 0, "no threads");
    const Sources sources = load_sources(*schema_, items);
    codec::Status status;
    {
      py::gil_scoped_release release;
      status = codec::write(schema_->tensors, sources.list, profile_, &draft_, threads);
    }
    require(status.reason != codec::Reason::kCount, "a count is not its bitmap's");
    if (!status.ok()) raise_refused(status);
  }

  uint64_t nbytes() const { return draft_.size(); }

  // (support mode, value mode) of each source, as they stand in the message.
  py::list modes() const {
    py::list all;
    for (const codec::Descriptor& d : draft_.descriptors)
      all.append(py::make_tuple(static_cast<int>(d.support), static_cast<int>(d.value)));
    return all;
  }

  py::bytes finish(uint32_t round, uint64_t base_fingerprint) const {
    const size_t size = draft_.size();
    py::bytes message(nullptr, size);
    auto* begin = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(message.ptr()));
    {
      py::gil_scoped_release release;
      codec::finish(schema_->fingerprint, base_fingerprint, round, profile_, draft_, {begin, size});
    }
    return message;
  }

 private:
  std::shared_ptr<SchemaTable> schema_;
  Profile profile_;
  codec::Draft draft_;
};

void bind_codec(py::module_& m) {
  bind_reader(m);
  py::class_<Writer>(m, "Writer")
      .def(py::init<std::shared_ptr<SchemaTable>, py::list, bool, size_t>(), py::arg("schema"),
           py::arg("sources"), py::arg("rans"), py::arg("threads") = 1)
      .def_property_readonly("nbytes", &Writer::nbytes)
      .def_property_readonly("modes", &Writer::modes)
      .def("finish", &Writer::finish, py::arg("round"), py::arg("base_fingerprint"));
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
        const std::string_view bytes = data;
        return codec::crc32c(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
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
  sparsefl::bind_accumulation(m);
}
