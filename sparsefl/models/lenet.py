"""LeNet-5 in today's form.

Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
recognition" (Proceedings of the IEEE 86), sec. II.B. As is usual now with ReLU for the scaled
tanh, maximum for trained subsampling, every input channel in every output channel of the second
convolution, and linear outputs for radial basis functions: 61,706 parameters on 28x28 grey images,
62,006 on 32x32 colour images.
"""

from collections import OrderedDict

from torch import nn

from sparsefl.models._blocks import Layers, add_classifier, add_convolution
from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape, check_sizes, scaled

CHANNELS = (6, 16)
HIDDEN = (120, 84)
# The paper's images have this side; its 28x28 digits stand in a frame of 2 pixels.
FULL_SIDE = 32
FRAME = 2
LEAST_SIDE = 12


def lenet(
    in_shape: Shape = (1, 28, 28), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return LeNet-5, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image; at least 12 by 12. One with a side of
            less than 32 gets a frame of 2 zeros.
        num_classes: Size of the output.
        norm: Normalisation between each convolution, which then has no bias, and its ReLU. The
            paper has none.
        width: Multiplies the channels and the hidden units.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is too small, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes, LEAST_SIDE)
    channels, *sides = in_shape
    layers: Layers = OrderedDict()
    padding = FRAME if min(sides) < FULL_SIDE else 0
    for i, units in enumerate(CHANNELS, start=1):
        out_channels = scaled(units, width)
        add_convolution(layers, i, channels, out_channels, 5, padding, norm)
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        sides = [(side + 2 * padding - 4) // 2 for side in sides]
        channels, padding = out_channels, 0
    hidden = tuple(scaled(units, width) for units in HIDDEN)
    add_classifier(layers, channels * sides[0] * sides[1], (*hidden, num_classes), first_relu=3)
    return nn.Sequential(layers)
