"""Masks for pruning at initialisation: which weights of a dense model are kept.

Every function takes a plain ``torch.nn`` model and gives ``{parameter name: bool tensor}`` for the
weights that :func:`sparsefl.sparsify` makes sparse, depthwise convolutions left out; biases and
norms are never pruned, and what else stays dense (embeddings, recurrent layers, transposed
convolutions) :func:`left_dense` names. ``include_dense=True`` prunes linear and convolution layers
of every kind. The masks fit :func:`sparsefl.sparsify` and :meth:`sparsefl.Support.from_mask`. The
model is left untouched.
"""

from sparsefl.pruning._prunable import left_dense
from sparsefl.pruning.magnitude import magnitude
from sparsefl.pruning.random import erdos_renyi, random
from sparsefl.pruning.synflow import synflow

__all__ = ["erdos_renyi", "left_dense", "magnitude", "random", "synflow"]
