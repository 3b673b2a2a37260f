import copy
import itertools
import pickle

import numpy as np
import pytest
import torch

import sparsefl
from sparsefl import Structure, Support, codec
from sparsefl.structure import parse

SHAPES = [(1, 1), (2, 3), (7, 13), (100, 70), (64, 96), (130, 5, 3, 3), (12, 40, 1, 1), (6, 0)]


def is_made_of(mask: np.ndarray, height: int, width: int) -> bool:
    """Tells by definition whether every rectangle, its taps included, is of one value."""
    tiles = (
        mask[row : row + height, column : column + width]
        for row in range(0, mask.shape[0], height)
        for column in range(0, mask.shape[1], width)
    )
    return all(tile.all() or not tile.any() for tile in tiles)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("structure", ["block:2x3", "block:32x16", "rows:5", "columns:4", "rows"])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_what_is_drawn_in_rectangles_is_made_of_them_edges_included(shape, structure, density):
    grid = parse(structure)
    assert grid is not None

    support = Support.random(shape, density, seed=7, structure=structure)

    height, width = grid.sizes(shape)
    mask = support.to_numpy_mask()
    assert support.has(structure)
    assert is_made_of(mask, height, width)
    blocks = support.blocks(structure)
    assert (blocks.height, blocks.width) == (height, width)
    assert len(blocks.rows) == round(density * np.prod(grid.grid(shape)))
    # Row-major, as the corners of the mask are.
    order = blocks.rows * max(grid.grid(shape)[1], 1) + blocks.columns
    assert bool(np.all(order[:-1] < order[1:]))
    again = np.zeros(grid.grid(shape), dtype=bool)
    again[blocks.rows, blocks.columns] = True
    assert Support.from_blocks(shape, structure, again) == support


@pytest.mark.parametrize("shape", [(12, 18), (5, 7), (1, 6), (6, 1), (9, 8, 3)], ids=str)
def test_the_largest_rectangles_are_found(shape):
    rng = np.random.default_rng(3)
    for height, width in itertools.product((1, 2, 3, 4, 6), repeat=2):
        grid = Structure(height, width)
        kept = rng.random(grid.grid(shape)) < 0.5
        support = Support.from_blocks(shape, grid, kept)
        mask = support.to_numpy_mask()
        for a, b in itertools.product(range(1, shape[0] + 2), range(1, shape[1] + 2)):
            assert support.has((a, b)) == is_made_of(mask, a, b)
        found = support.structure
        if found is None:
            assert not is_made_of(mask, 2, 1)
            assert not is_made_of(mask, 1, 2)
        else:
            rows, columns = found.sizes(shape)
            assert is_made_of(mask, rows, columns)
            assert rows == shape[0] or found.height is not None
            assert columns == shape[1] or found.width is not None


def test_rows_beyond_the_first_count():
    mask = np.ones((300, 64), dtype=bool)
    mask[:64, :32] = False
    assert Support.from_mask(mask).kind == "block"
    mask[299, 63] = False
    assert Support.from_mask(mask).kind == "unstructured"
    taps = np.ones((300, 4, 3, 3), dtype=bool)
    taps[0, 0], taps[1, 1] = False, False
    assert Support.from_mask(taps).has((1, 1))
    taps[299, 2, 1, 1] = False
    assert not Support.from_mask(taps).has((1, 1))


@pytest.mark.parametrize(
    ("support", "kind", "structure"),
    [
        (Support.random((64, 64), 0.1, seed=1), "unstructured", None),
        (Support.random((64, 64, 3, 3), 0.1, seed=1), "unstructured", None),
        # Whole kernels of single pairs of channels, and single positions of a 1x1 convolution.
        (Support.random((64, 64, 3, 3), 0.1, 1, structure=(1, 1)), "unstructured", None),
        (Support.random((256, 256), 0.3, 1, structure=(32, 16)), "block", (32, 16)),
        (Support.random((64, 32, 3, 3), 0.3, 1, structure=(16, 8)), "block", (16, 8)),
        (Support.random((100, 100), 0.3, 1, structure=(32, 32)), "block", (32, 32)),
        (Support.random((64, 30), 0.3, 1, structure="rows"), "rows", (1, None)),
        (Support.random((64, 30, 3, 3), 0.3, 1, structure="rows:16"), "rows", (16, None)),
        (Support.random((64, 30, 3, 3), 0.3, 1, structure="columns"), "columns", (None, 1)),
        (Support.random((30, 64), 0.3, 1, structure="columns:8"), "columns", (None, 8)),
        (Support.from_mask(np.ones((5, 4), bool)), "rows", (None, None)),
        (Support.from_mask(np.zeros((5, 4), bool)), "rows", (None, None)),
        (Support.from_mask(np.ones(5, bool)), "unstructured", None),
        (Support.from_mask(np.ones((5, 0), bool)), "unstructured", None),
    ],
)
def test_kinds(support, kind, structure):
    assert support.kind == kind
    assert support.structure == (None if structure is None else Structure(*structure))


