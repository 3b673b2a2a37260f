"""Table ``codec_sizes``: lengths of messages, and of the codes in them, against what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from sparsefl.codec import Update, decode, encode, outline
from sparsefl.support import Support

from ..goals import CODEC_SIZES as TABLE
from ..goals import DENSE_SHARE, size_aim
from ..rows import OURS, Row, point_of
from . import entropy, inputs, peers
from .entropy import Floats
from .inputs import NUMEL, Content

DENSITIES = (0.001, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
STRUCTURED = (0.05, 0.2)
# Density and churn: what of the kept positions is dropped, and replaced.
CHURN = ((0.5, 0.01), (0.1, 0.05), (0.1, 0.01), (0.01, 0.05), (0.01, 0.01), (0.01, 0.001))
FLIPPED = (0.001, 0.01, 0.05, 0.1, 0.3, 0.5)
NEGATIVE = (0.1, 0.3, 0.5)
FORMATS = ("fp32", "bf16", "int8", "int4", "ternary")
VALUES = 1 << 22
SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to be sent.

    Attributes:
        op: What it is.
        density: Share of kept positions, of flips or of negative signs.
        numel: Positions.
        make: Makes it.
        changes: Positions dropped, where some are; as many are added.
        rivals: The peers that can send it.
    """

    op: str
    density: float
    numel: int
    make: Callable[[], Content]
    changes: int = 0
    rivals: Callable[[Content], Iterator[tuple[str, peers.Coder]]] = lambda content: iter(())

    @property
    def point(self) -> Row:
        """What its rows have in common."""
        shape = {"numel": self.numel} | ({"changes": self.changes} if self.changes else {})
        return {
            **{"table": TABLE, "op": self.op, "shape": shape, "density": self.density},
            "threads": 1,
        }


def of_support(content: Content) -> Iterator[tuple[str, peers.Coder]]:
    """Yield peers that write all supports of an update as one."""
    packed = np.concatenate([entry.support.packed for entry in content.update.values()])
    numel = sum(spec.numel for spec in content.schema.values())
    yield from peers.installed(peers.SUPPORTS, Support.from_packed((numel,), packed))


def of_changes(content: Content) -> Iterator[tuple[str, peers.Coder]]:
    """Yield peers that write the positions of which the two supports have one."""
    (entry,), (before,) = content.update.values(), (content.base or {}).values()
    differ = np.bitwise_xor(entry.support.packed, before.packed)
    support = Support.from_packed(before.shape, differ)
    chosen = {
        "xor_zstd3": lambda s: peers.zstd(s.packed, 3),
        "xor_roaring": peers.SUPPORTS["roaring"],
    }
    yield from peers.installed(chosen, support)


def of_values(content: Content) -> Iterator[tuple[str, peers.Coder]]:
    """Yield peers that write values as the format has them in memory, scales of blocks too."""
    name, chosen = inputs.named_format(content)
    data = encode(content.update, content.schema, content.value_format)
    entry = decode(data, content.schema)[name]
    given = in_memory(entry.values, chosen, entropy.chunk_counts(data, entry))
    more = {"pcodec": peers.pcodec} if chosen == "fp32" else {}
    yield from peers.installed({**peers.VALUES, **more}, given)


def in_memory(decoded: Floats, chosen: str, counts: Sequence[int]) -> peers.Array:
    """Return values as the format has them: floats, or integers and then their scales."""
    if chosen == "fp32":
        return decoded
    if chosen == "bf16":
        return (decoded.view(np.uint32) >> 16).astype(np.uint16)
    integers, scales = entropy.quantised(decoded, chosen, counts)
    packed = integers.view(np.uint8)
    if chosen == "int4":
        packed = packed[0::2] & 15 | packed[1::2] << 4
    elif chosen == "ternary":
        digits = np.pad(integers + 1, (0, -integers.size % 5)).reshape(-1, 5)
        packed = (digits @ 3 ** np.arange(5)).astype(np.uint8)
    return np.concatenate([packed, (scales.view(np.uint32) >> 15).astype(np.uint16).view(np.uint8)])


def of_message(content: Content) -> Iterator[tuple[str, peers.Coder]]:
    """Yield what is sent without a codec: 32 bits a position and 8 a value; the same by zstd."""
    name, chosen = inputs.named_format(content)
    data = encode(content.update, content.schema, content.value_format)
    entry = decode(data, content.schema)[name]
    given = in_memory(entry.values, chosen, entropy.chunk_counts(data, entry))
    pairs = np.concatenate([peers.indices(entry.support).view(np.uint8), given])
    wanted = {
        "np_save_int32_int8": peers.numpy_file,
        "the_same_zstd3": lambda array: peers.zstd(array, 3),
    }
    yield from peers.installed(wanted, pairs)


