"""The codec's cases: exact lengths of messages against what they hold, and seconds beside peers.

The kernels beside messages (signs, the largest elements, votes, means) are among them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..goals import CODEC_SIZES, CODEC_SPEED
from ..rows import Row
from . import inputs, sizes, speed
from .tables import line, summary

__all__ = ["TABLES", "line", "measure", "summary"]

TABLES = (CODEC_SIZES, CODEC_SPEED)
# Positions of the points of a smoke test.
QUICK_NUMEL = 1 << 18


def measure(
    tables: Collection[str],
    described: Row,
    done: Collection[tuple[object, ...]] = (),
    *,
    quick: bool = False,
) -> Iterator[list[Row]]:
    """Yield the rows of the chosen tables, point by point.

    Args:
        tables: Some of ``TABLES``; others are not this module's.
        described: What all rows have in common.
        done: Points that are left out.
        quick: Whether to take small points and few runs.
    """
    numel = QUICK_NUMEL if quick else inputs.NUMEL
    if CODEC_SIZES in tables:
        yield from sizes.measure(described, done, numel)
    if CODEC_SPEED in tables:
        yield from speed.measure(described, done, numel, speed.QUICK if quick else speed.EFFORT)
