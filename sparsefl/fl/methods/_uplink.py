"""How a dense method's clients send their change: in a value format of the codec, or as signs.

    uplink = "fp32"                      the weights, as they are
             "bf16" | "int8" | "int4"    the change, rounded to nearest
             "int8_unbiased" | "int4_unbiased"
                                         the change, rounded at random, so that the mean of what
                                         arrives is the change: FedPAQ (Reisizadeh et al., AISTATS
                                         2020, arXiv 1909.13014)
             "sign" | "eden"             one bit a weight, whose mean is the change:

    sign    P(b = 1) = (1 + x / s) / 2,  s = max |x| of the tensor,  sent s b    E[s b] = x
    eden    b = sign(R x),  s = ||x||^2 / ||R x||_1,  read as s R^T b       <s R^T b, x> = <x, x>

The first is the one level of QSGD (Alistarh et al. 2017, arXiv 1610.02132) without its zero, in the
maximum norm; its variance is ``s^2 - x^2``, many times the second's, about .57 x^2 on average
(Vargaftik et al. 2022, arXiv 2108.08842, at one bit). R is a rotation that each client draws anew.

Departures: FedPAQ's example of a quantiser is QSGD, in units of a tensor's Euclidean norm; here
they are the codec's, of the largest magnitude of a block. Rounding to nearest is no paper's, and
what it loses is not fed back. R is not uniform: it shuffles a tensor, padded to whole blocks, flips
signs, and applies Hadamard's matrix to blocks of up to 4096; the error along x is 0 in every draw,
that across x has a mean of nearly 0.
Biases, norms and buffers stay as they are.
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsefl.codec import Dense, Regenerated, Schema, Signs, Update
from sparsefl.codec.plan import ValueFormat
from sparsefl.fl import privacy
from sparsefl.fl.aggregation import dense_tensors
from sparsefl.fl.method import Client, Wire
from sparsefl.random import generator
from sparsefl.support import Support

EXACT, SIGN, EDEN = "fp32", "sign", "eden"
# Names in messages; no module of a model is called so.
_ROTATED, _ROTATION = "uplink:rotated/", "uplink:rotation"
_LARGEST_BLOCK = 4096
DEFAULTS: Mapping[str, Any] = {"uplink": EXACT}
_UNBIASED: Mapping[str, ValueFormat] = {"int8_unbiased": "int8", "int4_unbiased": "int4"}
_FORMATS: Mapping[str, ValueFormat] = {"bf16": "bf16", "int8": "int8", "int4": "int4", **_UNBIASED}
_BITS = {
    EXACT: 32,
    "bf16": 16,
    **dict.fromkeys(("int8", "int8_unbiased"), 8),
    **dict.fromkeys(("int4", "int4_unbiased"), 4),
    **dict.fromkeys((SIGN, EDEN), 1),
}
CHOICES: Mapping[str, tuple[str, ...]] = {"uplink": (EXACT, *_FORMATS, SIGN, EDEN)}


def bits_of(options: Mapping[str, Any]) -> int:
    """Return the bits of a weight by the formula of its format, without any coding."""
    return _BITS[options.get("uplink", EXACT)]


def wire_of(schema: Schema, options: Mapping[str, Any]) -> Wire:
    """Return how messages travel under the options."""
    rotates = options.get("uplink") == EDEN
    if rotates:
        rotated = {
            f"{_ROTATED}{name}": ((_padded(spec.numel),), "float32")
            for name, spec in schema.items()
            if len(spec.shape) > 1 and spec.dtype == "float32"
        }
        schema = Schema({**schema, **rotated, _ROTATION: ((1,), "float32")})
    uplink = options.get("uplink", EXACT)
    return Wire(
        schema,
        {},
        uplink_format=_FORMATS.get(uplink, "fp32"),
        expands=rotates,
        unbiased=uplink in _UNBIASED,
    )


def sends_changes(options: Mapping[str, Any]) -> bool:
    """Say whether the options are about a client's change of the model."""
    return bool(options.get("dp_clip")) or options.get("uplink", EXACT) != EXACT


def report_change(client: Client, received: Update, round: int) -> Update:
    """Send ``D_k = w_k - w_t`` of what a client trains, clipped and rounded as asked.

    Integers and bools, which may have no room for a difference, are sent as they are.
    """
    held = client.model.state_dict()
    trained = {n: t for n, t in dense_tensors(received).items() if n not in client.wire.untrained}
    change = {
        name: held[name].detach() - old if old.is_floating_point() else held[name].detach()
        for name, old in trained.items()
    }
    bounded = privacy.clipped(change, client.options["dp_clip"])
    return change_update(bounded, client.options, round)


def change_update(change: Mapping[str, Tensor], options: Mapping[str, Any], round: int) -> Update:
    """Return the message of a change ``D_k``.

    Args:
        change: By name; of integers and bools the values.
        options: "uplink" among them.
        round: Number of the round, part of what keys the draws.
    """
    if options["uplink"] == EDEN:
        return _rotated(change, round)
    signs = options["uplink"] == SIGN
    return Update(
        {
            name: _drawn_signs(value, round)
            if signs and value.dim() > 1 and value.is_floating_point()
            else Dense(value.detach())
            for name, value in change.items()
        },
        round=round,
    )


