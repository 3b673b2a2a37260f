"""What is encoded: supports, their changes, signs and values, with the bits that they hold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sparsefl.codec import Base, Dense, Schema, Signs, Sparse, SupportOnly, Update, ValueFormat
from sparsefl.codec.bounds import log2_choose
from sparsefl.support import Support

from .entropy import Floats, binary_entropy

NUMEL = 1 << 24
LAYERS, ROW = 32, 512
# Of a lognormal density over layers and rows: supports coded as one whole then take 1.09 and 1.18
# times the bound of their parts.
LAYER_SPREAD, ROW_SPREAD = 0.85, 1.05
MOST_DENSITY = 0.9
TILE = 16
# What rounding may cost, of the values' norm.
LOSS = {"fp32": 0.0, "bf16": 2.0**-8, "int8": 0.05, "int4": 0.5, "ternary": 1.0}

NAME = "w"


@dataclasses.dataclass(frozen=True)
class Content:
    """An update, how it is sent, and the bits that it holds.

    Attributes:
        update: What is sent.
        schema: What both sides know.
        bound_bits: Its information.
        value_format: As of ``encode``.
        base: As of ``encode``.
        dense_bytes: Of its tensors in float32, where that is of interest.
    """

    update: Update
    schema: Schema
    bound_bits: float
    value_format: ValueFormat = "fp32"
    base: Base | None = None
    dense_bytes: int | None = None

    def holds(self, decoded: Update) -> bool:
        """Return whether a decoded update is this one, but for what its format rounds."""
        loss = 0.0 if self.value_format == "fp32" else LOSS[named_format(self)[1]]
        if loss == 0:
            return decoded == self.update
        for name, entry in self.update.items():
            other, before = decoded[name], np.asarray(entry.values)
            if getattr(entry, "support", None) != getattr(other, "support", None):
                return False
            lost = np.linalg.norm(np.asarray(other.values) - before)
            if not lost <= loss * np.linalg.norm(before):
                return False
        return True


def named_format(content: Content) -> tuple[str, str]:
    """Return the one tensor whose format a content names, and the format."""
    if not isinstance(content.value_format, Mapping):
        raise TypeError(f"expected a format by name of the tensor, got {content.value_format!r}")
    ((name, chosen),) = content.value_format.items()
    return name, chosen


def support_of(support: Support) -> Content:
    """Return a support alone; bound ``log2 C(n, k)``."""
    bits = log2_choose(support.numel, support.nnz)
    return Content(_support_update(support), _schema(support.shape), bits)


def _support_update(support: Support) -> Update:
    return Update({NAME: SupportOnly(support)})


def _schema(shape: tuple[int, ...]) -> Schema:
    return Schema({NAME: (shape, "float32")})


def random_support(numel: int, density: float) -> Content:
    """Return positions drawn at random."""
    return support_of(Support.random((numel,), density, seed=0))


def lognormal(count: int, mean: float, spread: float) -> npt.NDArray[np.float64]:
    """Draw densities whose logarithms are normal, ``[count]``, of the given mean but for the cap.

    Args:
        count: How many.
        mean: Their mean.
        spread: Standard deviation of their logarithms.
    """
    drawn = np.exp(spread * np.random.default_rng(0).standard_normal(count))
    return np.minimum(drawn * (mean / drawn.mean()), MOST_DENSITY)


def layers(numel: int, density: float) -> Content:
    """Return layers of lognormal density; bound: the sum of theirs."""
    size = numel // LAYERS
    supports = {
        f"layer{i}": Support.random((size,), one, seed=i)
        for i, one in enumerate(lognormal(LAYERS, density, LAYER_SPREAD))
    }
    bits = sum(log2_choose(size, support.nnz) for support in supports.values())
    update = Update({name: SupportOnly(support) for name, support in supports.items()})
    return Content(update, Schema(dict.fromkeys(supports, ((size,), "float32"))), bits)


def rows(numel: int, density: float) -> Content:
    """Return rows of lognormal density; bound: the sum of ``ROW * H(kept / ROW)``."""
    count = numel // ROW
    wanted = lognormal(count, density, ROW_SPREAD)
    mask = np.random.default_rng(1).random((count, ROW), np.float32) < wanted[:, None]
    content = support_of(Support.from_mask(mask))
    bits = float(ROW * binary_entropy(mask.mean(axis=1)).sum())
    return dataclasses.replace(content, bound_bits=bits)


def blocks(numel: int, density: float) -> Content:
    """Return whole tiles of ``TILE x TILE``; bound: which of them."""
    return _tiled(numel, density, TILE, TILE)


def whole_rows(numel: int, density: float) -> Content:
    """Return whole rows; bound: which of them."""
    return _tiled(numel, density, 1, _side(numel))


def whole_columns(numel: int, density: float) -> Content:
    """Return whole columns; bound: which of them."""
    return _tiled(numel, density, _side(numel), 1)


def _side(numel: int) -> int:
    return 1 << ((numel.bit_length() - 1) // 2)


def _tiled(numel: int, density: float, height: int, width: int) -> Content:
    side = _side(numel)
    grid = Support.random((side // height, side // width), density, seed=0)
    mask = np.repeat(np.repeat(grid.to_numpy_mask(), height, axis=0), width, axis=1)
    content = support_of(Support.from_mask(mask))
    return dataclasses.replace(content, bound_bits=log2_choose(grid.numel, grid.nnz))


def changed(before: Support, count: int) -> tuple[Support, ...]:
    """Drop ``count`` positions at random and add as many; return what is kept, and the new ones."""
    rng = np.random.default_rng(1)
    mask = before.to_numpy_mask().reshape(-1)
    free = np.flatnonzero(~mask)
    added = rng.choice(free, count, replace=False)
    kept = mask.copy()
    kept[rng.choice(before.indices, count, replace=False)] = False
    after = kept.copy()
    after[added] = True
    return tuple(Support.from_mask(mask.reshape(before.shape)) for mask in (kept, after))


def changes(numel: int, density: float, count: int) -> Content:
    """Return ``count`` positions dropped and as many added; bound log2 C(k, d) + log2 C(n-k, a)."""
    before = Support.random((numel,), density, seed=0)
    _, after = changed(before, count)
    bits = log2_choose(before.nnz, count) + log2_choose(numel - before.nnz, count)
    schema = _schema(before.shape)
    return Content(_support_update(after), schema, bits, base={NAME: before})


def additions(numel: int, density: float, count: int) -> Content:
    """Return the same additions where the receiver knows the drops; bound log2 C(n-k+d, a)."""
    before = Support.random((numel,), density, seed=0)
    kept, after = changed(before, count)
    bits = log2_choose(numel - kept.nnz, count)
    return Content(_support_update(after), _schema(before.shape), bits, base={NAME: kept})


def whole(numel: int, density: float, count: int) -> Content:
    """Return the changed support sent whole, against the bound of its changes."""
    return dataclasses.replace(changes(numel, density, count), base=None)


def flips(numel: int, density: float) -> Content:
    """Return signs of which a share differs from the base's; bound ``n * H``."""
    support, signs = _signs(numel, 0.5)
    other = np.where(np.random.default_rng(1).random(numel) < density, -signs, signs)
    bits = numel * float(binary_entropy(np.mean(other != signs)))
    base = {NAME: Signs(support, signs)}
    return Content(Update({NAME: Signs(support, other)}), _schema((numel,)), bits, base=base)


