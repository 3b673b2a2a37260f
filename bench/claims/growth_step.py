"""Memory of a FedTiny client's last step, with and without the gradients of its pruned weights.

``python -m sparsefl.bench.claims.growth_step FOLDER last|plain`` is the process that measures: the
client of the method is built from its messages, makes a few steps, and reports what one more adds
to the peak of resident memory; ``last`` enters the method's ``last_step``, as a round does.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch

from sparsefl.fl.memory import Cell, elsewhere, read_cell, rebuild
from sparsefl.fl.method import load_method
from sparsefl.fl.training import local_step
from sparsefl.measuring import forget_peak, resident_bytes

# Steps before the measured one, whose memory it uses again.
_WARMUP = 3


def peak_bytes(cell: Cell, setup: bytes | None, broadcast: bytes, step: str) -> int:
    """Measure the peak of a fresh process in a client's step, ``"last"`` or ``"plain"``."""
    found = elsewhere(
        "sparsefl.bench.claims.growth_step", json.dumps(asdict(cell)), setup, broadcast, step
    )
    return int(found["peak_bytes"])


def main(argv: Sequence[str]) -> int:
    """Be the process that measures."""
    folder, step = pathlib.Path(argv[0]), argv[1]
    cell = read_cell(folder)
    torch.set_num_threads(cell.threads)
    torch.manual_seed(cell.seed)
    client, method = rebuild(cell, folder), load_method(cell.method)
    model, optimizer = client.model.train(), method.optimizer(client, 1)
    inputs, labels = cell.inputs(cell.batch_size), torch.randint(cell.classes, (cell.batch_size,))
    for _ in range(_WARMUP):
        local_step(model, optimizer, inputs, labels)
    forget_peak()
    assert method.last_step is not None
    watch = method.last_step(client) if step == "last" else contextlib.nullcontext()
    local_step(model, optimizer, inputs, labels, watch=lambda: watch)
    print(json.dumps({"peak_bytes": resident_bytes("VmHWM")}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
