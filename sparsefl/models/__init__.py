"""Published models in plain torch.nn, by name.

>>> from sparsefl import models
>>> model = models.build("cnn", in_shape=(1, 28, 28), num_classes=10)
>>> narrow = models.build("cnn", in_shape=(1, 28, 28), num_classes=10, width=0.2)
"""

from sparsefl.models._normalisation import Norm
from sparsefl.models.cnn import cnn
from sparsefl.models.conv2 import conv2
from sparsefl.models.lenet import lenet
from sparsefl.models.linear import linear
from sparsefl.models.mlp import mlp
from sparsefl.models.mobilenet import mobilenet
from sparsefl.models.registry import NAMES, build, options_of
from sparsefl.models.resnet import resnet18, resnet32
from sparsefl.models.transformer import transformer
from sparsefl.models.vgg11 import vgg11

__all__ = [
    "NAMES",
    "Norm",
    "build",
    "cnn",
    "conv2",
    "lenet",
    "linear",
    "mlp",
    "mobilenet",
    "options_of",
    "resnet18",
    "resnet32",
    "transformer",
    "vgg11",
]
