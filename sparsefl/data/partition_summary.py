"""What a partition looks like: examples of each label at each client."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.int64]

# More columns than these make a line of a terminal wrap.
_MOST_LABELS = 12


def label_counts(labels: npt.ArrayLike, parts: Sequence[npt.ArrayLike]) -> IndexArray:
    """Count the examples of each label at each client, ``[clients, labels]``.

    Args:
        labels: Labels of all examples, ``[n]`` of ints, not negative.
        parts: Positions of each client's examples, as :mod:`sparsefl.data.partition` gives them.

    Raises:
        TypeError: if labels are no ints.
        ValueError: if a label is negative.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"labels must be one row of ints, got {array.dtype} {list(array.shape)}")
    if array.size and array.min() < 0:
        raise ValueError(f"labels must not be negative, got {array.min()}")
    width = int(array.max()) + 1 if array.size else 0
    rows = [np.bincount(array[np.asarray(p, np.int64)], minlength=width) for p in parts]
    return np.array(rows, np.int64).reshape(len(rows), width)


def summarise(labels: npt.ArrayLike, parts: Sequence[npt.ArrayLike], most_clients: int = 20) -> str:
    """Describe a partition: a line a client, then what all have in common.

    With at most 12 labels a line shows the examples of each; with more, how many labels there are
    and the share of the most frequent one.

    Args:
        labels: Labels of all examples, ``[n]`` of ints, not negative.
        parts: Positions of each client's examples; at least one client.
        most_clients: Clients that get a line; the others are only counted.

    Raises:
        TypeError: if labels are no ints.
        ValueError: if a label is negative, or there is no client.
    """
    if not len(parts):
        raise ValueError("parts must hold at least one client, got none")
    counts = label_counts(labels, parts)
    sizes = counts.sum(axis=1)
    kinds = (counts > 0).sum(axis=1)
    largest = counts.max(axis=1, initial=0) / np.maximum(sizes, 1)
    wide = counts.shape[1] > _MOST_LABELS
    names = ["labels", "largest"] if wide else [f"label {i}" for i in range(counts.shape[1])]
    rows = [["client", "examples", *names]]
    for i in range(min(len(parts), most_clients)):
        cells = [str(kinds[i]), f"{largest[i]:.0%}"] if wide else [str(n) for n in counts[i]]
        rows.append([str(i), str(sizes[i]), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    if len(parts) > most_clients:
        lines.append(f"and {len(parts) - most_clients} more clients")
    lines.append(
        f"{len(parts)} clients, {sizes.sum()} examples: {sizes.min()} to {sizes.max()} a client, "
        f"median {np.median(sizes):g}; {kinds.min()} to {kinds.max()} labels, the most frequent "
        f"one {largest.mean():.0%} of a client's examples on average"
    )
    return "\n".join(lines)