STRUCTURED = [
    Support.random((64, 96), 0.25, seed=2, structure=(16, 32)),
    Support.random((64, 24, 3, 3), 0.25, seed=2, structure="rows:8"),
    Support.random((200, 132), 0.25, seed=2, structure="columns"),
]


@pytest.mark.parametrize("support", STRUCTURED, ids=lambda s: s.kind)
def test_structure_is_kept_by_all_that_keeps_the_positions(support):
    same = [
        Support.from_mask(support.to_mask()),
        Support.from_packed(support.shape, support.packed),
        Support.from_indices(support.shape, support.indices),
        pickle.loads(pickle.dumps(support)),
        copy.deepcopy(support),
        codec.decode_support(codec.encode_support(support), support.shape),
    ]
    for other in same:
        assert other == support
        assert other.structure == support.structure
        assert (hash(other), other.digest) == (hash(support), support.digest)


@pytest.mark.parametrize("support", STRUCTURED, ids=lambda s: s.kind)
def test_messages_of_structured_supports_are_smaller(support):
    shuffled = Support.random(support.shape, support.density, seed=5)
    assert shuffled.nnz == support.nnz
    message = codec.encode_support(support)
    assert 4 * len(message) < len(codec.encode_support(shuffled))


def test_an_exchange_of_blocks_keeps_the_structure_and_one_of_positions_does_not():
    support = Support.from_blocks((64, 64), (32, 32), np.array([[True, False], [False, False]]))
    other = Support.from_blocks((64, 64), (32, 32), np.array([[False, False], [False, True]]))

    assert support.exchanged(support.indices, other.indices) == other
    assert support.exchanged(support.indices, other.indices).kind == "block"
    assert support.exchanged(support.indices[:1], other.indices[:1]).kind == "unstructured"


def test_a_mask_is_checked_for_the_structure_that_is_asked_for():
    mask = Support.random((64, 64), 0.5, seed=1, structure=(16, 16)).to_mask()
    assert Support.from_mask(mask, structure="block:8x16").structure == Structure(16, 16)
    with pytest.raises(ValueError, match=r"mask must be made of whole block:32x32, .* block:16x16"):
        Support.from_mask(mask, structure=(32, 32))
    mask[3, 3] ^= True
    with pytest.raises(ValueError, match="mask must be made of whole rows, it is unstructured"):
        Support.from_mask(mask, structure="rows")
    assert Support.from_mask(mask, structure="unstructured").nnz == int(mask.sum())


def test_says_its_structure():
    text = "Support(shape=(64, 96), nnz=1536, density=0.25, kind='block', structure='block:16x32')"
    assert repr(STRUCTURED[0]) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((16, 32), "block:16x32"),
        ("block:16x32", "block:16x32"),
        ("rows", "rows"),
        ("rows:16", "rows:16"),
        ("columns:1", "columns"),
        ("columns:8", "columns:8"),
        (Structure(None, None), "rows"),
    ],
)
def test_structures_are_read_and_written(given, text):
    assert str(parse(given)) == text
    if given != Structure(None, None):
        assert parse(text) == parse(given)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: parse("blocks"), ValueError, "structure must be .*'block:HEIGHTxWIDTH'.*'blocks'"),
        (lambda: parse("block:0x4"), ValueError, "height must be at least 1, got 0"),
        (lambda: parse("block:4"), ValueError, "got 'block:4'"),
        (lambda: parse(16), TypeError, "got 16"),
        (lambda: parse((4, 4.0)), TypeError, "width must be an int or None, got float"),
        (lambda: Support.random((9,), 0.5, structure="rows"), ValueError, "rows and columns"),
        (lambda: STRUCTURED[0].blocks((64, 64)), ValueError, "support must be made of whole"),
        (lambda: STRUCTURED[0].has("unstructured"), ValueError, "got 'unstructured'"),
        (
            lambda: Support.from_blocks((9, 9), (4, 4), np.ones((2, 2), bool)),
            ValueError,
            r"kept must be \(3, 3\)",
        ),
        (
            lambda: Support.from_blocks((9, 9), (4, 4), torch.ones(3, 3)),
            TypeError,
            "kept must be bool",
        ),
    ],
)
def test_bad_structures_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_package_gives_structures():
    assert sparsefl.Structure is Structure
