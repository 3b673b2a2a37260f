"""Memory of a client's local step, measured in one fresh process a cell.

The process imports, makes one tiny step (torch imports much only then), notes its resident memory,
builds the client from the encoded messages, trains a few steps on random data, and reports its peak
minus the note. Run as a module it is that process:
``python -m sparsefl.fl.memory FOLDER``, with the cell described in the folder by plain JSON and the
messages beside it.
"""

import functools
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl import codec
from sparsefl.fl.loading import load_callable
from sparsefl.fl.method import Client, Task, load_method
from sparsefl.fl.training import local_step
from sparsefl.measuring import forget_peak, resident_bytes, saved_bytes

# Momentum and Adam's moments exist from the first step on; the others let the allocator settle.
_STEPS = 4
_CELL, _SETUP, _BROADCAST = "cell.json", "setup.spfl", "broadcast.spfl"
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Memory:
    """Bytes of a client that trains.

    Attributes:
        peak_bytes: Peak of the process's resident memory, minus what it was after the imports.
        parameters_bytes: Parameters and buffers.
        gradients_bytes: Gradients after a step.
        optimizer_bytes: State of the optimizer.
        activations_bytes: What autograd saves for the backward pass, parameters left out.
        workspace_bytes: The rest of the peak: scratch, plans, code, allocator.
    """

    peak_bytes: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    workspace_bytes: int


@dataclass(frozen=True)
class Cell:
    """What a fresh process needs to rebuild a client.

    Attributes:
        method: Name of the method.
        factory: Function that builds the model, as "package.module:function".
        arguments: Its keyword arguments.
        input_shape: Shape of one sample.
        classes: Labels are drawn below this number.
        batch_size: Examples a step.
        seed: Seed of the run.
        density: Density of the run.
        options: Options of the method.
        threads: Threads of torch.
        capability: As of the task.
        dtype: Of the inputs: random where it is floating-point, else zeros.
        label_shape: Shape of one example's label.
    """

    method: str
    factory: str
    arguments: Mapping[str, Any]
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int
    seed: int
    density: float
    options: Mapping[str, Any]
    threads: int
    dtype: str = "float32"
    label_shape: tuple[int, ...] = ()
    capability: float | None = None

    def inputs(self, count: int) -> Tensor:
        """Return inputs of a batch."""
        dtype, shape = getattr(torch, self.dtype), (count, *self.input_shape)
        # Numbers of tokens, for example: any but zero could be out of the model's range.
        zeros = torch.zeros(shape, dtype=dtype)
        return zeros.normal_() if dtype.is_floating_point else zeros


def measure_memory(cell: Cell, setup: bytes | None, broadcast: bytes) -> Memory:
    """Measure a client in a fresh process.

    Args:
        cell: What to build.
        setup: The set-up message, if the method has one.
        broadcast: A broadcast of the server.

    Raises:
        RuntimeError: if the process fails; its last words are the message.
    """
    return Memory(**elsewhere("sparsefl.fl.memory", json.dumps(asdict(cell)), setup, broadcast))


# The dense baseline of every method of a comparison is one and the same cell.
@functools.lru_cache(maxsize=16)
def elsewhere(
    module: str, cell: str, setup: bytes | None, broadcast: bytes, *arguments: str
) -> dict[str, Any]:
    """Measure something of a client in a fresh process.

    Args:
        module: What runs there, with a folder as its first argument; it prints a JSON object.
        cell: The :class:`Cell` as JSON; :func:`rebuild` finds it beside the messages.
        setup: As of :func:`measure_memory`.
        broadcast: As of it.
        arguments: Further ones.

    Raises:
        RuntimeError: if the process fails; its last words are the message.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / _CELL).write_text(cell)
        (folder / _BROADCAST).write_bytes(broadcast)
        if setup is not None:
            (folder / _SETUP).write_bytes(setup)
        done = subprocess.run(
            [sys.executable, "-m", module, name, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"measuring memory failed: {done.stderr[-2000:]}")
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def _warm_up() -> None:
    """Make a tiny dense step, for what torch imports and opens only then: some 80 MB."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    for kind in (torch.optim.SGD, torch.optim.Adam):
        local_step(
            model,
            kind(model.parameters(), lr=0.1),
            torch.ones(2, 1, 4, 4),
            torch.ones(2, dtype=torch.long),
        )


def read_cell(folder: pathlib.Path) -> Cell:
    """Read the description of a client from the folder that a process was given."""
    return Cell(**json.loads((folder / _CELL).read_text()))


def rebuild(cell: Cell, folder: pathlib.Path) -> Client:
    """Build a client from the messages in a folder: it has received the broadcast."""
    method = load_method(cell.method)
    factory = load_callable(cell.factory)
    task = Task(
        lambda: factory(**cell.arguments),
        cell.inputs(1),
        cell.seed,
        cell.density,
        cell.options,
        capability=cell.capability,
    )
    setup_file = folder / _SETUP
    client = method.new_client(task, setup_file.read_bytes() if setup_file.exists() else None)
    wire = client.wire
    message = (folder / _BROADCAST).read_bytes()
    method.receive(client, codec.decode(message, wire.schema, base=wire.supports))
    return client


def _tensor_bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _measure(folder: pathlib.Path) -> Memory:
    cell = read_cell(folder)
    torch.set_num_threads(cell.threads)
    # What these import is no memory of the client's.
    load_callable(cell.factory)
    load_method(cell.method)
    _warm_up()
    forget_peak()
    before = resident_bytes("VmRSS")
    client = rebuild(cell, folder)
    model = client.model.train()
    optimizer = load_method(cell.method).optimizer(client, 1)
    inputs = cell.inputs(cell.batch_size)
    labels = torch.randint(cell.classes, (cell.batch_size, *cell.label_shape))
    for _ in range(_STEPS):
        local_step(model, optimizer, inputs, labels)
    peak = resident_bytes("VmHWM") - before
    parameters = _tensor_bytes([*model.parameters(), *model.buffers()])
    gradients = _tensor_bytes(parameter.grad for parameter in model.parameters())
    states = _tensor_bytes(v for state in optimizer.state.values() for v in state.values())
    known = [*model.parameters(), *model.buffers(), inputs, labels]
    activations = saved_bytes(lambda: nn.functional.cross_entropy(model(inputs), labels), known)
    accounted = parameters + gradients + states + activations
    return Memory(peak, parameters, gradients, states, activations, max(0, peak - accounted))


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(pathlib.Path(sys.argv[1])))))
