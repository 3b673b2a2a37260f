// Value sections by themselves, for tests and measurements.
#pragma once

#include <pybind11/pybind11.h>

namespace sparsefl {

// Adds `value_section` and `read_value_section`.
void bind_values(pybind11::module_& module);

}  // namespace sparsefl
