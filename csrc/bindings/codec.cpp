// Binds the torch-free half of sparsefl: the wire codec and the seed streams.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

namespace py = pybind11;

namespace {

// Seed streams of csrc/codec/philox.h and normal.h.
void bind_streams(py::module_&) {}

}  // namespace

PYBIND11_MODULE(_codec, m) {
  m.doc() = "Wire codec and seed streams of sparsefl; knows no torch.";
  bind_streams(m);
}
