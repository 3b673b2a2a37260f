"""What the table ``codec_speed`` times: both directions of messages, and what users have today."""

from __future__ import annotations

import dataclasses
import functools
import io
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sparsefl import _codec, codec
from sparsefl.codec import Schema, Sparse, Update, decode, encode
from sparsefl.codec.wire import decode_support, encode_support
from sparsefl.support import Support

from ..rows import OURS
from . import inputs, peers
from .entropy import BLOCKS, Floats
from .inputs import NAME

COPY = "memcpy"
# Symbols a byte code, as in the chunks of messages.
SECTION = 1 << 18
# Positions a chunk of a support.
CHUNK = 1 << 20
RICE = 1
WIDTH = 127


@dataclasses.dataclass(frozen=True)
class Step:
    """What is timed.

    Attributes:
        provider: Who does it.
        variant: Which way, where there are several.
        mode: ``encode``, ``decode``, ``positions`` (decode to them), ``accumulate``, or ``copy`` of
            the yardstick.
        run: Does it.
        correct: Whether what ``run`` returned is right.
    """

    provider: str
    variant: str
    mode: str
    run: Callable[[], Any]
    correct: Callable[[Any], bool]

    @property
    def key(self) -> tuple[str, str, str]:
        """Names the step."""
        return self.provider, self.variant, self.mode


def support_steps(numel: int, density: float) -> list[Step]:
    """Prepare a support's messages and the peers'; the yardstick copies positions of 32 bits."""
    support = Support.random((numel,), density, seed=0)
    steps = [copy_step(peers.indices(support))]
    for variant, rans in (("rans", True), ("plain", False)):
        data = encode_support(support, rans=rans)
        steps += [
            Step(
                *(OURS, variant, "encode"),
                functools.partial(encode_support, support, rans=rans),
                functools.partial(operator.eq, data),
            ),
            Step(
                *(OURS, variant, "decode"),
                functools.partial(decode_support, data, support.shape),
                functools.partial(operator.eq, support),
            ),
        ]
    steps.append(positions_step(support))
    for name, coder in peers.installed(peers.SUPPORTS, support):
        steps += peer_steps(name, coder)
    return steps


