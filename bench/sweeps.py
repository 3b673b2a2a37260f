"""Which points are timed, table by table: sizes, densities and memory order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from .problem import Shape

# The README's table of ops: one density over several shapes, and curves over the density.
OPS = "ops"
LINEAR, CONV, FL, SIGN = "linear", "conv", "fl", "sign"
# The same points as LINEAR and CONV, of the kernels alone.
LINEAR_KERNELS, CONV_KERNELS = "linear_kernels", "conv_kernels"
KERNELS = (LINEAR_KERNELS, CONV_KERNELS)
TABLES = (OPS, LINEAR, LINEAR_KERNELS, CONV, CONV_KERNELS, FL, SIGN)

DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
# The sign ops run the loops of the sparse ones: fewer points show the same curve.
FEW_DENSITIES = (0.01, 0.1, 0.5)
TABLE_DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.01)

MODES = ("fwd", "bwd", "full")
# What the rows of a table are about; a training step where it is not named.
MODES_OF_TABLE = {OPS: MODES}


@dataclasses.dataclass(frozen=True)
class Point:
    """One cell of a sweep.

    Attributes:
        shape: Named sizes.
        density: Share of kept weights.
        table: Where it is shown.
        batch_last: Whether our input and the gradient of our output lie batch-last in memory, as
            between sparse layers; dense torch has them in its own order.
        floor: The least accepted ratio to dense torch of a full step on two threads, if any. Those
            of the tables are in ``goals.py``.
        quick: Whether it is small enough for ``--quick``, which the tests run.
    """

    shape: Shape
    density: float
    table: str = OPS
    batch_last: bool = False
    floor: float | None = None
    quick: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """What of a step is reported."""
        return MODES_OF_TABLE.get(self.table, ("full",))

    @property
    def kernels(self) -> bool:
        """Whether operators are called directly, without autograd."""
        return self.table in KERNELS

    @property
    def wants_bias(self) -> bool:
        """Whether the bias is trained; a ResNet's convolutions have none, norms follow them."""
        return self.table not in (*KERNELS, CONV)


def linear(batch: int, columns: int, rows: int) -> Shape:
    """Name the sizes of a linear layer."""
    return {"batch": batch, "in_features": columns, "out_features": rows}


def conv(
    batch: int, channels: int, size: int, kernel: int = 3, stride: int = 1, out: int | None = None
) -> Shape:
    """Name the sizes of a convolution, with as many output as input channels where not told."""
    sizes = {"batch": batch, "in_channels": channels, "out_channels": out or channels}
    return {**sizes, "size": size, "kernel": kernel, "stride": stride}


def sweeps(
    shape: Shape, floor: float | None = None, densities: tuple[float, ...] = DENSITIES
) -> tuple[Point, ...]:
    """Make a point for each density; the floor is for density 0.1."""
    return tuple(Point(shape, d, floor=floor if d == 0.1 else None) for d in densities)


def table(
    name: str,
    shapes: Sequence[Shape],
    densities: Sequence[float] = TABLE_DENSITIES,
    *,
    batch_last: bool = False,
) -> Iterator[Point]:
    """Make the points of a table."""
    for shape in shapes:
        for density in densities:
            yield Point(shape, density, name, batch_last)


LINEAR_LAYERS = ((512, 512), (1024, 1024), (2048, 2048), (4096, 4096), (1024, 4096), (768, 3072))
# Channels and size of the 3x3 convolutions of ResNet-18 and ResNet-32 on CIFAR's images.
CONV_LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4), (16, 32), (32, 16), (64, 8))
FL_BATCHES = (10, 20, 32)
FL_DENSITIES = (0.2, 0.1, 0.05, 0.01)
FL_LINEAR_LAYERS = ((256, 256), (512, 512), (9216, 128))

SMALL_LINEAR = Point(linear(16, 65, 33), 0.1, quick=True)
SMALL_CONV = Point(conv(16, 8, 6), 0.1, quick=True)
LINEAR_SHAPES = [linear(n, *sizes) for sizes in LINEAR_LAYERS for n in (16, 64, 256)]
CONV_SHAPES = [conv(64, *layer) for layer in CONV_LAYERS]
LINEAR_SWEEP = (
    SMALL_LINEAR,
    dataclasses.replace(SMALL_LINEAR, table=LINEAR_KERNELS),
    *sweeps(linear(64, 1024, 1024), floor=3.5),
    *(Point(linear(batch, 1024, 1024), 0.1) for batch in (1, 16, 50, 256)),
    Point(linear(32, 3136, 512), 0.1),
    Point(linear(32, 256, 64), 0.1),
    *table(LINEAR, LINEAR_SHAPES),
    *table(LINEAR_KERNELS, LINEAR_SHAPES),
    *table(
        FL,
        [linear(n, *sizes) for sizes in FL_LINEAR_LAYERS for n in FL_BATCHES],
        FL_DENSITIES,
        batch_last=True,
    ),
)
# The widest convolution takes half a minute a density on one thread, so only one is timed.
CONV_SWEEP = (
    SMALL_CONV,
    dataclasses.replace(SMALL_CONV, table=CONV_KERNELS),
    *sweeps(conv(64, 64, 8)),
    Point(conv(64, 128, 16), 0.1, floor=2.5),
    Point(conv(64, 64, 8, stride=2), 0.1),
    Point(conv(64, 64, 8, kernel=1), 0.1),
    Point(conv(32, 32, 16), 0.1),
    *table(CONV, CONV_SHAPES, batch_last=True),
    *table(CONV_KERNELS, CONV_SHAPES, batch_last=True),
    *table(
        FL,
        [
            *(conv(n, 32, size, out=64) for size in (28, 14, 7) for n in FL_BATCHES),
            *(conv(n, 64, size, kernel=1) for size in (14, 7) for n in FL_BATCHES),
        ],
        FL_DENSITIES,
        batch_last=True,
    ),
)
SIGN_LINEAR_SWEEP = (
    SMALL_LINEAR,
    *sweeps(linear(64, 1024, 1024), densities=FEW_DENSITIES),
    *table(SIGN, [linear(64, 1024, 1024), linear(64, 4096, 4096)], FEW_DENSITIES),
)
SIGN_CONV_SWEEP = (
    SMALL_CONV,
    *sweeps(conv(64, 64, 8), densities=FEW_DENSITIES),
    *table(SIGN, [conv(64, 64, 8), conv(64, 256, 8)], FEW_DENSITIES, batch_last=True),
)
