"""Rules of masks in rectangles, against their definition in loops of plain torch."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import sparsefl
from sparsefl import Support
from sparsefl.ops import Growth
from sparsefl.pruning import candidate, erdos_renyi, grow_prune, magnitude, random, synflow
from sparsefl.structure import parse

STRUCTURES = ["block:4x8", "block:3x5", "rows", "rows:4", "columns", "columns:3"]


def net() -> nn.Sequential:
    """Sizes that no block divides, taps, and an output layer smaller than some blocks."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 17, 1), nn.Flatten(), nn.Linear(17 * 16, 10)
    )


def divided() -> nn.Sequential:
    """Layers of 16, 4 and 4 blocks of 4x8."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 8), nn.Linear(8, 16))


def rectangles(shape: torch.Size, structure: str) -> list[tuple[slice, slice]]:
    grid = parse(structure)
    assert grid is not None
    height, width = grid.sizes(tuple(shape))
    corners = itertools.product(range(0, shape[0], height), range(0, shape[1], width))
    return [(slice(r, r + height), slice(c, c + width)) for r, c in corners]


def best(scores: dict[str, torch.Tensor], count: int, structure: str) -> dict[str, torch.Tensor]:
    """Keeps rectangles by their mean score, in turn, as long as that brings the count nearer."""
    masks = {name: torch.zeros(one.shape, dtype=torch.bool) for name, one in scores.items()}
    order = sorted(
        ((name, at) for name, one in scores.items() for at in rectangles(one.shape, structure)),
        key=lambda unit: -float(scores[unit[0]][unit[1]].double().mean()),
    )
    kept = 0
    for name, at in order:
        size = masks[name][at].numel()
        if abs(kept + size - count) >= abs(kept - count):
            break
        masks[name][at] = True
        kept += size
    return masks


def equal(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return list(some) == list(others) and all(torch.equal(some[n], others[n]) for n in some)


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_magnitude_keeps_the_rectangles_of_largest_mean(structure, density):
    model = net()
    weights = {n: p.detach().abs() for n, p in model.named_parameters() if "weight" in n}
    total = sum(w.numel() for w in weights.values())
    wanted = best(weights, round(density * total), structure)
    assert equal(magnitude(model, density, structure=structure), wanted)


@pytest.mark.parametrize("structure", ["block:4x8", "rows:3"])
def test_synflow_drops_rectangles_step_by_step(structure):
    model = net()
    masks = synflow(model, 0.2, torch.zeros(2, 3, 6, 6), iterations=4, structure=structure)

    flow = net().double()
    params = dict(flow.named_parameters())
    for tensor in params.values():
        tensor.data.abs_()
    names = [name for name in params if "weight" in name]
    total = sum(params[name].numel() for name in names)
    alive = {name: torch.ones(params[name].shape, dtype=torch.bool) for name in names}
    for step in range(1, 5):
        flow.zero_grad()
        flow(torch.ones(1, 3, 6, 6, dtype=torch.float64)).sum().backward()
        scores = {name: (params[name].grad * params[name].data).abs() for name in names}
        # What is gone is never chosen: the scores of what is left are above 0.
        alive = best(scores, round(0.2 ** (step / 4) * total), structure)
        for name in names:
            params[name].data.mul_(alive[name])
    assert equal(masks, alive)


RULES = {
    "magnitude": magnitude,
    "magnitude by layer": lambda *args, **options: magnitude(*args, scope="layer", **options),
    "random": random,
    "erdos_renyi": erdos_renyi,
    "erdos_renyi magnitude": lambda *args, **options: erdos_renyi(
        *args, select="magnitude", **options
    ),
    "synflow": lambda model, density, **options: synflow(
        model, density, torch.zeros(1, model[0].weight.shape[1], *[6, 6] * ("Conv" in str(model))),
        iterations=3, **options
    ),
    "candidate": lambda model, density, **options: candidate(
        model, density, 3, first_dense=False, output=True, **options
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_rule_keeps_whole_rectangles_near_the_density(rule, structure):
    model = net()
    masks = rule(model, 0.3, structure=structure)
    total = sum(mask.numel() for mask in masks.values())
    sizes = [model.get_parameter(n)[rectangles(m.shape, structure)[0]] for n, m in masks.items()]
    assert abs(kept(masks) - 0.3 * total) <= 0.02 * 0.3 * total + max(s.numel() for s in sizes)
    for name, mask in masks.items():
        assert mask.dtype is torch.bool
        assert mask.shape == model.get_parameter(name).shape
        support = Support.from_mask(mask, structure=structure)
        # As single weights do, a rule over all layers may leave one without any.
        assert support.nnz > 0 or rule in (magnitude, RULES["synflow"])


@pytest.mark.parametrize("rule", ["magnitude", "magnitude by layer", "random", "synflow"])
def test_counts_are_exact_where_rectangles_divide_them(rule):
    masks = RULES[rule](divided(), 0.25, structure="block:4x8")
    assert kept(masks) == (512 + 128 + 128) // 4
    if rule in ("magnitude by layer", "random"):
        assert [int(mask.sum()) for mask in masks.values()] == [128, 32, 32]


@pytest.mark.parametrize("density", [0.23, 0.4, 0.5, 0.77])
def test_what_layers_keep_too_many_the_next_ones_make_up_for(density):
    masks = erdos_renyi(divided(), density, structure="block:4x8")
    assert abs(kept(masks) - density * (512 + 128 + 128)) <= 16


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("select", ["random", "magnitude"])
def test_layer_densities_are_met_to_within_a_rectangle(structure, select):
    model = net()
    exact = erdos_renyi(model, 0.2, select=select)
    masks = erdos_renyi(model, 0.2, select=select, structure=structure)
    for name, mask in masks.items():
        one = mask[rectangles(mask.shape, structure)[0]].numel()
        assert mask.any()
        assert abs(int(mask.sum()) - int(exact[name].sum())) <= one


def test_a_layer_smaller_than_a_block_keeps_it():
    masks = random(net(), 0.05, structure="block:64x64")
    assert all(mask.any() for mask in masks.values())
    assert bool(masks["0.weight"].all())


def test_the_largest_of_a_layer_are_its_best_rectangles():
    model = divided()
    for name, mask in magnitude(model, 0.25, scope="layer", structure="rows").items():
        means = model.get_parameter(name).detach().abs().mean(1)
        rows = mask.all(1)
        assert torch.equal(rows, mask.any(1))
        assert int(rows.sum()) == len(means) // 4
        assert means[rows].min() > means[~rows].max()


def test_drawn_rectangles_repeat_with_the_seed_and_differ_without():
    a, b, c = (random(net(), 0.3, seed=s, structure="block:4x8") for s in (1, 1, 2))
    assert equal(a, b)
    assert not equal(a, c)


def test_without_a_structure_masks_are_as_ever():
    for rule in RULES.values():
        assert equal(rule(net(), 0.3, structure="unstructured"), rule(net(), 0.3))


def test_bad_structures_are_named():
    for rule in RULES.values():
        with pytest.raises(ValueError, match=r"structure must be .*'blocks'"):
            rule(net(), 0.3, structure="blocks")


@pytest.mark.parametrize("layer", ["sparse", "sign"])
def test_sparse_layers_keep_the_structure(layer):
    model = net()
    sparse = sparsefl.sparsify(model, random(model, 0.4, structure="block:4x8"), layer=layer)
    for index in (0, 2, 4):
        assert sparse[index].support.has("block:4x8")
    # All three input channels of the first layer are within one block.
    assert [sparse[index].support.kind for index in (0, 2, 4)] == ["rows", "block", "block"]
    other = sparsefl.sparsify(net(), random(net(), 0.5, structure="rows"), layer=layer)
    sparsefl.nn.load_supports(other, sparse.state_dict())
    assert other[2].support.kind == "block"


def exchanged(support, weight, gradient, count, structure):
    """Gives the mask after an exchange, by definition."""
    mask, alike = support.to_mask(), {}
    for at in rectangles(mask.shape, structure):
        alike.setdefault(bool(mask[at].all()), []).append(at)
    taken = {}
    for state, scores, wanted in ((False, -gradient.abs(), count), (True, weight.abs(), None)):
        order = sorted(alike.get(state, []), key=lambda at: float(scores[at].double().mean()))
        target = taken[False] if wanted is None else wanted
        held = [0, *itertools.accumulate(mask[at].numel() for at in order)]
        number = max(min(range(len(held)), key=lambda n: abs(held[n] - target)), int(target > 0))
        taken[state] = held[number]
        for at in order[:number]:
            mask[at] = not state
    return mask


@pytest.mark.parametrize("shape", [(16, 24), (18, 27), (12, 20, 3, 3)], ids=str)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_rectangles_are_exchanged_by_their_means(shape, structure, share):
    torch.manual_seed(8)
    support = Support.random(shape, 0.4, seed=3, structure=structure)
    weight, gradient = torch.randn(shape), torch.randn(shape)
    count = round(share * support.nnz)
    pruned = (~support.to_mask()).flatten().nonzero().flatten()
    growth = Growth(pruned, gradient.flatten()[pruned])

    step = grow_prune(support, weight[support.to_mask()], growth, count, structure)

    mask = exchanged(support, weight, gradient, count, structure)
    assert torch.equal(step.support.to_mask(), mask)
    assert (count > 0) == (step.support != support)
    wanted = torch.where(mask & support.to_mask(), weight, 0.0)[mask]
    assert torch.equal(step.values, wanted)
    if shape == (16, 24) and structure == "block:4x8":
        assert step.support.nnz == support.nnz


def test_what_growth_does_not_name_counts_as_zero():
    support = Support.from_blocks((4, 6), (2, 2), np.array([[1, 0, 0], [0, 0, 0]], dtype=bool))
    growth = Growth(torch.tensor([2, 23]), torch.tensor([-3.0, 2.0]))
    step = grow_prune(support, torch.ones(4), growth, 4, (2, 2))
    assert step.grown.tolist() == [2, 3, 8, 9]
    assert step.dropped.tolist() == [0, 1, 6, 7]
    nothing = Growth(torch.tensor([], dtype=torch.int64), torch.tensor([]))
    assert grow_prune(support, torch.ones(4), nothing, 4, (2, 2)).grown.tolist() == [2, 3, 8, 9]


def test_an_exchange_needs_whole_rectangles():
    support = Support.random((16, 24), 0.4, seed=3, structure="block:4x8")
    nothing = Growth(torch.tensor([], dtype=torch.int64), torch.tensor([]))
    with pytest.raises(ValueError, match="support must be made of whole rows"):
        grow_prune(support, torch.ones(support.nnz), nothing, 5, "rows")
    pruned = np.flatnonzero(~support.to_numpy_mask())
    with pytest.raises(ValueError, match="must be made of whole block:4x8"):
        sparsefl.pruning.replace_weakest(
            support, torch.ones(support.nnz), torch.from_numpy(pruned[:5]), "block:4x8"
        )
