// Bit codes one by one, for tests and measurements: what a message chooses is forced here.
#pragma once

#include <pybind11/pybind11.h>

namespace sparsefl {

// Adds `bit_code` and `read_bit_code`.
void bind_bit_code(pybind11::module_& m);

}  // namespace sparsefl
