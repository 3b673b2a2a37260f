"""Masks for pruning at initialisation: which weights of a dense model are kept.

Every function takes a plain ``torch.nn`` model and gives ``{parameter name: bool tensor}`` for the
weights of its linear and convolution layers; biases and norms are never pruned, and what else stays
dense (depthwise convolutions, embeddings, recurrent layers) :func:`left_dense` names. The masks fit
:func:`sparsefl.sparsify` and :meth:`sparsefl.Support.from_mask`. The model is left untouched.
"""

from sparsefl.pruning._prunable import left_dense
from sparsefl.pruning.magnitude import magnitude
from sparsefl.pruning.random import erdos_renyi, random
from sparsefl.pruning.synflow import synflow

__all__ = ["erdos_renyi", "left_dense", "magnitude", "random", "synflow"]
