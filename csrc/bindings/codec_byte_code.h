// The byte codes by themselves, for tests and measurements.
#pragma once

#include <pybind11/pybind11.h>

namespace sparsefl {

// Adds `byte_code` and `read_byte_code`.
void bind_byte_code(pybind11::module_& module);

}  // namespace sparsefl
