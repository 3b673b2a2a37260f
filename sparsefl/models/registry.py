"""The models by name."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape
from sparsefl.models.cnn import cnn
from sparsefl.models.conv2 import conv2
from sparsefl.models.lenet import lenet
from sparsefl.models.linear import linear
from sparsefl.models.mlp import mlp
from sparsefl.models.mobilenet import mobilenet
from sparsefl.models.resnet import resnet18, resnet32
from sparsefl.models.transformer import transformer
from sparsefl.models.vgg11 import vgg11

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    factory.__name__: factory
    for factory in (
        linear,
        mlp,
        cnn,
        lenet,
        conv2,
        vgg11,
        resnet18,
        resnet32,
        mobilenet,
        transformer,
    )
}
NAMES = tuple(_FACTORIES)
# What every factory takes; the rest of its arguments are its options.
_SHARED = ("in_shape", "num_classes", "norm")


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of a model's own options, ``("width",)`` for most.

    Args:
        name: One of ``NAMES``.

    Raises:
        ValueError: if there is no such model.
    """
    return tuple(key for key in inspect.signature(_factory(name)).parameters if key not in _SHARED)


def build(
    name: str, in_shape: Shape, num_classes: int, norm: Norm = None, **options: Any
) -> nn.Module:
    """Return a freshly initialised model.

    Args:
        name: One of ``NAMES``.
        in_shape: Channels, height and width of an image; ``(1, 1, T)`` of a text.
        num_classes: Size of the output.
        norm: Normalisation of the hidden layers: ``"batch"``, ``"group"``, or None for what the
            published model has, which is batch for the residual networks and MobileNet and none
            for the others.
        options: What else the model takes, ``width=0.5`` for example; see :func:`options_of`.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if there is no such model or option, or it does not take these sizes, this norm
            or this value.
    """
    known = options_of(name)
    if unknown := [key for key in options if key not in known]:
        raise ValueError(
            f"model {name!r} has no option {', '.join(unknown)}; "
            f"it has: {', '.join(known) or 'none'}"
        )
    return _factory(name)(in_shape, num_classes, norm, **options)


def _factory(name: str) -> Callable[..., nn.Module]:
    if name not in _FACTORIES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    return _FACTORIES[name]