def biased_signs(numel: int, density: float) -> Content:
    """Return signs of which a share is negative, on a support that both sides have."""
    support, signs = _signs(numel, density)
    bits = numel * float(binary_entropy(np.mean(signs < 0)))
    update = Update({NAME: Signs(support, signs)})
    return Content(update, _schema((numel,)), bits, base={NAME: support})


def _signs(numel: int, negative: float) -> tuple[Support, npt.NDArray[np.int8]]:
    drawn = np.random.default_rng(0).random(numel) < negative
    support = Support.from_packed((numel,), np.packbits(np.ones(numel, bool), bitorder="little"))
    return support, np.where(drawn, np.int8(-1), np.int8(1))


def values(numel: int, chosen: str) -> Content:
    """Return values of Student's t with 3 degrees of freedom in a format; bound: their entropy."""
    drawn = student_t(numel)
    return Content(
        Update({NAME: Dense(drawn)}), _schema((numel,)), 0.0, value_format={NAME: chosen}
    )


@functools.lru_cache(maxsize=1)
def student_t(numel: int) -> Floats:
    """Draw ``[numel]`` values of Student's t with 3 degrees of freedom."""
    return np.random.default_rng(0).standard_t(3, numel).astype(np.float32)


@functools.lru_cache(maxsize=1)
def normal(numel: int) -> Floats:
    """Draw ``[numel]`` values of a normal distribution."""
    return np.random.default_rng(0).standard_normal(numel, np.float32)


def largest(dense: Floats, density: float) -> Sparse:
    """Return the largest magnitudes of a tensor, ties to the lowest index."""
    count = round(density * dense.size)
    magnitudes = np.abs(dense)
    least = np.partition(magnitudes, dense.size - count)[dense.size - count]
    mask = magnitudes > least
    ties = np.flatnonzero(magnitudes == least)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return Sparse(Support.from_mask(mask), dense[mask])


def message(dense: Floats, density: float, chosen: str = "int8") -> Content:
    """Return an update's largest magnitudes; bound: support and the entropy of what is rounded."""
    kept = largest(dense, density)
    bits = log2_choose(dense.size, kept.support.nnz)
    return Content(
        Update({NAME: kept}),
        _schema(dense.shape),
        bits,
        value_format={NAME: chosen},
        dense_bytes=dense.nbytes,
    )
