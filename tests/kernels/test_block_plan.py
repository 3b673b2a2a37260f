import itertools

import numpy as np
import pytest
import torch

import sparsefl
from sparsefl.kernels.block_plan import BlockPlan, block_sides

AWKWARD = [((128, 64), (16, 16)), ((70, 33), (32, 16)), ((1, 1), (16, 16)), ((64, 200), (64, 128))]


def block_mask(shape, block, kept):
    """Expands kept blocks, bool [block rows, block columns], to a mask."""
    whole = np.repeat(np.repeat(kept, block[0], 0), block[1], 1)
    return whole[: shape[0], : shape[1]]


def entries(lists):
    """Returns the group, and the index and block, of each entry."""
    pairs = list(zip(lists.index.tolist(), lists.block.tolist(), strict=True))
    bounds = lists.indptr.tolist()
    return [
        (group, pair)
        for group, (first, last) in enumerate(itertools.pairwise(bounds))
        for pair in pairs[first:last]
    ]


def random_plan(shape, block, density, seed=0):
    grid = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    kept = np.random.default_rng(seed).random(grid) < density
    mask = block_mask(shape, block, kept)
    return kept, torch.from_numpy(mask.copy()), BlockPlan.from_mask(mask, block)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("shape", "block"), AWKWARD)
def test_both_orders_list_the_kept_blocks(shape, block, density):
    kept, _, plan = random_plan(shape, block, density)
    row, column = np.nonzero(kept)
    assert plan.nnzb == row.size
    assert plan.grid == kept.shape
    by_row = [(group, *entry) for group, entry in entries(plan.rows)]
    by_column = [(row, group, block) for group, (row, block) in entries(plan.columns)]
    expected = list(zip(row.tolist(), column.tolist(), range(row.size), strict=True))
    assert by_row == expected
    assert by_column == sorted(expected, key=lambda entry: (entry[1], entry[0]))
    assert plan.row.tolist() == row.tolist()


@pytest.mark.parametrize(("shape", "block"), AWKWARD)
def test_pack_and_unpack_are_inverse(shape, block):
    _, mask, plan = random_plan(shape, block, 0.5)
    weight = torch.randn(shape)
    packed = plan.pack(weight)
    assert packed.shape == plan.packed_shape
    assert torch.equal(plan.unpack(packed), weight * mask)


@pytest.mark.parametrize(
    ("structure", "sides"),
    [
        ("block:96x64", (32, 64)),
        ("block:256x16", (128, 16)),
        ("rows:16", (16, 128)),
        ("columns:48", (128, 16)),
        ("block:8x64", None),
        ("rows", None),
    ],
)
def test_block_sides_are_the_largest_that_fit(structure, sides):
    shape = (768, 640)
    grid = np.zeros(sparsefl.structure.parse_some(structure).grid(shape), bool)
    grid[1:2, :1] = grid[:1, 1:2] = True
    support = sparsefl.Support.from_blocks(shape, structure, grid)
    assert block_sides(support) == sides
    if sides is not None:
        assert BlockPlan.from_mask(support, sides).nnzb * sides[0] * sides[1] == support.nnz


def test_full_keeps_every_block():
    full = BlockPlan.full((70, 33), (32, 16))
    every = BlockPlan.from_mask(sparsefl.Support.from_mask(np.ones((70, 33), bool)), (32, 16))
    assert full.nnzb == 9
    assert torch.equal(full.columns.block, every.columns.block)


def test_a_block_kept_in_part_is_refused():
    mask = np.zeros((64, 64), bool)
    mask[32:48, 16:32] = True
    mask[33, 20] = False
    with pytest.raises(ValueError, match="must be made of whole block:16x16"):
        BlockPlan.from_mask(mask, (16, 16))


def test_a_convolution_is_planned_for_by_its_channels():
    _, mask, plan = random_plan((48, 64), (16, 32), 0.5)
    whole = BlockPlan.from_mask(mask[:, :, None, None].expand(48, 64, 3, 2), (16, 32))
    assert whole.shape == plan.shape
    for ours, theirs in zip(
        (*whole.rows, *whole.columns), (*plan.rows, *plan.columns), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("block", [(8, 16), (16, 48), (256, 16)])
def test_other_block_sides_are_refused(block):
    with pytest.raises(ValueError, match=r"block must be two of \(16, 32, 64, 128\)"):
        BlockPlan.from_mask(np.ones((64, 64), bool), block)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"mask must be \[out, in, \*taps\], got shape \(4,\)"):
        BlockPlan.from_mask(np.ones(4, bool), (16, 16))
    plan = BlockPlan.full((32, 32), (16, 16))
    with pytest.raises(ValueError, match=r"weight must be \[32, 32\], got \[32, 31\]"):
        plan.pack(torch.zeros(32, 31))
    with pytest.raises(ValueError, match=r"values must be \[4, 16, 16\], got \[3, 16, 16\]"):
        plan.unpack(torch.zeros(3, 16, 16))
