"""The choice of layers, on injected times."""

import itertools

import numpy as np
import pytest

from sparsefl.profiling.verdict import LayerTimes, choose, settle


def total_s(layers, chosen):
    """What a chain costs: every layer, and its conversions where a dense neighbour borders it."""
    total = sum(la.sparse_s if use else la.dense_s for la, use in zip(layers, chosen, strict=True))
    for left in range(len(layers) - 1):
        if chosen[left] != chosen[left + 1]:
            payer = left if chosen[left] else left + 1
            sides = 1 if payer in (0, len(layers) - 1) else 2
            total += (layers[payer].alone_s - layers[payer].sparse_s) / sides
    return total


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_of_a_chain_is_faster(length, seed):
    rng = np.random.default_rng([length, seed])
    layers = [
        LayerTimes(dense, sparse, sparse + conversion)
        for dense, sparse, conversion in rng.uniform(0.1, 1.0, (length, 3)).tolist()
    ]
    every = itertools.product((False, True), repeat=length)
    assert total_s(layers, choose(layers)) == pytest.approx(
        min(total_s(layers, chosen) for chosen in every)
    )


def test_nothing_to_choose_from_is_no_choice():
    assert choose([]) == []


@pytest.mark.parametrize(
    ("middle", "chosen"),
    [
        (LayerTimes(1.0, 1.1, 1.2), [True, True, True]),
        (LayerTimes(1.0, 2.0, 2.1), [True, False, True]),
    ],
    ids=["a little slower", "much slower"],
)
def test_a_slower_layer_between_sparse_ones_is_kept_where_conversions_cost_more(middle, chosen):
    around = LayerTimes(2.0, 0.5, 0.8)
    assert choose([around, middle, around]) == chosen


def test_a_layer_that_is_faster_only_without_conversions_stays_dense_among_dense_ones():
    slow = LayerTimes(1.0, 5.0, 5.0)
    assert choose([slow, LayerTimes(1.0, 0.9, 1.5), slow]) == [False, False, False]


def test_an_alone_time_below_the_other_is_no_gain_from_conversions():
    assert LayerTimes(1.0, 0.9, 0.8).conversion_s == 0


@pytest.mark.parametrize(
    ("dense", "sparse", "recommended", "decided"),
    [
        ([9, 9, 9, 9], [5, 5, 5, 5], [4, 4, 4, 4], "recommended"),
        ([9, 9, 9, 9], [5, 5, 5, 5], [6, 6, 6, 6], "sparse"),
        ([3, 3, 3, 3], [5, 5, 5, 5], [4, 4, 4, 4], "dense"),
        ([9, 9, 9, 9], [5, 5, 5, 5], [4, 4, 6, 6], "recommended"),
        ([9, 9, 9, 9], [5, 5, 5, 5], [5, 5, 5, 5], "recommended"),
    ],
    ids=["fastest", "sparse is faster", "dense is faster", "slower in half", "no difference"],
)
def test_the_whole_step_overrules_the_layers_only_beyond_noise(dense, sparse, recommended, decided):
    samples = {"dense": dense, "sparse": sparse, "recommended": recommended}
    assert settle({name: np.array(taken, float) for name, taken in samples.items()}) == decided


@pytest.mark.parametrize(
    ("slower", "decided"), [(25, "recommended"), (30, "recommended"), (33, "dense"), (50, "dense")]
)
def test_of_many_rounds_a_clear_majority_overrules(slower, decided):
    ratios = np.where(np.arange(50) < slower, 1.08, 0.97)
    samples = {"dense": np.ones(50), "sparse": np.full(50, 2.0), "recommended": ratios}
    assert settle(samples) == decided
