"""The perceptron with two hidden layers of 200 units.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data"
(AISTATS 2017, arXiv 1602.05629): the "2NN", 199,210 parameters on MNIST.
"""

import math
from collections import OrderedDict

from torch import nn

from sparsefl.models._normalisation import Norm, normalisation
from sparsefl.models._sizes import Shape, check_sizes, scaled

HIDDEN = 200


def mlp(
    in_shape: Shape = (1, 28, 28), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return the 2NN, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        norm: Normalisation between each hidden layer, which then has no bias, and its ReLU.
        width: Multiplies the hidden units.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is not positive, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features, hidden = math.prod(in_shape), scaled(HIDDEN, width)
    for i in (1, 2):
        layers[f"fc{i}"] = nn.Linear(features, hidden, bias=norm is None)
        if norm is not None:
            layers[f"norm{i}"] = normalisation(norm, hidden, 1)
        layers[f"relu{i}"] = nn.ReLU()
        features = hidden
    layers["fc3"] = nn.Linear(hidden, num_classes)
    return nn.Sequential(layers)
