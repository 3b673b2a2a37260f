"""Data sets in memory, the server's development set, and how data falls to clients.

>>> from sparsefl import data
>>> train, test, info = data.load("digits")
>>> rest, dev = data.hold_out(train, count=200, seed=0)
>>> parts = data.partition.dirichlet(data.labels_of(rest), num_clients=10, alpha=0.5, seed=0)
>>> clients = [data.subset(rest, part) for part in parts]
"""

from sparsefl.data import partition
from sparsefl.data.idx import read_idx
from sparsefl.data.images import Images, Info, hold_out, labels_of, subset
from sparsefl.data.registry import NAMES, load, locate

__all__ = [
    "NAMES",
    "Images",
    "Info",
    "hold_out",
    "labels_of",
    "load",
    "locate",
    "partition",
    "read_idx",
    "subset",
]
