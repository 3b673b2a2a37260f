"""The CPU kernels on supports made of rows, columns and blocks, against dense torch in float64."""

import pytest
import torch

pytestmark = pytest.mark.isa

STRUCTURES = ["block:16x16", "block:32x8", "rows", "rows:16", "columns", "columns:5", "crossings"]


@pytest.mark.parametrize("kind", ["values", "sign_constant"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("layout", ["sparse", "dense", "compact"])
def test_linear_matches(make_problem, assert_op_matches, set_layout, layout, structure, kind):
    set_layout(layout)
    # Neither size is a multiple of a block's.
    shapes = ((17, 130), (70, 130), (17, 70))
    assert_op_matches(make_problem(*shapes, 0.3, kind, structure=structure))


@pytest.mark.parametrize("structure", ["block:16x16", "rows", "columns:5"])
@pytest.mark.usefixtures("sparse_layout")
def test_linear_in_float64_matches(make_problem, assert_op_matches, structure):
    shapes = ((9, 130), (70, 130), (9, 70))
    assert_op_matches(make_problem(*shapes, 0.3, dtype=torch.float64, structure=structure))


CONVOLUTIONS = {
    "3x3": ((17, 20, 9, 8), (24, 20, 3, 3), (17, 24, 9, 8), 1, 1, 1),
    "3x3-stride-2": ((5, 20, 9, 8), (24, 20, 3, 3), (5, 24, 5, 4), 2, 1, 1),
    "1x1": ((17, 40, 5, 5), (33, 40, 1, 1), (17, 33, 5, 5), 1, 0, 1),
    "groups": ((6, 40, 7, 7), (36, 20, 3, 3), (6, 36, 5, 5), 1, 0, 2),
}


@pytest.mark.parametrize("kind", ["values", "sign_constant"])
@pytest.mark.parametrize("structure", ["block:16x8", "rows", "rows:8", "columns"])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.usefixtures("sparse_layout")
def test_conv2d_matches(make_problem, assert_op_matches, case, structure, kind):
    *shapes, stride, padding, groups = case
    geometry = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1)}
    problem = make_problem(*shapes, 0.4, kind, structure=structure, groups=groups, **geometry)
    assert_op_matches(problem)
