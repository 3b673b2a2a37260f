"""The perceptron with two hidden layers of 200 units.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data"
(AISTATS 2017, arXiv 1602.05629): the "2NN", 199,210 parameters on MNIST.
"""

import math
from collections import OrderedDict

from torch import nn

from sparsefl.models._normalisation import Norm, check_sizes, normalisation

HIDDEN = 200


def mlp(
    in_shape: tuple[int, int, int] = (1, 28, 28), num_classes: int = 10, norm: Norm = None
) -> nn.Module:
    """Return the 2NN, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        norm: Normalisation between each hidden layer, which then has no bias, and its ReLU.

    Raises:
        ValueError: if a size is not positive or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features = math.prod(in_shape)
    for i in (1, 2):
        layers[f"fc{i}"] = nn.Linear(features, HIDDEN, bias=norm is None)
        if norm is not None:
            layers[f"norm{i}"] = normalisation(norm, HIDDEN, 1)
        layers[f"relu{i}"] = nn.ReLU()
        features = HIDDEN
    layers["fc3"] = nn.Linear(HIDDEN, num_classes)
    return nn.Sequential(layers)
