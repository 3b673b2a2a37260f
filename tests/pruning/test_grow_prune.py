"""``grow_prune`` against its definition on dense tensors, and what clients and servers share."""

import pytest
import torch

from sparsefl import Support
from sparsefl.ops import Growth
from sparsefl.pruning import grow_prune, mean_growth, replace_weakest


def growth_of(pairs, dtype=torch.float32):
    return Growth(
        torch.tensor([at for at, _ in pairs], dtype=torch.int64),
        torch.tensor([g for _, g in pairs], dtype=dtype),
    )


def by_definition(mask, weight, gradient, count):
    """Returns the new dense mask and weight, by stable sorts of dense tensors."""
    mask, weight, gradient = mask.flatten(), weight.flatten(), gradient.flatten()
    inf = float("inf")
    weakest = weight.abs().masked_fill(~mask, inf).sort(stable=True).indices[:count]
    score = gradient.abs().masked_fill(mask, -inf)
    grown = score.sort(stable=True, descending=True).indices[:count]
    new_mask, new_weight = mask.clone(), weight.clone()
    new_mask[weakest], new_mask[grown] = False, True
    new_weight[weakest], new_weight[grown] = 0.0, 0.0
    return new_mask, new_weight, weakest.sort().values, grown.sort().values


@pytest.mark.parametrize("named", [0.0, 0.1, 1.0], ids="named={}".format)
@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 7), (13, 65), (5, 3, 3, 3)], ids=str)
def test_step_is_the_one_of_dense_tensors(shape, density, named):
    mask = Support.random(shape, density, seed=3)
    dense_mask = mask.to_mask()
    # Few values: equal magnitudes meet.
    weight = torch.randint(-3, 4, shape).float() * dense_mask
    gradient = torch.randint(-3, 4, shape).float() * (torch.rand(shape) < named) * ~dense_mask
    listed = torch.rand(mask.numel) < 0.5
    listed = (listed | (gradient.flatten() != 0)) & ~dense_mask.flatten()
    indices = listed.nonzero().flatten()
    growth = Growth(indices, gradient.flatten()[indices])
    most = min(mask.nnz, mask.numel - mask.nnz)
    for count in sorted({0, min(1, most), most // 2, most}):
        step = grow_prune(mask, weight[dense_mask], growth, count)
        new_mask, new_weight, dropped, grown = by_definition(dense_mask, weight, gradient, count)
        assert torch.equal(step.support.to_mask().flatten(), new_mask)
        assert step.support.nnz == mask.nnz
        assert torch.equal(step.values, new_weight[new_mask])
        assert torch.equal(step.dropped, dropped)
        assert torch.equal(step.grown, grown)


def test_a_client_recomputes_the_drops_from_what_grew():
    support = Support.random((20, 31), 0.2, seed=1)
    values = torch.randn(support.nnz)
    pruned = (~support.to_mask()).flatten().nonzero().flatten()
    step = grow_prune(support, values, Growth(pruned, torch.randn(len(pruned))), 17)
    client = replace_weakest(support, values, step.grown)
    assert client.support == step.support
    assert torch.equal(client.values, step.values)
    assert torch.equal(client.dropped, step.dropped)


def test_the_inputs_are_left_as_they_are():
    support, values = Support.from_indices((2, 3), [0, 4]), torch.tensor([1.0, -0.5])
    grow_prune(support, values, growth_of([(1, 2.0)]), 1)
    assert support.indices.tolist() == [0, 4]
    assert values.tolist() == [1.0, -0.5]


def test_mean_counts_absent_gradients_as_zero():
    received = [growth_of([(1, 3.0), (5, -1.0)]), growth_of([(0, 1.0), (5, -2.0)])]
    mean = mean_growth(received)
    assert mean.indices.tolist() == [0, 1, 5]
    assert mean.values.tolist() == [0.5, 1.5, -1.5]
    assert mean_growth(received, clients=3).values.tolist() == pytest.approx([1 / 3, 1.0, -1.0])


def test_mean_is_rounded_once():
    received = [growth_of([(0, g)]) for g in (1e8, 1.0, -1e8)]
    assert mean_growth(received).values.tolist() == [pytest.approx(1 / 3)]


SUPPORT = Support.from_indices((2, 4), [1, 2, 6])
VALUES = torch.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: grow_prune(SUPPORT, VALUES, growth_of([]), 4), ValueError, r"\[0, 3\], got 4"),
        (
            lambda: grow_prune(SUPPORT, VALUES, growth_of([]), 1.0),
            TypeError,
            "count must be an int",
        ),
        (lambda: grow_prune(SUPPORT, VALUES[1:], growth_of([]), 1), ValueError, r"values .* \[3\]"),
        (lambda: grow_prune(SUPPORT, VALUES, growth_of([(2, 1.0)]), 1), ValueError, "2 is kept"),
        (lambda: grow_prune(SUPPORT, VALUES, growth_of([(8, 1.0)]), 1), ValueError, r"\[0, 8\)"),
        (
            lambda: grow_prune(SUPPORT, VALUES, growth_of([(3, 1.0), (0, 1.0)]), 1),
            ValueError,
            "increase",
        ),
        (
            lambda: grow_prune(SUPPORT, VALUES, growth_of([(3, float("nan"))]), 1),
            ValueError,
            "NaN",
        ),
        (
            lambda: replace_weakest(SUPPORT, VALUES * float("nan"), torch.tensor([0])),
            ValueError,
            "NaN",
        ),
        (lambda: replace_weakest(SUPPORT, VALUES, torch.tensor([1])), ValueError, "grown"),
        (lambda: replace_weakest(SUPPORT, VALUES, torch.tensor([0.5])), TypeError, "int64"),
        (lambda: mean_growth([]), ValueError, "at least one"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