def positions_step(support: Support) -> Step:
    """Prepare Golomb-Rice codes, of a chunk each, that are read to positions, as sums need them."""
    chunks = np.split(support.packed, range(CHUNK // 8, support.packed.size, CHUNK // 8))
    counts = [int(np.unpackbits(chunk).sum()) for chunk in chunks]
    codes = [
        _codec.bit_code(chunk, 8 * chunk.size, count, 0, 0, RICE)[1]
        for chunk, count in zip(chunks, counts, strict=True)
    ]

    def read() -> list[peers.Array]:
        return [
            _codec.read_bit_indices(RICE, code, 8 * chunk.size, count, 0)[1]
            for code, chunk, count in zip(codes, chunks, counts, strict=True)
        ]

    def correct(read_back: Sequence[peers.Array]) -> bool:
        found = [CHUNK * i + part.astype(np.int64) for i, part in enumerate(read_back)]
        return np.array_equal(np.concatenate(found), support.indices)

    return Step(OURS, "plain", "positions", read, correct)


def peer_steps(name: str, coder: peers.Coder) -> list[Step]:
    """Prepare both directions of a peer."""
    data = coder.encoded()
    return [
        Step(name, "", "encode", coder.encoded, coder.correct),
        Step(
            *(name, "", "decode"),
            functools.partial(coder.decode, data),
            functools.partial(np.array_equal, coder.given),
        ),
    ]


def copy_step(given: peers.Array) -> Step:
    """Prepare a copy into memory that is there."""
    target = np.zeros_like(given)

    def run() -> None:
        np.copyto(target, given)

    return Step(COPY, "", "copy", run, lambda _: np.array_equal(target, given))


def int8_symbols(numel: int) -> peers.Array:
    """Return values of Student's t rounded to int8 by blocks."""
    block = BLOCKS["int8"][0]
    drawn = inputs.student_t(numel).reshape(-1, block)
    scales = np.abs(drawn).max(axis=1, keepdims=True) / WIDTH
    return np.rint(drawn / scales).astype(np.int8).view(np.uint8).reshape(-1)


def bitmap_symbols(numel: int) -> peers.Array:
    """Return the bitmap of a support of density .2."""
    return Support.random((8 * numel,), 0.2, seed=0).packed


def digit_symbols(numel: int) -> peers.Array:
    """Return ternary digits, five a byte, three of five of them 0."""
    digits = np.random.default_rng(0).choice(3, (numel, 5), p=(0.6, 0.2, 0.2))
    return (digits @ 3 ** np.arange(5)).astype(np.uint8)


SYMBOLS = {"int8": int8_symbols, "bitmap": bitmap_symbols, "digits": digit_symbols}


def byte_steps(draw: Callable[[int], peers.Array], numel: int) -> list[Step]:
    """Prepare the byte code, by sections as in a message, and zstd of level 1 on the whole."""
    symbols = draw(numel)
    sections = [part.tobytes() for part in np.split(symbols, range(SECTION, numel, SECTION))]
    coded = [_codec.byte_code(section, 1) for section in sections]

    def write() -> list[bytes]:
        return [_codec.byte_code(section, 1) for section in sections]

    def read() -> list[tuple[int, int, bytes]]:
        pairs = zip(coded, sections, strict=True)
        return [_codec.read_byte_code(code, len(section)) for code, section in pairs]

    def correct(read_back: Sequence[tuple[int, int, bytes]]) -> bool:
        return [part for _, _, part in read_back] == sections

    steps = [
        Step(OURS, "rans", "encode", write, functools.partial(operator.eq, coded)),
        Step(OURS, "rans", "decode", read, correct),
    ]
    for name, coder in peers.installed({"zstd1": peers.VALUES["zstd1"]}, symbols):
        steps += peer_steps(name, coder)
    return steps


def update_steps(numel: int, density: float) -> list[Step]:
    """Prepare an update in int8 and what is sent today; the yardstick copies the dense tensor."""
    dense = inputs.normal(numel)
    kept = inputs.largest(dense, density)
    schema, update = Schema({NAME: (dense.shape, "float32")}), Update({NAME: kept})
    formats = {NAME: "int8"}
    data = encode(update, schema, formats)
    decoded = decode(data, schema)
    model = np.zeros_like(dense)

    def from_dense() -> bytes:
        largest = Sparse(*codec.top_k(dense, kept.support.nnz))
        return encode(Update({NAME: largest}), schema, formats)

    def accumulate() -> None:
        codec.Accumulator(schema, into={NAME: model}).add(data)

    return [
        copy_step(dense),
        Step(
            *(OURS, "from_kept", "encode"),
            lambda: encode(update, schema, formats),
            functools.partial(operator.eq, data),
        ),
        Step(OURS, "from_dense", "encode", from_dense, functools.partial(operator.eq, data)),
        Step(
            OURS,
            "",
            "decode",
            lambda: decode(data, schema),
            functools.partial(operator.eq, decoded),
        ),
        Step(OURS, "", "accumulate", accumulate, lambda _: same(model, decoded[NAME])),
        *dense_steps(dense),
        *torch_steps(dense, kept),
    ]


def same(model: Floats, entry: Any) -> bool:
    """Return whether a model that was zero holds a decoded entry, and clear it."""
    expected = np.zeros_like(model)
    expected[entry.support.indices] = entry.values
    held = np.array_equal(model, expected)
    model.fill(0)
    return held


def dense_steps(dense: Floats) -> list[Step]:
    """Prepare what Flower does: the dense tensor by ``np.save``, added after ``np.load``."""
    coder, model = peers.numpy_file(dense), np.zeros_like(dense)
    data = coder.encoded()

    def accumulate() -> None:
        np.add(model, coder.decode(data), out=model)

    return [
        Step("np_save_dense", "", "encode", coder.encoded, functools.partial(operator.eq, data)),
        Step(
            *("np_save_dense", "", "accumulate"),
            accumulate,
            lambda _: np.array_equal(model, dense),
        ),
    ]


def torch_steps(dense: Floats, kept: Sparse) -> list[Step]:
    """Prepare ``torch.topk``, int8 of one scale and ``np.save``, added by ``index_add_``."""
    tensor, model = torch.from_numpy(dense), torch.zeros(dense.size)

    def write() -> bytes:
        indices = torch.topk(tensor.abs(), kept.support.nnz, sorted=False).indices
        values = tensor[indices]
        scale = values.abs().max() / WIDTH
        rounded = (values / scale).round().to(torch.int8)
        file = io.BytesIO()
        for part in (indices.int(), rounded, scale):
            np.save(file, part.numpy(), allow_pickle=False)
        return file.getvalue()

    data = write()

    def accumulate() -> None:
        file = io.BytesIO(data)
        indices, rounded, scale = (torch.from_numpy(np.load(file)) for _ in range(3))
        model.index_add_(0, indices, rounded * scale)

    def correct(_: object) -> bool:
        wanted = np.zeros_like(dense)
        wanted[kept.support.indices] = kept.values
        return bool(np.abs(model.numpy() - wanted).max() <= np.abs(dense).max() / WIDTH)

    return [
        Step("torch_topk_np_save", "", "encode", write, lambda found: len(found) == len(data)),
        Step("torch_topk_np_save", "", "accumulate", accumulate, correct),
    ]
