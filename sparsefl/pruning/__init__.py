"""Which weights of a model are kept: masks at initialisation, and their change in training.

A rule of masks takes a plain ``torch.nn`` model and gives ``{parameter name: bool tensor}`` for the
weights that :func:`sparsefl.sparsify` makes sparse, depthwise convolutions left out; biases and
norms are never pruned, and what else stays dense (embeddings, recurrent layers, transposed
convolutions) :func:`left_dense` names. ``include_dense=True`` prunes linear and convolution layers
of every kind. The masks fit :func:`sparsefl.sparsify` and :meth:`sparsefl.Support.from_mask`. The
model is left untouched.

Every rule takes a ``structure``, what :func:`sparsefl.structure.parse` reads: ``"rows"`` (output
channels; the filters of a convolution), ``"columns"`` (input channels), ``"rows:16"`` in groups of
16, or ``"block:32x32"``, groups of output by groups of input channels with all taps; a random mask
has no blocks for kernels to use. Rectangles are kept by the mean score of their weights, as many as
come nearest to the count, exactly where their sizes divide it; rules of layer densities keep at
least one a layer, and meet every layer's count to within one.

While a sparse model trains, ``watch_growth`` finds the largest gradients of its pruned weights on a
client, ``grow_prune`` gives them the place of the weakest weights, and ``growth_rate`` and
``cursor`` say how many, and of which layers.
"""

from sparsefl.pruning._prunable import left_dense
from sparsefl.pruning.candidates import candidate, candidates
from sparsefl.pruning.grow_prune import Adjustment, grow_prune, mean_growth, replace_weakest
from sparsefl.pruning.growth import watch_growth
from sparsefl.pruning.magnitude import magnitude
from sparsefl.pruning.random import erdos_renyi, random
from sparsefl.pruning.schedule import Cursor, blocks, cursor, growth_counts, growth_rate
from sparsefl.pruning.synflow import synflow

__all__ = [
    "Adjustment",
    "Cursor",
    "blocks",
    "candidate",
    "candidates",
    "cursor",
    "erdos_renyi",
    "grow_prune",
    "growth_counts",
    "growth_rate",
    "left_dense",
    "magnitude",
    "mean_growth",
    "random",
    "replace_weakest",
    "synflow",
    "watch_growth",
]
