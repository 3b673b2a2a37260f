"""Data sets in memory, the server's development set, and how data falls to clients.

>>> from sparsefl import data
>>> train, test, info = data.load("digits")
>>> rest, dev = data.hold_out(train, count=200, seed=0)
>>> parts = data.partition.dirichlet(data.labels_of(rest), num_clients=10, alpha=0.5, seed=0)
>>> print(data.summarise(data.labels_of(rest), parts))
>>> clients = [data.subset(rest, part) for part in parts]
>>> own = data.local_split(data.labels_of(clients[0]), dev=0.1, test=0.1, seed=0)
>>> train_of_first = data.subset(clients[0], own.train)
"""

from sparsefl.data import partition
from sparsefl.data.idx import read_idx
from sparsefl.data.images import Images, Info, hold_out, labels_of, subset
from sparsefl.data.local_split import LocalSplit, local_split
from sparsefl.data.partition_summary import label_counts, summarise
from sparsefl.data.registry import NAMES, load, locate

__all__ = [
    "NAMES",
    "Images",
    "Info",
    "LocalSplit",
    "hold_out",
    "label_counts",
    "labels_of",
    "load",
    "local_split",
    "locate",
    "partition",
    "read_idx",
    "subset",
    "summarise",
]
