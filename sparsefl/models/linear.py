"""Softmax regression: the row below which a method has shown nothing."""

import math
from collections import OrderedDict

from torch import nn

from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape, check_sizes


def linear(in_shape: Shape = (1, 28, 28), num_classes: int = 10, norm: Norm = None) -> nn.Module:
    """Return one linear layer on the flattened image, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        norm: Only None: there is no hidden layer to normalise.

    Raises:
        ValueError: if a size is not positive or ``norm`` is not None.
    """
    check_sizes(in_shape, num_classes)
    if norm is not None:
        raise ValueError(f"norm must be None, the linear model has no hidden layer, got {norm!r}")
    layers = OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(math.prod(in_shape), num_classes))
    return nn.Sequential(layers)
