"""When a layer is adjusted, and how much of it: cosine decay, and a cursor over the blocks.

Huang et al. (FedTiny), ICDCS 2023, arXiv 2212.01977; the decay is that of Dettmers and Zettlemoyer,
"Sparse networks from scratch", arXiv 1907.04840, as in Evci et al. 2020, arXiv 1911.11134. The
authors' repository takes the block from the number of the round, and then visits only some blocks
where rounds are skipped; here a cursor says which is next.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import nn

from sparsefl.support import Support

Granularity: TypeAlias = Literal["entire", "block", "layer"]


def growth_rate(epoch: float, stop: float, alpha: float = 0.3) -> float:
    """Return the share of kept weights to exchange, ``alpha / 2 * (1 + cos(pi * epoch / stop))``.

    Args:
        epoch: Local epochs so far, ``t``.
        stop: Local epochs after which nothing is exchanged, ``R_stop * E``.
        alpha: The share at the start, in [0, 1].

    Returns:
        The share; 0 from ``stop`` on.

    Raises:
        ValueError: if ``epoch`` is negative, ``stop`` not positive, or ``alpha`` outside [0, 1].
    """
    if epoch < 0:
        raise ValueError(f"epoch must not be negative, got {epoch}")
    if stop <= 0:
        raise ValueError(f"stop must be positive, got {stop}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return alpha / 2 * (1 + math.cos(math.pi * epoch / stop)) if epoch < stop else 0.0


def growth_counts(supports: Mapping[str, Support], rate: float) -> dict[str, int]:
    """Return how many weights each layer exchanges: ``ceil(rate * nnz)``.

    Args:
        supports: The kept positions by parameter name.
        rate: Share of the kept weights, in [0, 1].

    Returns:
        Counts by parameter name, no more than the layer has pruned positions.

    Raises:
        ValueError: if ``rate`` is outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    return {
        name: min(math.ceil(rate * support.nnz), support.numel - support.nnz)
        for name, support in supports.items()
    }


@dataclass(frozen=True)
class Cursor:
    """Which weights are adjusted next, in a cycle.

    Attributes:
        blocks: Parameter names of each block, in the order of their turns.
        at: Number of the block whose turn it is.
    """

    blocks: tuple[tuple[str, ...], ...]
    at: int = 0

    def __post_init__(self) -> None:
        """Check that there is such a block.

        Raises:
            ValueError: if there are no blocks, or ``at`` is none of them.
        """
        if not 0 <= self.at < len(self.blocks):
            raise ValueError(f"at must be in [0, {len(self.blocks)}), got {self.at}")

    @property
    def current(self) -> tuple[str, ...]:
        """Parameter names of the block whose turn it is."""
        return self.blocks[self.at]

    def advanced(self) -> "Cursor":
        """Return the cursor at the next block, after the last one at the first."""
        return replace(self, at=(self.at + 1) % len(self.blocks))


def cursor(model: nn.Module, names: Iterable[str], granularity: Granularity = "block") -> Cursor:
    """Return a cursor over the weights ``names``, from the output of the model to its input.

    Args:
        model: The model, plain or sparsified.
        names: Parameter names of the weights, as in the masks.
        granularity: What has its turn together: the "entire" model, a "block" of
            :func:`blocks`, or a "layer".

    Raises:
        ValueError: if ``granularity`` is unknown, there are no names, or the model has no module of
            a name.
    """
    if granularity not in ("entire", "block", "layer"):
        raise ValueError(f"granularity must be 'entire', 'block' or 'layer', got {granularity!r}")
    cut = blocks(model, names)
    if not cut:
        raise ValueError("names must hold at least one weight")
    if granularity == "layer":
        cut = tuple((name,) for block in cut for name in block)
    elif granularity == "entire":
        cut = (tuple(name for block in cut for name in block),)
    return Cursor(cut[::-1])


def blocks(model: nn.Module, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Cut the weights of a model into blocks, from input to output.

    A child of the model that contains weights is a block: a stage of a ResNet, a block of a
    MobileNet or transformer. Layers that are children themselves are together as far as no pooling
    or flattening lies between them: the groups of a VGG. Children that contain poolings, are lists
    of modules, or hold more than half of the weights, are cut in the same way.

    Args:
        model: The model, plain or sparsified; the order is that of its modules.
        names: Parameter names of the weights, as in the masks.

    Returns:
        Parameter names of each block.

    Raises:
        ValueError: if the model has no module of a name.
    """
    wanted = {name.rpartition(".")[0]: name for name in names}
    modules = dict(model.named_modules())
    for layer, name in wanted.items():
        if layer not in modules:
            raise ValueError(f"names: the model has no module {layer!r} for {name!r}")
    if "" in wanted:
        return ((wanted[""],),)
    return tuple(_cut(model, "", wanted))


def _cut(module: nn.Module, path: str, wanted: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Cut the weights below a module, whose children are cut apart."""
    found: list[tuple[str, ...]] = []
    run: list[str] = []
    for child_name, child in module.named_children():
        child_path = f"{path}{child_name}"
        inside = _inside(child, child_path, wanted)
        if child_path in wanted:
            run.append(wanted[child_path])
            continue
        if (inside or _ends_a_run(child)) and run:
            found.append(tuple(run))
            run = []
        if inside:
            divided = _is_divided(child, len(inside), len(wanted))
            found += _cut(child, f"{child_path}.", wanted) if divided else [inside]
    return [*found, tuple(run)] if run else found


def _inside(module: nn.Module, path: str, wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the weights of a module and of what it contains."""
    paths = (f"{path}.{name}" if name else path for name, _ in module.named_modules())
    return tuple(wanted[full] for full in paths if full in wanted)


def _is_divided(module: nn.Module, inside: int, of: int) -> bool:
    """Tell whether what a module contains, ``inside`` weights ``of`` all, is several blocks."""
    if isinstance(module, nn.ModuleList) or any(map(_ends_a_run, module.children())):
        return True
    return 2 * inside > of


def _ends_a_run(module: nn.Module) -> bool:
    """Tell whether layers before and after a module are of different blocks."""
    return any(word in type(module).__name__ for word in ("Pool", "Flatten"))
