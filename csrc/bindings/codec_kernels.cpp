#include "bindings/codec_kernels.h"

#include <pybind11/numpy.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bindings/codec_require.h"
#include "bindings/random.h"
#include "codec/bits.h"
#include "codec/dense_kernels.h"
#include "codec/rank.h"
#include "codec/top_k.h"

namespace py = pybind11;

namespace sparsefl {
namespace {

using codec::Through;
using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;
using Weights = py::array_t<int32_t, py::array::c_style>;
using IsaName = std::optional<std::string>;

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

size_t size_of(const py::array& array) { return static_cast<size_t>(array.size()); }

// Writes `bits`, of x's size; false where an element is NaN.
bool pack_signs(const Floats& x, Bytes& bits, const IsaName& isa) {
  const codec::DenseKernels& kernels = codec::dense_kernels(isa_by_name(isa));
  require(size_of(bits) == bytes_of(size_of(x)), "a bitmap has the wrong size");
  uint8_t* data = bits.mutable_data();
  py::gil_scoped_release release;
  return kernels.pack_signs(x.data(), size_of(x), data);
}

void unpack_signs(const Bytes& bits, float scale, Floats& out, const IsaName& isa) {
  const codec::DenseKernels& kernels = codec::dense_kernels(isa_by_name(isa));
  const size_t n = size_of(out);
  require_bitmap(bits, n);
  float* data = out.mutable_data();
  py::gil_scoped_release release;
  kernels.unpack_signs(bits.data(), n, scale, n * sizeof(float) >= codec::kStreamingBytes, data);
}

// Returns (bitmap, count) of each array and the values of all of them, or None where one is NaN.
py::object top_k(const std::vector<Floats>& arrays, size_t k, const IsaName& isa) {
  const Isa chosen = isa_by_name(isa);
  std::vector<codec::TopKPart> parts;
  std::vector<Bytes> bitmaps;
  size_t n = 0;
  for (const Floats& x : arrays) {
    bitmaps.push_back(make_bytes(size_of(x)));
    parts.push_back({x.data(), size_of(x), bitmaps.back().mutable_data()});
    n += size_of(x);
  }
  require(k <= n, "more elements are asked for than there are");
  Floats values(static_cast<py::ssize_t>(codec::top_k_capacity(n, k)));
  float* data = values.mutable_data();
  bool sound;
  {
    py::gil_scoped_release release;
    sound = codec::top_k(parts, k, data, chosen);
  }
  if (!sound) return py::none();
  // In place: what the array was larger for goes back.
  values.resize({static_cast<py::ssize_t>(k)}, false);
  py::list supports;
  for (size_t i = 0; i < parts.size(); ++i) {
    supports.append(py::make_tuple(bitmaps[i], parts[i].count));
  }
  return py::make_tuple(supports, values);
}

Floats gather(const Floats& x, const Bytes& bits, const IsaName& isa) {
  const codec::DenseKernels& kernels = codec::dense_kernels(isa_by_name(isa));
  require_bitmap(bits, size_of(x));
  const size_t count = codec::popcount(bits.data(), size_of(bits));
  Floats values(static_cast<py::ssize_t>(count));
  float* data = values.mutable_data();
  py::gil_scoped_release release;
  kernels.gather(x.data(), bits.data(), size_of(x), data, count);
  return values;
}

void add_at(Floats& model, const Bytes& bits, const Floats& values, float weight,
            const IsaName& isa) {
  const codec::DenseKernels& kernels = codec::dense_kernels(isa_by_name(isa));
  require_bitmap(bits, size_of(model));
  require(codec::popcount(bits.data(), size_of(bits)) == size_of(values), "one value a set bit");
  float* data = model.mutable_data();
  py::gil_scoped_release release;
  kernels.add_at(data, bits.data(), size_of(model), values.data(), size_of(values), weight);
}

// The bitmaps of all clients, held.
struct Clients {
  std::vector<const uint8_t*> packed;
  codec::Votes votes;
  Clients(const std::vector<Bytes>& bitmaps, size_t n) {
    require(!bitmaps.empty(), "no client");
    for (const Bytes& bitmap : bitmaps) {
      require_bitmap(bitmap, n);
      packed.push_back(bitmap.data());
    }
    votes = {packed.data(), packed.size(), n};
  }
};

// Writes `negative`, and `tied` unless it is None.
void vote(const std::vector<Bytes>& bitmaps, size_t n, size_t least, Bytes& negative,
          std::optional<Bytes>& tied, const IsaName& isa) {
  const codec::DenseKernels& kernels = codec::dense_kernels(isa_by_name(isa));
  const Clients clients(bitmaps, n);
  require(size_of(negative) == bytes_of(n) && (!tied || size_of(*tied) == bytes_of(n)),
          "a bitmap has the wrong size");
  require(least >= 1, "no vote is needed");
  uint8_t* data = negative.mutable_data();
  uint8_t* tied_data = tied ? tied->mutable_data() : nullptr;
  py::gil_scoped_release release;
  kernels.vote(clients.votes, least, data, tied_data);
}

void mean(const std::vector<Bytes>& bitmaps, const Weights& weights, double unit, Floats& out,
          const IsaName& isa) {
  const codec::DenseKernels& kernels = codec::dense_kernels(isa_by_name(isa));
  const Clients clients(bitmaps, size_of(out));
  require(size_of(weights) == clients.packed.size(), "one weight a client");
  const int32_t* weight = weights.data();
  int64_t total = 0;
  bool even = true;
  for (size_t c = 0; c < clients.packed.size(); ++c) {
    require(weight[c] >= 0, "a weight is negative");
    total += weight[c];
    even = even && weight[c] == weight[0];
  }
  require(total <= INT32_MAX, "the weights' sum overflows");
  float* data = out.mutable_data();
  py::gil_scoped_release release;
  if (even) {
    kernels.even_mean(clients.votes, weight[0], static_cast<int32_t>(total), unit, data);
  } else {
    kernels.mean(clients.votes, weight, static_cast<int32_t>(total), unit, data);
  }
}

void bind_dense(py::module_& m) {
  const auto isa = py::arg("isa") = py::none();
  m.def("pack_signs", &pack_signs, py::arg("x"), py::arg("bits").noconvert(), isa);
  m.def("unpack_signs", &unpack_signs, py::arg("bits"), py::arg("scale"),
        py::arg("out").noconvert(), isa);
  m.def("top_k", &top_k, py::arg("arrays"), py::arg("k"), isa);
  m.def("gather", &gather, py::arg("x"), py::arg("bits").noconvert(), isa);
  m.def("add_at", &add_at, py::arg("model").noconvert(), py::arg("bits"), py::arg("values"),
        py::arg("weight"), isa);
  m.def("vote", &vote, py::arg("packed"), py::arg("n"), py::arg("least"),
        py::arg("negative").noconvert(), py::arg("tied").noconvert(), isa);
  m.def("mean", &mean, py::arg("packed"), py::arg("weights"), py::arg("unit"),
        py::arg("out").noconvert(), isa);
}

}  // namespace

void bind_codec_kernels(py::module_& module) {
  bind_rank(module);
  bind_dense(module);
}

}  // namespace sparsefl
