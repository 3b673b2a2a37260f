from typing import Any

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl import models, pruning
from sparsefl.models.resnet import PaddedShortcut

# Softmax regression has nothing to normalise.
SMALL = ("mlp", "cnn", "lenet", "conv2")
DEEP = ("vgg11", "resnet18", "resnet32", "mobilenet")
VARIANTS = [
    ("linear", None),
    *((name, norm) for name in SMALL + DEEP for norm in (None, "batch", "group")),
]
# The decoder reads texts: tests/fl/test_text.py.
OF_IMAGES = tuple(name for name in models.NAMES if name != "transformer")
# Wide enough for every layer to have several groups of channels, and quick.
NARROW = 0.125


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_emnist_cnn_has_the_papers_parameters() -> None:
    assert parameters(models.cnn((1, 28, 28), 62)) == 1_206_590


@pytest.mark.parametrize(
    ("name", "in_shape", "classes", "expected"),
    [
        ("lenet", (1, 28, 28), 10, 61_706),
        ("lenet", (3, 32, 32), 10, 62_006),
        ("conv2", (1, 28, 28), 62, 6_603_710),
        ("vgg11", (3, 32, 32), 10, 9_750_922),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("resnet32", (3, 32, 32), 10, 464_154),
        ("mobilenet", (3, 224, 224), 1000, 4_231_976),
    ],
)
def test_published_parameter_counts(
    name: str, in_shape: tuple[int, int, int], classes: int, expected: int
) -> None:
    assert parameters(models.build(name, in_shape, classes)) == expected


def test_group_norm_has_the_parameters_of_batch_norm() -> None:
    assert parameters(models.resnet18((3, 32, 32), 10, "group")) == 11_173_962


@pytest.mark.parametrize(("width", "millions"), [(0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_mobilenet_widths_have_the_papers_parameters(width: float, millions: float) -> None:
    count = parameters(models.mobilenet((3, 224, 224), 1000, width=width))
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "expected"), [("linear", 7850), ("mlp", 199_210), ("cnn", 1_199_882)]
)
def test_parameter_counts_on_ten_classes(name: str, expected: int) -> None:
    assert parameters(models.build(name, (1, 28, 28), 10)) == expected


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 32, 32), (2, 13, 33)], ids=str)
def test_models_train(name: str, norm: Any, in_shape: tuple[int, int, int]) -> None:
    options = {"width": NARROW} if name in DEEP else {}
    model = models.build(name, in_shape, 7, norm, **options)
    out = model(torch.randn(5, *in_shape))
    assert out.shape == (5, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", *DEEP])
def test_digits_are_large_enough(name: str) -> None:
    model = models.build(name, (1, 8, 8), 10).eval()
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", DEEP)
def test_deep_models_run_at_full_width(name: str) -> None:
    model = models.build(name, (3, 32, 32), 10).eval()
    with torch.no_grad():
        out = model(torch.randn(1, 3, 32, 32))
    assert out.shape == (1, 10)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("name", "kept"), [("vgg11", "pool4"), ("resnet18", "pool"), ("mobilenet", "pool")]
)
def test_pools_leave_something_of_28_pixels(name: str, kept: str) -> None:
    pools = [n for n, m in models.build(name, (1, 28, 28), 10).named_modules() if "pool" in n]
    assert pools[-1] == kept


def test_signal_keeps_its_scale_through_vgg11() -> None:
    out = models.vgg11()(torch.randn(4, 3, 32, 32))
    # With torch's own initialisation it is .02, the last layer's bias.
    assert out.std() > 0.1


@pytest.mark.parametrize("name", ["resnet18", "resnet32", "mobilenet"])
def test_none_is_the_published_norm(name: str) -> None:
    default, batch = (models.build(name, (3, 32, 32), 10, norm) for norm in (None, "batch"))
    assert list(default.state_dict()) == list(batch.state_dict())


def test_parameter_names_say_where_they_are() -> None:
    names = dict(models.resnet18(width=NARROW).named_parameters())
    assert {"conv1.weight", "norm1.bias", "stage4.1.conv2.weight", "fc.weight"} < set(names)
    assert "stage2.0.shortcut.conv.weight" in names
    assert "block13.depthwise.weight" in dict(models.mobilenet(width=NARROW).named_parameters())
    assert "conv8.weight" in dict(models.vgg11(width=NARROW).named_parameters())


def test_padded_shortcut_drops_pixels_and_adds_zeros() -> None:
    x = torch.arange(2 * 3 * 5.0).reshape(1, 2, 3, 5)
    out = PaddedShortcut(2, 5, stride=2)(x)
    assert torch.equal(out[:, :2], x[:, :, [0, 2]][:, :, :, [0, 2, 4]])
    assert out.shape == (1, 5, 2, 3)
    assert not out[:, 2:].any()


@pytest.mark.parametrize("name", OF_IMAGES)
def test_sparsified_model_computes_what_the_masked_one_does(name: str) -> None:
    torch.manual_seed(1)
    in_shape = (3, 32, 32) if name in DEEP else (1, 28, 28)
    options = {"width": NARROW} if name in DEEP else {}
    model = models.build(name, in_shape, 10, **options).eval()
    masks = pruning.magnitude(model, 0.3, scope="layer")
    sparse = sparsefl.sparsify(model, masks)
    for key, mask in masks.items():
        model.get_parameter(key).data.mul_(mask)
    x = torch.randn(3, *in_shape)
    torch.testing.assert_close(sparse(x), model(x), rtol=1e-4, atol=1e-5)
    left = dict(sparsefl.nn.report(sparse).left_dense)
    assert set(left) == set(pruning.left_dense(model))


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("norm", [None, "group"])
def test_synflow_leaves_every_model_a_path(name: str, norm: Any) -> None:
    torch.manual_seed(2)
    # Layers of a residual branch may end empty: the shortcut is a path too.
    options = {} if name == "linear" else {"width": NARROW, "norm": norm}
    model = models.build(name, (3, 32, 32), 10, **options).eval()
    masks = pruning.synflow(model, 0.05, torch.zeros(1, 3, 32, 32), iterations=20)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.05 * total)
    for key, mask in masks.items():
        model.get_parameter(key).data.mul_(mask).abs_()
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(*model(x))


def test_same_seed_gives_the_same_model() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.build("cnn", (1, 28, 28), 10).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("vgg", (1, 28, 28), 10),
            "one of linear, mlp, .*mobilenet, transformer, got 'vgg'",
        ),
        (("cnn", (1, 5, 28), 10), "at least 6 by 6"),
        (("cnn", (28, 28), 10), "channels, height, width"),
        (("lenet", (1, 28, 11), 10), "at least 12 by 12"),
        (("conv2", (1, 3, 3), 10), "at least 4 by 4"),
        (("resnet18", (3, 32, 32), 10, "layer"), "norm must be 'batch', 'group' or None"),
        (("mobilenet", (3, 32, 32), 10, "layer"), "norm must be 'batch', 'group' or None"),
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
