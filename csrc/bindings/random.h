// The seed streams' face in _codec: bind_streams(module) adds `uniform_bits`, `normal` and
// `normal_table`.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "codec/normal.h"

namespace sparsefl {

inline Isa isa_by_name(const std::optional<std::string>& name) {
  if (!name) return isa();
  for (Isa candidate : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (*name == isa_name(candidate) && candidate <= isa()) return candidate;
  }
  throw pybind11::value_error("isa must be at most " + std::string(isa_name(isa())) + ", got " +
                              *name);
}

inline void bind_streams(pybind11::module_& module) {
  namespace py = pybind11;
  module.def(
      "uniform_bits",
      [](uint64_t seed, uint64_t stream, py::ssize_t n) {
        py::array_t<uint32_t> out(n);
        uint32_t* data = out.mutable_data();
        py::gil_scoped_release release;
        fill_words(seed, stream, n, data);
        return out;
      },
      py::arg("seed"), py::arg("stream"), py::arg("n"), "The first n words of a stream, uint32.");
  module.def(
      "normal",
      [](uint64_t seed, uint64_t stream, py::ssize_t n, float std,
         const std::optional<std::string>& isa) {
        const Isa chosen = isa_by_name(isa);
        py::array_t<float> out(n);
        float* data = out.mutable_data();
        py::gil_scoped_release release;
        fill_normal(seed, stream, n, std, chosen, data);
        return out;
      },
      py::arg("seed"), py::arg("stream"), py::arg("n"), py::arg("std"), py::arg("isa") = py::none(),
      "The first n normals of a stream, float32; isa: an instruction set other than the best.");
  module.def(
      "normal_table",
      [] {
        py::array_t<int32_t> out({kNormalDegree + 1, kNormalOctaves});
        std::copy_n(&kNormalTable[0][0], out.size(), out.mutable_data());
        return out;
      },
      "Coefficients of a normal's polynomials, int32 [degree + 1, octaves]: see normal_table.h.");
}

}  // namespace sparsefl
