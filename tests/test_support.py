import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import sparsefl
from sparsefl.support import Support

SHAPES = [(), (0,), (1,), (7,), (63,), (65,), (8, 8), (257, 129), (3, 0, 2), (2, 3, 5, 7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_masks_come_back(shape, density):
    mask = torch.rand(shape) < density

    support = Support.from_mask(mask)

    assert support.shape == shape
    assert (support.numel, support.nnz) == (mask.numel(), int(mask.sum()))
    assert support.density == (mask.double().mean().item() if mask.numel() else 0.0)
    assert torch.equal(support.to_mask(), mask)
    assert np.array_equal(support.to_numpy_mask(), mask.numpy())
    assert support.indices.tolist() == mask.flatten().nonzero().flatten().tolist()
    for same in (
        Support.from_mask(mask.numpy()),
        Support.from_indices(shape, support.indices),
        Support.from_packed(shape, support.packed),
        Support.from_packed(shape, support.packed.tobytes()),
    ):
        assert same == support
        assert hash(same) == hash(support)


def test_masks_of_any_strides():
    mask = torch.rand(9, 17) < 0.5

    assert torch.equal(Support.from_mask(mask.t()).to_mask(), mask.t())
    assert torch.equal(Support.from_mask(mask[::2, 1:]).to_mask(), mask[::2, 1:])


def test_packed_is_least_significant_bit_first():
    assert Support.from_indices((3, 5), [0, 7, 14]).packed.tolist() == [0x81, 0x40]


def test_the_mask_given_may_change_afterwards():
    mask = np.array([True, False])
    support = Support.from_mask(mask)

    mask[:] = True

    assert support.indices.tolist() == [0]


@pytest.mark.parametrize(("density", "nnz"), [(0.0, 0), (0.1, 51), (0.5, 256), (1.0, 513)])
def test_random_keeps_the_rounded_number(density, nnz):
    assert Support.random((27, 19), density, seed=5).nnz == nnz


def test_random_is_the_same_everywhere():
    assert Support.random((5, 7), 0.2, seed=3).indices.tolist() == [0, 1, 2, 10, 12, 16, 21]
    assert Support.random((64, 64), 0.1, seed=3) != Support.random((64, 64), 0.1, seed=4)


@pytest.mark.parametrize(
    "other",
    [
        Support.from_indices((5, 3), [0, 7, 14]),
        Support.from_indices((15,), [0, 7, 14]),
        Support.from_indices((3, 5), [0, 7]),
        Support.from_indices((3, 5), [0, 7, 13]),
        "another type",
    ],
)
def test_supports_differ_by_content(other):
    support = Support.from_indices((3, 5), [0, 7, 14])

    assert support != other
    assert len({support, other}) == 2


def test_is_immutable():
    support = Support.random((9, 9), 0.5)

    with pytest.raises(AttributeError, match="immutable"):
        support._nnz = 3
    with pytest.raises(AttributeError, match="immutable"):
        del support._nnz
    with pytest.raises(ValueError, match="read-only"):
        support.packed[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        support.indices[0] = 1
    support.to_numpy_mask()[:] = True
    assert support.nnz == int(support.to_numpy_mask().sum())


def test_copies_and_pickles():
    support = Support.random((9, 9), 0.5)

    assert copy.copy(support) is support
    assert copy.deepcopy({"s": support})["s"] is support
    assert pickle.loads(pickle.dumps(support)) == support


def test_says_what_it_is():
    assert repr(Support.from_indices((3, 5), [0, 7, 14])) == (
        "Support(shape=(3, 5), nnz=3, density=0.2, kind='unstructured')"
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Support(), TypeError, "from_mask"),
        (lambda: Support.from_mask(torch.ones(3)), TypeError, "mask must be bool, got float32"),
        (lambda: Support.from_mask([True]), TypeError, "mask must be.*got list"),
        (lambda: Support.from_indices((3,), [0.5]), TypeError, "integers, got float64"),
        (lambda: Support.from_indices((3,), [[1]]), ValueError, "one-dimensional"),
        (lambda: Support.from_indices((3,), [3]), ValueError, r"within \[0, 3\)"),
        (lambda: Support.from_indices((3,), [-1, 2]), ValueError, r"within \[0, 3\)"),
        (lambda: Support.from_indices((3,), [1, 1]), ValueError, "increase strictly"),
        (lambda: Support.from_indices((-3,), []), ValueError, "negative"),
        (lambda: Support.from_packed((9,), b"\0"), ValueError, r"\[2\]"),
        (lambda: Support.from_packed((9,), b"\0\2"), ValueError, "past the last"),
        (lambda: Support.from_packed((9,), [0, 0]), TypeError, "got list"),
        (lambda: Support.random((9,), 1.5), ValueError, "density.*1.5"),
        (lambda: Support.random((9,), 0.5, seed=-1), ValueError, "seed.*-1"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_package_lists_what_it_gives():
    assert sparsefl.Support is Support
    assert set(sparsefl.__all__) <= set(dir(sparsefl))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sparsefl.nonsense  # noqa: B018


def test_digest_is_the_same_in_another_process():
    script = f"""
import sys
sys.path[:0] = {[path for path in sys.path if path]!r}
from sparsefl import Support
print(hash(Support.from_indices((3, 5), [0, 7, 14])))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert int(done.stdout) == hash(Support.from_indices((3, 5), [0, 7, 14]))


@pytest.mark.parametrize("cached", [False, True], ids=["bitmap", "indices"])
@pytest.mark.parametrize("shape", [(1,), (7,), (65,), (257, 129), (2, 3, 5, 7)], ids=str)
def test_positions_are_exchanged(shape, cached):
    support = Support.random(shape, 0.4, seed=1)
    pruned = np.flatnonzero(~support.to_numpy_mask())
    kept = np.flatnonzero(support.to_numpy_mask())
    dropped, grown = kept[::3], pruned[1::2]
    if cached:
        assert len(support.indices) == support.nnz

    changed = support.exchanged(dropped, grown)

    mask = support.to_numpy_mask().ravel()
    mask[dropped], mask[grown] = False, True
    assert np.array_equal(changed.to_numpy_mask().ravel(), mask)
    assert changed == Support.from_mask(mask.reshape(shape))
    assert np.array_equal(changed.indices, np.flatnonzero(mask))
    assert not changed.indices.flags.writeable
    assert support == Support.random(shape, 0.4, seed=1)


def test_bad_exchanges_are_named():
    support = Support.from_indices((2, 4), [1, 2, 6])
    none = np.array([], dtype=np.int64)
    for dropped, grown, match in [
        ([0], none, "dropped must hold only kept positions"),
        (none, [2], "grown must hold no kept positions"),
        ([2, 1], none, "dropped must increase strictly"),
        (none, [3, 3], "grown must increase strictly"),
        (none, [8], r"within \[0, 8\)"),
        ([-1], none, r"within \[0, 8\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            support.exchanged(np.array(dropped), np.array(grown))
