// The kernels beside messages in _codec: rank space, packed signs, top-k, votes.
#pragma once

#include <pybind11/pybind11.h>

namespace sparsefl {

void bind_codec_kernels(pybind11::module_& module);

}  // namespace sparsefl
