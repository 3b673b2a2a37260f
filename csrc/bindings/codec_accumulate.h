// Sums of messages in _codec: Accumulation.
#pragma once

#include <pybind11/pybind11.h>

namespace sparsefl {

void bind_accumulation(pybind11::module_& module);

}  // namespace sparsefl
