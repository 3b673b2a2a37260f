from typing import Any

import pytest
import torch
from torch import nn

from sparsefl import models

# Softmax regression has nothing to normalise.
VARIANTS = [("linear", None), *((n, m) for n in ("mlp", "cnn") for m in (None, "batch", "group"))]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_emnist_cnn_has_the_papers_parameters() -> None:
    assert parameters(models.cnn((1, 28, 28), 62)) == 1_206_590


@pytest.mark.parametrize(
    ("name", "expected"), [("linear", 7850), ("mlp", 199_210), ("cnn", 1_199_882)]
)
def test_parameter_counts_on_ten_classes(name: str, expected: int) -> None:
    assert parameters(models.build(name, (1, 28, 28), 10)) == expected


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
@pytest.mark.parametrize("in_shape", [(1, 28, 28), (1, 8, 8), (3, 7, 33)], ids=str)
def test_models_train(name: str, norm: Any, in_shape: tuple[int, int, int]) -> None:
    model = models.build(name, in_shape, 7, norm)
    out = model(torch.randn(5, *in_shape))
    assert out.shape == (5, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        (None, ()),
        ("batch", (nn.BatchNorm1d, nn.BatchNorm2d)),
        ("group", (nn.GroupNorm,)),
    ],
    ids=["none", "batch", "group"],
)
def test_norm_follows_each_hidden_layer(name: str, norm: Any, kinds: Any) -> None:
    model = models.build(name, (1, 28, 28), 10, norm)
    norms = [m for m in model if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm))]
    assert len(norms) == (2 if norm else 0)
    assert all(isinstance(m, kinds) for m in norms)
    assert all(
        isinstance(following, nn.ReLU)
        for previous, following in zip(model, list(model)[1:], strict=False)
        if previous in norms
    )


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    # 6, 13 and 26 units: 60 + 715 + 26 * (13 * 144) + 26 + 270; 40 units twice; at least one unit.
    [("cnn", 0.2, 49_743), ("mlp", 0.2, 33_450), ("cnn", 1e-9, 185)],
)
def test_width_scales_every_hidden_layer(name: str, width: float, expected: int) -> None:
    assert parameters(models.build(name, (1, 28, 28), 10, width=width)) == expected


@pytest.mark.parametrize("width", [0.01, 0.2, 0.33, 1, 2.0])
@pytest.mark.parametrize("norm", [None, "batch", "group"])
def test_every_width_can_be_normalised(width: float, norm: Any) -> None:
    model = models.cnn((1, 9, 8), 3, norm, width)
    assert model(torch.randn(2, 1, 9, 8)).shape == (2, 3)


def test_group_norm_has_eight_groups_or_what_divides_the_channels() -> None:
    groups = [models.cnn(norm="group", width=w).norm1.num_groups for w in (1.0, 0.375, 0.2, 0.1)]
    assert groups == [8, 4, 2, 1]


def test_same_seed_gives_the_same_model() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.build("cnn", (1, 28, 28), 10).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgg", (1, 28, 28), 10), "one of linear, mlp, cnn, got 'vgg'"),
        (("cnn", (1, 5, 28), 10), "at least 6 by 6"),
        (("cnn", (28, 28), 10), "channels, height, width"),
        (("mlp", (1, 0, 28), 10), "channels, height, width"),
        (("mlp", (1, 28, 28), 0), "number of classes"),
        (("cnn", (1, 28, 28), 10, "layer"), "norm must be 'batch', 'group' or None"),
        (("linear", (1, 28, 28), 10, "batch"), "norm must be None"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(*arguments)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("cnn", {"width": 0}, ValueError, "width must be positive"),
        ("cnn", {"width": float("inf")}, ValueError, "width must be positive"),
        ("mlp", {"width": float("nan")}, ValueError, "width must be positive"),
        ("cnn", {"width": "0.5"}, TypeError, "width must be a number, got str"),
        ("cnn", {"depth": 3}, ValueError, "no option depth; it has: width"),
        ("linear", {"width": 0.5}, ValueError, "no option width; it has: none"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_options_are_named(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        models.build(name, (1, 28, 28), 10, **options)
