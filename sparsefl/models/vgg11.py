"""VGG-11 for small images, the network of PruneFL on CIFAR-10.

Source: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image
recognition" (ICLR, arXiv 1409.1556), table 1, column A; its classifier cut to 512, 512 units and
the weights drawn as He et al. 2015 (arXiv 1502.01852) as in PruneFL (arXiv 1909.12326) and its
authors' code: 9,750,922 parameters on CIFAR-10.
"""

from collections import OrderedDict

from torch import nn

from sparsefl.models._blocks import Layers, add_classifier, add_convolution
from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape, check_sizes, scaled

# Output channels of the convolutions between two pools.
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
HIDDEN = (512, 512)


def vgg11(
    in_shape: Shape = (3, 32, 32), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return VGG-11, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image. A pool that would leave nothing, the last
            one on 28x28 images, is left out.
        num_classes: Size of the output.
        norm: Normalisation between each convolution, which then has no bias, and its ReLU. The
            papers have none.
        width: Multiplies the channels and the hidden units.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is not positive, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes)
    channels, *sides = in_shape
    layers: Layers = OrderedDict()
    number = 0
    for stage, outputs in enumerate(STAGES, start=1):
        for units in outputs:
            number += 1
            out_channels = scaled(units, width)
            add_convolution(layers, number, channels, out_channels, 3, 1, norm)
            channels = out_channels
        if min(sides) > 1:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            sides = [side // 2 for side in sides]
    hidden = tuple(scaled(units, width) for units in HIDDEN)
    features = channels * sides[0] * sides[1]
    add_classifier(layers, features, (*hidden, num_classes), first_relu=number + 1)
    _draw_weights(layers)
    return nn.Sequential(layers)


def _draw_weights(layers: Layers) -> None:
    """Draw hidden weights from ``N(0, 2 / fan_in)``.

    Torch's own have a sixth of that variance, and the signal of ten layers without a norm fades.
    """
    weighted = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in weighted[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
