"""The EMNIST CNN of the federated-learning literature.

Source: the model of FedPT (arXiv 2110.03450) by its layer shapes: conv3x3x32, conv3x3x64, maxpool,
dense 9216->128, dense; 1,206,590 parameters with 62 classes. The model of Reddi et al. 2021
(arXiv 2003.00295) that it goes back to drops out units (.25 after the pool, .5 after the dense
layer); this one does not, so that one seed gives one result whatever torch's generator is.
"""

from collections import OrderedDict

from torch import nn

from sparsefl.models._blocks import Layers, add_classifier, add_convolution
from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape, check_sizes, scaled

CHANNELS = (32, 64)
HIDDEN = 128
# Two 3x3 convolutions without padding and a 2x2 pool leave nothing of smaller images.
LEAST_SIDE = 6


def cnn(
    in_shape: Shape = (1, 28, 28), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return the EMNIST CNN, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image; at least 6 by 6.
        num_classes: Size of the output.
        norm: Normalisation between each convolution, which then has no bias, and its ReLU.
        width: Multiplies the channels and the hidden units: ``width=0.2`` is a narrow model.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is too small, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes, LEAST_SIDE)
    channels, rows, columns = in_shape
    layers: Layers = OrderedDict()
    for i, units in enumerate(CHANNELS, start=1):
        out_channels = scaled(units, width)
        add_convolution(layers, i, channels, out_channels, 3, 0, norm)
        channels = out_channels
    layers["pool"] = nn.MaxPool2d(2)
    features = channels * ((rows - 4) // 2) * ((columns - 4) // 2)
    add_classifier(layers, features, (scaled(HIDDEN, width), num_classes), first_relu=3)
    return nn.Sequential(layers)
