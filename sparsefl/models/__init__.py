"""Small models in plain torch.nn, by name.

>>> from sparsefl import models
>>> model = models.build("cnn", in_shape=(1, 28, 28), num_classes=10)
>>> narrow = models.build("cnn", in_shape=(1, 28, 28), num_classes=10, width=0.2)
"""

from sparsefl.models._normalisation import Norm
from sparsefl.models.cnn import cnn
from sparsefl.models.linear import linear
from sparsefl.models.mlp import mlp
from sparsefl.models.registry import NAMES, build, options_of

__all__ = ["NAMES", "Norm", "build", "cnn", "linear", "mlp", "options_of"]
