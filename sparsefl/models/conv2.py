"""Conv-2, the network of PruneFL on FEMNIST.

Source: Jiang et al. 2022, "Model pruning enables efficient federated learning on edge devices"
(IEEE TNNLS, arXiv 1909.12326), sec. V; layer shapes as in the authors' code, which are those of
Caldas et al. 2018 (LEAF, arXiv 1812.01097): conv5x5x32, maxpool, conv5x5x64, maxpool, dense 2048,
dense; 6,603,710 parameters on 28x28 grey images with 62 classes.
"""

from collections import OrderedDict

from torch import nn

from sparsefl.models._blocks import Layers, add_classifier, add_convolution
from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape, check_sizes, scaled

CHANNELS = (32, 64)
HIDDEN = 2048
# Two pools halve the sides.
LEAST_SIDE = 4


def conv2(
    in_shape: Shape = (1, 28, 28), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return Conv-2, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image; at least 4 by 4.
        num_classes: Size of the output.
        norm: Normalisation between each convolution, which then has no bias, and its ReLU. The
            paper has none.
        width: Multiplies the channels and the hidden units.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is too small, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes, LEAST_SIDE)
    channels, rows, columns = in_shape
    layers: Layers = OrderedDict()
    for i, units in enumerate(CHANNELS, start=1):
        out_channels = scaled(units, width)
        add_convolution(layers, i, channels, out_channels, 5, 2, norm)
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        channels = out_channels
    features = channels * (rows // 4) * (columns // 4)
    add_classifier(layers, features, (scaled(HIDDEN, width), num_classes), first_relu=3)
    return nn.Sequential(layers)
