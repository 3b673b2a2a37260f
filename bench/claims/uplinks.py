"""``python -m sparsefl.bench.claims.uplinks``: what one FedAvg reply takes in each format.

A client of Fashion-MNIST trains the cnn for one round; its change of the model is encoded in each
format of the uplink, headers included. Beside them stand the integers of int8, as bytes, by zstd.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sparsefl import codec, models
from sparsefl.bench.codec.peers import zstd
from sparsefl.codec import Dense, Rounding, Schema, Update
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.experiment import Problem, Setting, load_problem
from sparsefl.fl.method import Client, Task, load_method
from sparsefl.fl.methods import _uplink
from sparsefl.measuring import torch_threads

from . import claim
from .claim import Claim

SETTING = Setting(dataset="fashion-mnist", model="cnn", clients=10, partition="dirichlet:0.5")
SCHEDULE = Schedule(clients_per_round=1, batch_size=16, local_steps=12)
SEED = 0
FORMATS = ("fp32", "bf16", "int8", "int8_unbiased", "int4", "int4_unbiased", "sign", "eden")
LEVELS = (3, 19)
BLOCK = 1024
DENSE_BYTES, SCALE_BYTES = 4, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Train a client, and write the claims."""
    return claim.main("uplinks", measure, argv)


def measure(command: str) -> list[Claim]:
    """Encode one client's change in every format."""
    problem = load_problem(SETTING, SEED)
    with torch_threads(1):
        return claims_of(change_of(problem), problem.label, command)


def change_of(problem: Problem) -> dict[str, Any]:
    """Return what a client's training changes in the model, by name."""
    fedavg = load_method("fedavg")
    seen: dict[str, Any] = {}

    def report(client: Client, received: Update, round: int) -> Update:
        update = fedavg.report(client, received, round)
        seen.update({n: e.values for n, e in update.items() if isinstance(e, Dense)})
        return update

    assert problem.in_shape is not None
    assert problem.classes is not None
    in_shape, classes = problem.in_shape, problem.classes
    # A format that rounds: the client then sends its change, here before it is rounded.
    options = fedavg.with_defaults({"uplink": "bf16"})
    example = problem.clients[0][0][0][0][None]
    task = Task(
        lambda: models.build(SETTING.model, in_shape, classes), example, SEED, 1.0, options, 1
    )
    clients = [own[0] for own in problem.clients]
    Federation(replace(fedavg, report=report), task, clients, SCHEDULE).play(1)
    return seen


def message_bytes(change: Mapping[str, Any], uplink: str) -> int:
    """Return the bytes of the message that holds a change in a format."""
    options = {"uplink": uplink}
    schema = Schema({name: (value.shape, "float32") for name, value in change.items()})
    wire = _uplink.wire_of(schema, options)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in change.items()}
    update = _uplink.change_update(tensors, options, 1)
    rounding: Rounding = codec.Stochastic(SEED) if wire.unbiased else "nearest"
    return len(codec.encode(update, wire.schema, wire.uplink_format, rounding=rounding))


def zstd_bytes(change: Mapping[str, Any], level: int) -> int:
    """Return the bytes of a change as int8 by zstd: of each tensor its integers and scales alone.

    No names, shapes or checksums are counted. Integers and scales are those of the codec's int8;
    tensors that this leaves in float32 are counted so.
    """
    total = 0
    for value in change.values():
        flat = np.ascontiguousarray(value, np.float32).reshape(-1)
        if value.ndim < 2:
            total += flat.nbytes
            continue
        blocks = np.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
        scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
        integers = np.rint(blocks / np.where(scales > 0, scales, 1)).astype(np.int8)
        total += len(zstd(integers.reshape(-1)[: flat.size].copy(), level).encoded())
        total += SCALE_BYTES * len(scales)
    return total


def _whose(uplink: str) -> str:
    return "FedPAQ" if uplink.endswith("_unbiased") else "FedAvg"


def claims_of(change: Mapping[str, Any], data: str, command: str) -> list[Claim]:
    """Hold each format against 4 bytes a value, and int8 against zstd."""
    count = sum(value.size for value in change.values())
    dense = DENSE_BYTES * count
    zeros = sum(int((value == 0).sum()) for value in change.values()) / count
    peers = {f"zstd{level}_bytes": zstd_bytes(change, level) for level in LEVELS}
    found = []
    for uplink in FORMATS:
        sent = message_bytes(change, uplink)
        bits = _uplink.bits_of({"uplink": uplink})
        measured: dict[str, Any] = {"uplink_bytes": sent, "uplink_factor": dense / sent}
        if uplink == "int8":
            measured["of_zstd19"] = sent / peers["zstd19_bytes"]
        found.append(
            Claim(
                row=f"9 uplink, {uplink}",
                claim=f"{_whose(uplink)}'s change of the model in {bits} bits a weight",
                accounting={"uplink_bytes": bits * count // 8},
                measured=measured,
                realised_factor=bits * count / 8 / sent,
                baseline={
                    "name": "4 bytes a weight; of int8 integers and scales by zstd",
                    "dense_bytes": dense,
                    **(peers if uplink == "int8" else {}),
                },
                settings={
                    "data": data,
                    "model": SETTING.model,
                    "parameters": count,
                    "zeros": zeros,
                    "local_steps": SCHEDULE.local_steps,
                    "batch_size": SCHEDULE.batch_size,
                    "seed": SEED,
                },
                goals={"of_zstd19": (None, 0.97)} if uplink == "int8" else {},
                command=command,
            )
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
