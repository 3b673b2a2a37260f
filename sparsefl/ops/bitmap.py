"""``bitmap_gather``, ``bitmap_scatter``, ``bitmap_add_``: kept elements by a bitmap, on the device.

What a support keeps of a dense tensor, in row-major order, and back: the same bits as
``sparsefl.codec.gather`` and ``add_at``. A plan is made once for each mask; with it kernels neither
wait nor, but for their results, allocate.

Source: bitmap and population count follow Fan et al. 2025, "SpInfer: Leveraging Low-Level Sparsity
for Efficient Large Language Model Inference on GPUs", sec. 4 (there in tiles of 8 x 8).
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sparsefl._codec import add_at, gather
from sparsefl.ops import _dispatch
from sparsefl.ops._arena import BLOCK, BLOCK_BYTES, Arena, arena_of, check_apart, check_flat
from sparsefl.ops._library import LIBRARY, define
from sparsefl.reference import fused_add, unpack_bits
from sparsefl.support import Support

define("bitmap_plan(Tensor bits, Tensor? arena, int n) -> Tensor")
define("bitmap_gather(Tensor x, Tensor bits, Tensor prefix, Tensor? arena, int count) -> Tensor")
define("bitmap_scatter(Tensor values, Tensor bits, Tensor prefix, Tensor? arena, int n) -> Tensor")
define(
    "bitmap_add(Tensor(a!) model, Tensor bits, Tensor prefix, Tensor? arena, Tensor values,"
    " float weight) -> ()"
)


@dataclasses.dataclass(frozen=True, eq=False)
class BitmapPlan:
    """Which elements of an arena are kept, as kernels walk them; make one with :meth:`of`.

    Attributes:
        arena: The tensors.
        bits: Their bitmaps, ``[128 * blocks]`` uint8.
        prefix: Bits set before each block, and of all, ``[blocks + 1]`` int64.
        nnz: Bits set.
    """

    arena: Arena
    bits: Tensor
    prefix: Tensor
    nnz: int

    @classmethod
    def of(
        cls, supports: Support | Sequence[Support], device: torch.device | str = "cpu"
    ) -> "BitmapPlan":
        """Make the plan of one support, or of those of the tensors of an arena, in its order.

        Raises:
            TypeError: if one is no support.
            ValueError: if there is no support.
        """
        supports = [supports] if isinstance(supports, Support) else supports
        for own in supports:
            if not isinstance(own, Support):
                raise TypeError(f"supports: expected Supports, got {type(own).__name__}")
        arena = Arena([support.numel for support in supports])
        bits = np.zeros(arena.blocks * BLOCK_BYTES, np.uint8)
        for part, support in zip(arena.parts(), supports, strict=True):
            bits[part.bits] = support.packed
        moved = torch.from_numpy(bits).to(device)
        nnz = sum(support.nnz for support in supports)
        return cls(arena, moved, _prefix_of(moved, arena), nnz)

    def supports(self, shapes: Iterable[Sequence[int]]) -> list[Support]:
        """Return the tensors' supports; one bit a position crosses to the host.

        Args:
            shapes: Of the tensors.

        Raises:
            ValueError: if they do not fit.
        """
        shapes, bitmaps = list(shapes), self.arena.split(self.bits.cpu())
        if len(shapes) != len(bitmaps):
            raise ValueError(f"shapes: expected those of {len(bitmaps)} tensors, got {len(shapes)}")
        return [
            Support.from_packed(shape, own.numpy())
            for shape, own in zip(shapes, bitmaps, strict=True)
        ]

    def split(self, values: Tensor) -> list[Tensor]:
        """Return the tensors' parts of the kept values, views of ``[nnz]``; waits for the device.

        Raises:
            ValueError: if ``values`` is not ``[nnz]``.
        """
        self._check("values", values, (self.nnz,))
        if len(self.arena.sizes) == 1:
            return [values]
        before = self.prefix.cpu()
        ends = [int(before[part.blocks.stop]) for part in self.arena.parts()]
        return list(values.tensor_split(ends[:-1]))

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a flat float32 tensor on the plan's device.

        Raises:
            TypeError: if it is no float32 tensor.
            ValueError: if its shape or device is another.
        """
        flat, _ = check_flat(name, tensor, None)
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, got {list(tensor.shape)}")
        self._check_device(name, tensor)
        return flat

    def _check_device(self, name: str, tensor: Tensor) -> None:
        if tensor.device != self.bits.device:
            raise ValueError(
                f"{name}: expected the plan's device {self.bits.device}, got {tensor.device}"
            )

    def _indices(self) -> Tensor:
        """Return the kept elements' positions, increasing, without waiting for the device."""
        dropped = ~self.arena.unpack(self.bits)
        return dropped.argsort(stable=True)[: self.nnz]


def bitmap_gather(x: Tensor, plan: BitmapPlan) -> Tensor:
    """Return ``x[bits]``, the kept elements in row-major order, tensor by tensor.

    Args:
        x: Any shape, float32, read row-major, on the plan's device: the arena's elements.
        plan: What is kept.

    Returns:
        ``[nnz]``, float32.

    Raises:
        TypeError: if ``x`` is no float32 tensor, or ``plan`` no plan.
        ValueError: if its elements or device are not the plan's.
    """
    flat, arena = check_flat("x", x, _checked(plan).arena)
    plan._check_device("x", x)
    if not _dispatch.verified("bitmap_gather", x.device):
        return flat[plan._indices()]
    table = arena.table(x.device)
    return torch.ops.sparsefl.bitmap_gather.default(flat, plan.bits, plan.prefix, table, plan.nnz)


