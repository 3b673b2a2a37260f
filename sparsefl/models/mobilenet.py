"""MobileNet: depthwise separable convolutions.

Source: Howard et al. 2017, "MobileNets: efficient convolutional neural networks for mobile vision
applications" (arXiv 1704.04861), table 1, with its width multiplier (sec. 3.3): 4.2 million
parameters with 1000 classes, .5 million at a width of .25. For small images the first convolution
has stride 1 in place of 2, which changes no parameter.

The depthwise layers have a hundredth of the weights; pruning leaves them dense (see
:mod:`sparsefl.pruning`), and so do sparse layers.
"""

from collections import OrderedDict

from torch import nn

from sparsefl.models._blocks import Layers
from sparsefl.models._normalisation import Norm, normalisation
from sparsefl.models._sizes import Shape, check_sizes, scaled

FIRST_CHANNELS = 32
# Output channels and stride of each block.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# The paper's own, where none is asked for.
PAPERS_NORM = "batch"


def mobilenet(
    in_shape: Shape = (3, 32, 32), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return MobileNet v1 for small images, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image, of any size.
        num_classes: Size of the output.
        norm: ``"batch"`` or ``"group"``; None is the paper's, batch.
        width: Multiplies the channels: the paper's alpha, of which it tries .75, .5 and .25.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is not positive, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes)
    kind = norm or PAPERS_NORM
    channels = scaled(FIRST_CHANNELS, width)
    layers: Layers = OrderedDict()
    layers["conv1"] = nn.Conv2d(in_shape[0], channels, 3, padding=1, bias=False)
    layers["norm1"] = normalisation(kind, channels, 2)
    layers["relu1"] = nn.ReLU()
    for i, (units, stride) in enumerate(BLOCKS, start=1):
        out_channels = scaled(units, width)
        layers[f"block{i}"] = _separable(channels, out_channels, stride, kind)
        channels = out_channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)


def _separable(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Module:
    """Return a 3x3 convolution of each channel, then a 1x1 convolution across channels."""
    layers: Layers = OrderedDict()
    layers["depthwise"] = nn.Conv2d(
        in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
    )
    layers["norm1"] = normalisation(norm, in_channels, 2)
    layers["relu1"] = nn.ReLU()
    layers["pointwise"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    layers["norm2"] = normalisation(norm, out_channels, 2)
    layers["relu2"] = nn.ReLU()
    return nn.Sequential(layers)