def _drawn_signs(change: Tensor, round: int) -> Signs:
    """Draw ``b`` with ``E[s b] = x``, from a stream that the change itself is the key of.

    A client has no random stream of its own that the messages do not carry; equal clients draw
    equal bits, others do not.
    """
    values = np.ascontiguousarray(change.detach().cpu().numpy(), np.float32).reshape(-1)
    key = [_fingerprint(values), round]
    draws = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    scale = float(np.abs(values).max(initial=0.0))
    up = 2.0 * scale * draws.random(values.size) < values.astype(np.float64) + scale
    return Signs(_full(tuple(change.shape)), np.where(up, 1, -1).astype(np.int8), scale)


def _fingerprint(values: Any) -> int:
    return int.from_bytes(hashlib.blake2b(values.tobytes(), digest_size=8).digest(), "little")


def sent_down(schema: Schema) -> list[str]:
    """Return the names of a schema that broadcasts have: all but those of rotated changes."""
    return [name for name in schema if not name.startswith("uplink:")]


def _block(count: int) -> int:
    """Return the side of Hadamard's matrix: the largest power of two within the tensor."""
    return min(_LARGEST_BLOCK, 1 << max(0, count.bit_length() - 1))


def _padded(count: int) -> int:
    """Return the elements of whole blocks that hold ``count``."""
    block = _block(count)
    return -(-count // block) * block


def rotate(values: Tensor, seed: int, name: str, back: bool = False) -> Tensor:
    """Return ``R x``, or ``R^T x`` (``back``): orthogonal, drawn from the stream of a name.

    Args:
        values: ``x``, whole blocks of them, flat.
        seed: Of the message.
        name: Of the tensor.
        back: Whether to undo it.
    """
    draws = generator(seed, f"{_ROTATED}{name}")
    order = torch.from_numpy(draws.permutation(values.numel()))
    flips = torch.from_numpy(draws.integers(0, 2, values.numel())).to(values.dtype) * 2 - 1
    if back:
        turned = torch.empty_like(values)
        turned[order] = _hadamard(values, _block(values.numel())) * flips
        return turned
    return _hadamard(values[order] * flips, _block(values.numel()))


def _hadamard(values: Tensor, block: int) -> Tensor:
    """Multiply blocks by Hadamard's matrix over ``sqrt(block)``, its own inverse."""
    half = 1
    while half < block:
        pairs = values.reshape(-1, 2, half)
        values = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        half *= 2
    return values / block**0.5


def _rotated(change: Mapping[str, Tensor], round: int) -> Update:
    """Return signs of the rotated change; the message's own content seeds the rotation."""
    seed, entries = round, dict[str, Any]()
    for value in change.values():
        seed = (seed * 1_000_003 + _fingerprint(value.detach().cpu().numpy())) % 2**63
    for name, value in change.items():
        if value.dim() < 2 or value.dtype != torch.float32 or value.numel() == 0:
            entries[name] = Dense(value.detach())
            continue
        flat = torch.zeros(_padded(value.numel()))
        flat[: value.numel()] = value.detach().reshape(-1)
        turned = rotate(flat, seed, name)
        length = float(turned.abs().sum())
        scale = float(flat.double().square().sum()) / length if length > 0 else 0.0
        signs = torch.where(turned < 0, -1, 1).to(torch.int8).numpy()
        entries[f"{_ROTATED}{name}"] = Signs(_full((flat.numel(),)), signs, scale)
    return Update({**entries, _ROTATION: Regenerated(seed)}, round=round)


def expand(schema: Schema, update: Update) -> Update:
    """Return an update as it is added up: rotated changes in the model's own coordinates.

    Raises:
        ValueError: if there are rotated changes without a seed.
    """
    rotated = [name for name in update if name.startswith(_ROTATED)]
    if _ROTATION not in update:
        if rotated:
            raise ValueError("the update has rotated changes, and no seed of the rotation")
        return update
    seed, entries = update[_ROTATION], dict[str, Any]()
    if not isinstance(seed, Regenerated):
        raise ValueError(f"{_ROTATION} must be a seed, got {type(seed).__name__}")
    for key, entry in update.items():
        if key == _ROTATION:
            continue
        name = key.removeprefix(_ROTATED)
        if name == key:
            entries[name] = entry
            continue
        if not isinstance(entry, Signs) or entry.support.density < 1:
            raise ValueError(f"{key} must be signs of all positions")
        turned = torch.from_numpy(entry.signs.astype(np.float32)) * entry.scale
        shape = schema[name].shape
        flat = rotate(turned, seed.seed, name, back=True)[: schema[name].numel]
        entries[name] = Dense(flat.reshape(shape))
    return Update(entries, round=update.round)


@functools.lru_cache(maxsize=256)
def _full(shape: tuple[int, ...]) -> Support:
    """Return the support that keeps everything."""
    return Support.from_mask(torch.ones(shape, dtype=torch.bool))
