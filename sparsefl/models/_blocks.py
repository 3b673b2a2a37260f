"""What several models are put together from."""

from collections import OrderedDict

from torch import nn

from sparsefl.models._normalisation import Norm, normalisation

Layers = OrderedDict[str, nn.Module]


def add_convolution(
    layers: Layers,
    number: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    padding: int,
    norm: Norm,
) -> None:
    """Append ``conv<number>``, ``norm<number>`` if there is a norm, and ``relu<number>``.

    Before a norm the convolution has no bias: the norm's own takes its place.

    Raises:
        ValueError: if ``norm`` is unknown.
    """
    layers[f"conv{number}"] = nn.Conv2d(
        in_channels, out_channels, kernel_size, padding=padding, bias=norm is None
    )
    if norm is not None:
        layers[f"norm{number}"] = normalisation(norm, out_channels, 2)
    layers[f"relu{number}"] = nn.ReLU()


def add_classifier(layers: Layers, features: int, units: tuple[int, ...], first_relu: int) -> None:
    """Append ``flatten`` and linear layers ``fc1``, ``fc2``, ... with a ReLU between each two.

    Args:
        layers: Where they are appended.
        features: Size of a flattened sample.
        units: Outputs of each linear layer, the last one's the classes.
        first_relu: Number of the first ReLU.
    """
    layers["flatten"] = nn.Flatten()
    for i, out_features in enumerate(units):
        if i:
            layers[f"relu{first_relu + i - 1}"] = nn.ReLU()
        layers[f"fc{i + 1}"] = nn.Linear(features, out_features)
        features = out_features
