"""How a dense method's clients send their change: in a value format of the codec, or as signs.

    uplink = "fp32"                      the weights, as they are
             "bf16" | "int8" | "int4"    the change, rounded to nearest: FedPAQ (Reisizadeh et al.
                                         2020, arXiv 1909.13014) with the codec's scales
             "sign"                      one bit a weight, drawn so that its mean is the change:

    sign    P(b = 1) = (1 + x / s) / 2,  s = max |x| of the tensor,  sent s b    E[s b] = x

The last is the one level of QSGD (Alistarh et al. 2017, arXiv 1610.02132) without its zero, in the
maximum norm; its variance is ``s^2 - x^2``. Departures: FedPAQ rounds at random; here to nearest,
without feedback of what is lost. Biases, norms and buffers stay as they are, as in the codec.
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsefl.codec import Dense, Schema, Signs, Update
from sparsefl.codec.plan import ValueFormat
from sparsefl.fl import privacy
from sparsefl.fl.aggregation import dense_tensors
from sparsefl.fl.method import Client, Wire
from sparsefl.support import Support

EXACT, SIGN = "fp32", "sign"
DEFAULTS: Mapping[str, Any] = {"uplink": EXACT}
_FORMATS: Mapping[str, ValueFormat] = {"bf16": "bf16", "int8": "int8", "int4": "int4"}
CHOICES: Mapping[str, tuple[str, ...]] = {"uplink": (EXACT, *_FORMATS, SIGN)}


def wire_of(schema: Schema, options: Mapping[str, Any]) -> Wire:
    """Return how messages travel under the options."""
    return Wire(schema, {}, uplink_format=_FORMATS.get(options.get("uplink", EXACT), "fp32"))


def sends_changes(options: Mapping[str, Any]) -> bool:
    """Say whether the options are about a client's change of the model."""
    return bool(options.get("dp_clip")) or options.get("uplink", EXACT) != EXACT


def report_change(client: Client, received: Update, round: int) -> Update:
    """Send ``D_k = w_k - w_t`` of all that was received, clipped and rounded as asked."""
    held = client.model.state_dict()
    change = {name: held[name].detach() - old for name, old in dense_tensors(received).items()}
    bounded = privacy.clipped(change, client.options["dp_clip"])
    return change_update(bounded, client.options, round)


def change_update(change: Mapping[str, Tensor], options: Mapping[str, Any], round: int) -> Update:
    """Return the message of a change ``D_k``.

    Args:
        change: By name.
        options: "uplink" among them.
        round: Number of the round, part of what keys the draws.
    """
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
    digest = hashlib.blake2b(values.tobytes(), digest_size=8).digest()
    key = [int.from_bytes(digest, "little"), round]
    draws = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    scale = float(np.abs(values).max(initial=0.0))
    up = 2.0 * scale * draws.random(values.size) < values.astype(np.float64) + scale
    return Signs(_full(tuple(change.shape)), np.where(up, 1, -1).astype(np.int8), scale)


@functools.lru_cache(maxsize=256)
def _full(shape: tuple[int, ...]) -> Support:
    """Return the support that keeps everything."""
    return Support.from_mask(torch.ones(shape, dtype=torch.bool))