def cases(numel: int = NUMEL) -> Iterator[Case]:
    """Yield what is sent, of ``numel`` positions each, values a quarter of them."""
    for density in DENSITIES:
        yield _made("support", density, numel, inputs.random_support, of_support)
    for density in STRUCTURED:
        yield _made("layers", density, numel, inputs.layers, of_support)
    yield _made("rows", STRUCTURED[0], numel, inputs.rows, of_support)
    for make in (inputs.blocks, inputs.whole_rows, inputs.whole_columns):
        yield _made(make.__name__, SHARE, numel, make)
    for density, churn in CHURN:
        count = round(churn * round(density * numel))
        for make, rivals in (
            (inputs.changes, of_changes),
            (inputs.additions, None),
            (inputs.whole, None),
        ):
            yield _made(make.__name__, density, numel, make, rivals, count)
    for density in FLIPPED:
        yield _made("flips", density, numel // 4, inputs.flips)
    for density in NEGATIVE:
        yield _made("signs", density, numel // 4, inputs.biased_signs)
    for chosen in FORMATS:
        size = numel // 4
        yield Case(
            f"values_{chosen}",
            1.0,
            size,
            lambda size=size, chosen=chosen: inputs.values(size, chosen),
            rivals=of_values,
        )
    for draw in (inputs.normal, inputs.student_t):
        yield Case(
            f"message_{draw.__name__}",
            SHARE,
            numel,
            lambda draw=draw: inputs.message(draw(numel), SHARE),
            rivals=of_message,
        )


def _made(
    op: str,
    density: float,
    numel: int,
    make: Callable[..., Content],
    rivals: Callable[[Content], Iterator[tuple[str, peers.Coder]]] | None = None,
    changes: int = 0,
) -> Case:
    given = (numel, density, changes) if changes else (numel, density)
    case = Case(op, density, numel, lambda: make(*given), changes)
    return case if rivals is None else dataclasses.replace(case, rivals=rivals)


def measure(
    described: Row, done: Collection[tuple[object, ...]] = (), numel: int = NUMEL
) -> Iterator[list[Row]]:
    """Yield the rows of each case that is not among the points done."""
    for case in cases(numel):
        if point_of(case.point) not in done:
            yield rows_of(case, described)


def rows_of(case: Case, described: Row) -> list[Row]:
    """Return the rows of a case: ours with and without rANS, then the peers."""
    content = case.make()
    found = []
    bound_bytes = 0.0
    for variant, rans in (("rans", True), ("plain", False)):
        data = encode(content.update, content.schema, content.value_format, content.base, rans=rans)
        decoded = decode(data, content.schema, content.base)
        bound_bytes = bound_of(content, data, decoded)
        own = {"provider": OURS, "variant": variant, "correct": content.holds(decoded)}
        own |= against(len(data), bound_bytes)
        own["code_ratio"] = round(code_bytes(data) / bound_bytes, 5)
        # What the receiver drops by itself is no change that is sent.
        changes = case.changes * (1 if case.op == inputs.additions.__name__ else 2)
        seen = own["ratio" if content.dense_bytes is not None else "code_ratio"]
        own |= judged(size_aim(case.op, case.density, rans, changes), seen)
        if content.dense_bytes is not None:
            share = len(data) / content.dense_bytes
            own |= {"dense_share": round(share, 5), "dense_share_reached": share <= DENSE_SHARE}
        found.append(own)
    for name, coder in case.rivals(content):
        data = coder.encoded()
        own = {"provider": name, "variant": "", "correct": coder.correct(data)}
        found.append(own | against(len(data), bound_bytes))
    return [{**case.point, "mode": "size", **own, **described} for own in found]


def bound_of(content: Content, data: bytes, decoded: Update) -> float:
    """Compute the bytes that a message holds, its values as they were rounded."""
    bits = content.bound_bits
    if content.value_format != "fp32":
        name, chosen = inputs.named_format(content)
        counts = entropy.chunk_counts(data, decoded[name])
        bits += entropy.value_bits(np.ravel(decoded[name].values), chosen, counts)
    return bits / 8


def code_bytes(data: bytes) -> int:
    """Return the bytes of a message's codes: without header, descriptors and directory."""
    found = outline(data)
    return found.support_bytes + found.value_bytes


def against(length: int, bound_bytes: float) -> Row:
    """Return a length beside the bound."""
    return {
        "bytes": length,
        "bound_bytes": round(bound_bytes, 1),
        "ratio": round(length / bound_bytes, 5),
    }


def judged(aim: float | None, ratio: float) -> Row:
    """Return an aim and whether it is reached, nothing where there is none."""
    return {} if aim is None else {"aim": aim, "reached": ratio <= aim}