def bitmap_scatter(values: Tensor, plan: BitmapPlan) -> Tensor:
    """Return ``x`` with ``x[bits] = values`` and zero elsewhere.

    Args:
        values: ``[nnz]``, float32, on the plan's device.
        plan: What is kept.

    Returns:
        ``[arena.numel]``, float32.

    Raises:
        TypeError: if ``values`` is no float32 tensor, or ``plan`` no plan.
        ValueError: if its shape or device is not the plan's.
    """
    flat, arena = _checked(plan)._check("values", values, (plan.nnz,)), plan.arena
    if not _dispatch.verified("bitmap_scatter", values.device):
        return flat.new_zeros(arena.numel).index_copy_(0, plan._indices(), flat)
    table = arena.table(values.device)
    return torch.ops.sparsefl.bitmap_scatter.default(
        flat, plan.bits, plan.prefix, table, arena.numel
    )


@torch.no_grad()
def bitmap_add_(model: Tensor, plan: BitmapPlan, values: Tensor, weight: float = 1.0) -> Tensor:
    """Add in place: ``model[i_j] += weight * values[j]``, ``i_j`` being the ``j``-th kept element.

    Product and sum are rounded once. Other elements are left as they are.

    Args:
        model: Any shape, float32, contiguous, on the plan's device: the arena's elements.
        plan: What is kept.
        values: ``[nnz]``, float32.
        weight: Factor of all values, rounded to float32.

    Returns:
        ``model``.

    Raises:
        TypeError: if ``model`` or ``values`` is no float32 tensor, ``plan`` no plan, or ``weight``
            no number.
        ValueError: if a shape or device is not the plan's, ``model`` not contiguous, or ``values``
            lies in its memory.
    """
    flat, arena = check_flat("model", model, _checked(plan).arena)
    plan._check_device("model", model)
    if not model.is_contiguous():
        raise ValueError(f"model: expected a contiguous tensor, got strides {model.stride()}")
    added = plan._check("values", values, (plan.nnz,))
    check_apart("values", added, flat)
    if not isinstance(weight, (int, float)):
        raise TypeError(f"weight: expected a number, got {type(weight).__name__}")
    if _dispatch.verified("bitmap_add", model.device):
        torch.ops.sparsefl.bitmap_add.default(
            flat, plan.bits, plan.prefix, arena.table(model.device), added, weight
        )
    else:
        kept = plan._indices()
        flat.index_copy_(0, kept, fused_add(flat[kept], added, weight))
    return model


def _checked(plan: BitmapPlan) -> BitmapPlan:
    if not isinstance(plan, BitmapPlan):
        raise TypeError(
            f"plan: expected a BitmapPlan, as BitmapPlan.of makes, got {type(plan).__name__}"
        )
    return plan


def _prefix_of(bits: Tensor, arena: Arena) -> Tensor:
    if _dispatch.verified("bitmap_plan", bits.device):
        table = arena.table(bits.device)
        return torch.ops.sparsefl.bitmap_plan.default(bits, table, arena.numel)
    return _plain_prefix(bits)


def _plain_prefix(bits: Tensor) -> Tensor:
    kept = unpack_bits(bits, 8 * bits.numel()).view(-1, BLOCK)
    return torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))


@torch.library.register_fake("sparsefl::bitmap_plan", lib=LIBRARY)
def _(bits: Tensor, arena: Tensor | None, n: int) -> Tensor:
    return bits.new_empty(bits.shape[0] // BLOCK_BYTES + 1, dtype=torch.int64)


@torch.library.register_fake("sparsefl::bitmap_gather", lib=LIBRARY)
def _(x: Tensor, bits: Tensor, prefix: Tensor, arena: Tensor | None, count: int) -> Tensor:
    return x.new_empty(count)


@torch.library.register_fake("sparsefl::bitmap_scatter", lib=LIBRARY)
def _(values: Tensor, bits: Tensor, prefix: Tensor, arena: Tensor | None, n: int) -> Tensor:
    return values.new_empty(n)


@torch.library.register_fake("sparsefl::bitmap_add", lib=LIBRARY)
def _(
    model: Tensor,
    bits: Tensor,
    prefix: Tensor,
    arena: Tensor | None,
    values: Tensor,
    weight: float,
) -> None:
    return None


@torch.library.impl("sparsefl::bitmap_plan", "CPU", lib=LIBRARY)
def _(bits: Tensor, arena: Tensor | None, n: int) -> Tensor:
    return _plain_prefix(bits)


@torch.library.impl("sparsefl::bitmap_gather", "CPU", lib=LIBRARY)
def _(x: Tensor, bits: Tensor, prefix: Tensor, arena: Tensor | None, count: int) -> Tensor:
    parts = arena_of(arena, x.numel()).parts()
    kept = [gather(x[p.elements].numpy(), bits[p.bits].numpy()) for p in parts]
    return torch.from_numpy(np.concatenate(kept))


@torch.library.impl("sparsefl::bitmap_scatter", "CPU", lib=LIBRARY)
def _(values: Tensor, bits: Tensor, prefix: Tensor, arena: Tensor | None, n: int) -> Tensor:
    kept = arena_of(arena, n).unpack(bits)
    return torch.zeros(n).masked_scatter_(kept, values)


@torch.library.impl("sparsefl::bitmap_add", "CPU", lib=LIBRARY)
def _(
    model: Tensor,
    bits: Tensor,
    prefix: Tensor,
    arena: Tensor | None,
    values: Tensor,
    weight: float,
) -> None:
    for part in arena_of(arena, model.numel()).parts():
        first, last = (int(prefix[b]) for b in (part.blocks.start, part.blocks.stop))
        own = values[first:last].numpy()
        add_at(model[part.elements].numpy(), bits[part.bits].numpy(), own, weight)
