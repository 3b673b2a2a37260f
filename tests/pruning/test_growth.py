"""``watch_growth``: what a training loop gets of its last mini-batch."""

import copy
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsefl
from sparsefl import models
from sparsefl.pruning import random, watch_growth


def dense_gradients(model, masks, run):
    """Returns the gradients of the dense weights of the same model in float64, masked."""
    twin = sparsefl.densify(model).double()
    run(twin).backward()
    return {name: twin.get_parameter(name).grad * ~mask for name, mask in masks.items()}


def check(found, gradients, counts):
    """Asserts that each is the top of the dense gradient, as far as rounding can tell."""
    assert found.keys() == counts.keys()
    for name, (indices, values) in found.items():
        flat = gradients[name].flatten()
        assert len(indices) == counts[name]
        assert bool((indices[1:] > indices[:-1]).all())
        error = 1e-4 * flat.abs().max()
        torch.testing.assert_close(values.double(), flat[indices], rtol=0, atol=float(error))
        rest = flat.abs()
        rest[indices] = 0
        assert rest.max() <= values.abs().min() + error


def problem(dense, shape, density=0.2):
    masks = random(dense, density, seed=1)
    model = sparsefl.sparsify(dense, masks)
    x = torch.randn(shape)

    def run(net):
        return net(x.to(next(net.parameters()).dtype)).square().sum()

    return model, masks, run


@pytest.mark.parametrize(
    ("dense", "shape"),
    [
        (
            lambda: nn.Sequential(nn.Linear(40, 30), nn.ReLU(inplace=True), nn.Linear(30, 5)),
            (7, 40),
        ),
        (lambda: nn.Sequential(nn.Linear(6, 5, bias=False)), (2, 3, 6)),
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)), (5, 4, 7, 6)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", bias=False)), (3, 6, 5)),
        (lambda: models.cnn(width=0.25), (6, 1, 28, 28)),
    ],
    ids=["mlp", "sequence", "groups", "unbatched", "cnn"],
)
def test_growth_is_the_dense_gradients_top(dense, shape):
    model, masks, run = problem(dense(), shape)
    counts = {name: max(1, mask.numel() // 20) for name, mask in masks.items()}
    with watch_growth(model, counts) as found:
        run(model).backward()
    check(found, dense_gradients(model, masks, run), counts)


def test_fused_resnet_of_a_chosen_block():
    model, masks, run = problem(models.resnet32(width=0.5), (3, 3, 12, 12))
    names = [name for name in masks if name.startswith("stage3")]
    counts = dict.fromkeys(names, 30)
    with watch_growth(model, counts) as found:
        run(model).backward()
    check(found, dense_gradients(model, masks, run), counts)


def test_training_is_what_it_is_without_watching():
    model, masks, run = problem(models.resnet32(width=0.25), (3, 3, 12, 12))
    twin = copy.deepcopy(model)
    run(twin).backward()
    with watch_growth(model, dict.fromkeys(masks, 3)):
        run(model).backward()
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, expected.grad)


class Twice(nn.Module):
    """One layer used twice, its weight tied to another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(self.first(x).tanh()).tanh())


def test_uses_of_one_weight_are_summed():
    dense = Twice()
    masks = random(dense, 0.3, seed=1)
    model = sparsefl.sparsify(dense, masks)
    x = torch.randn(4, 6)
    with watch_growth(model, {"first.weight": 5}) as found:
        model(x).square().sum().backward()
    gradients = dense_gradients(model, masks, lambda net: net(x.double()).square().sum())
    check(found, gradients, {"first.weight": 5})


@pytest.mark.parametrize("reentrant", [False, True], ids=["replayed", "reentrant"])
def test_layers_under_a_checkpoint_are_found_once(reentrant):
    model, masks, _ = problem(nn.Sequential(nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 7)), (3, 9))
    x = torch.randn(4, 9, requires_grad=True)
    counts = dict.fromkeys(masks, 4)
    with watch_growth(model, counts) as found:
        checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    check(found, dense_gradients(model, masks, lambda n: n(x.double()).square().sum()), counts)


def test_the_input_is_freed_with_the_backward_pass():
    model, _, _ = problem(nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 7)), (3, 9))
    with watch_growth(model, {"1.weight": 4}):
        hidden = model[0](torch.randn(4, 9))
        held = weakref.ref(hidden.untyped_storage())
        y = model[1](hidden).sum()
        del hidden
        y.backward()
        assert held() is None


def test_hooks_are_gone_afterwards():
    model, _, run = problem(nn.Sequential(nn.Linear(9, 8)), (3, 9))
    with watch_growth(model, {"0.weight": 4}) as found:
        run(model).backward()
    first = found["0.weight"]
    run(model).backward()
    assert found["0.weight"] is first
    assert not model[0]._forward_hooks


def test_none_are_watched_where_no_counts_are_given():
    model, _, run = problem(nn.Sequential(nn.Linear(9, 8)), (3, 9))
    with watch_growth(model, {}) as found:
        run(model).backward()
    assert found == {}


def test_a_missing_and_a_second_backward_pass_are_named():
    model, _, run = problem(nn.Sequential(nn.Linear(9, 8)), (3, 9))

    def watched(passes):
        with watch_growth(model, {"0.weight": 4}):
            loss = run(model)
            for _ in range(passes):
                loss.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match=r"no backward pass .* reached: 0\.weight"):
        watched(0)
    with pytest.raises(RuntimeError, match=r"a second backward pass .* reached 0\.weight"):
        watched(2)


def test_an_input_changed_in_place_is_named():
    model, _, _ = problem(nn.Sequential(nn.Linear(9, 8)), (3, 9))
    model[0].values.requires_grad_(False)

    def watched(x):
        with watch_growth(model, {"0.weight": 4}):
            y = model(x).sum()
            x.zero_()
            y.backward()

    with pytest.raises(RuntimeError, match="changed in place"):
        watched(torch.randn(4, 9))


def test_bad_names_and_counts_are_named():
    model, _, _ = problem(nn.Sequential(nn.Linear(9, 8), nn.ReLU()), (3, 9))
    for counts, error, match in [
        ({"1.weight": 4}, TypeError, r"counts\['1.weight'\] must name the weight"),
        ({"0.bias": 4}, TypeError, r"counts\['0.bias'\] must name the weight"),
        ({"0.weight": 59}, ValueError, r"counts\['0.weight'\] must be in \[0, 58\], got 59"),
    ]:
        with pytest.raises(error, match=match), watch_growth(model, counts):
            pass


def test_a_gradient_that_is_not_a_number_names_the_layer():
    model, _, _ = problem(nn.Sequential(nn.Linear(9, 8)), (3, 9))

    def watched():
        with watch_growth(model, {"0.weight": 4}):
            (model(torch.randn(4, 9)).sum() * float("nan")).backward()

    with pytest.raises(ValueError, match=r"0\.weight: .* not a number"):
        watched()
