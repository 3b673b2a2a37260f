"""Which runs may go on from a checkpoint: those that agree in all but what is free."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sparsefl.codec import Schema
from sparsefl.fl.batches import Dataset
from sparsefl.fl.checkpoint import Checkpoint
from sparsefl.fl.checks import ClientData, data_sha256
from sparsefl.fl.method import Task

_logger = logging.getLogger(__name__)

# What a run that goes on may have otherwise than its checkpoint: the data are compared themselves.
_FREE = ("rounds", "label", "data")


def with_saved_horizon(
    options: Mapping[str, Any], folder: str | os.PathLike[str]
) -> Mapping[str, Any]:
    """Fill in the horizon of a cosine schedule that has none from the run that goes on."""
    if options.get("lr_schedule") != "cosine" or options["lr_horizon"]:
        return options
    saved = Checkpoint(folder, {}).saved_config() or {}
    return {**options, "lr_horizon": saved.get("options", {}).get("lr_horizon", 0)}


def checkpoint_of(
    folder: str | os.PathLike[str] | None,
    config: Mapping[str, Any],
    data: Sequence[ClientData],
    task: Task,
    dev: Dataset | None,
) -> Checkpoint | None:
    """Say what a checkpoint must agree in: the configuration, the model, all data but the test's.

    Development data count too: methods choose by the clients', and rounds are judged by either.
    """
    if folder is None:
        return None
    schema = Schema.of(task.new_model())
    same = {key: value for key, value in config.items() if key not in _FREE} | {
        "parameters": {name: [list(spec.shape), spec.dtype] for name, spec in schema.items()},
        "examples": [len(client.train) for client in data],
        "train_sha256": _sha256_of([client.train for client in data]),
        "dev_sha256": _sha256_of([client.dev for client in data]),
        "server_dev_sha256": None if dev is None else data_sha256(dev),
        "public_sha256": None if task.public is None else data_sha256(task.public),
    }
    return Checkpoint(folder, same)


def _sha256_of(datasets: Sequence[Dataset]) -> dict[str, str]:
    return {f"clients[{number}]": data_sha256(data) for number, data in enumerate(datasets)}


def saved_run(checkpoint: Checkpoint | None, resume: bool, rounds: int) -> dict[str, Any] | None:
    """Return the run to go on with, if there is one.

    Raises:
        ValueError: if the checkpoint is of another run, or further than this one should go, or is
            there although nothing is to be resumed.
    """
    if checkpoint is None:
        if resume:
            raise ValueError("resume needs checkpoint, the folder to go on from")
        return None
    saved = checkpoint.load()
    if saved is None:
        return None
    if not resume:
        raise ValueError(
            f"checkpoint: {checkpoint.path} exists already; give resume=True to go on with it, or "
            "another folder"
        )
    done = len(saved["ledger"].rounds)
    if done > rounds:
        raise ValueError(f"rounds is {rounds}, the checkpoint has played {done} already")
    options = checkpoint.config["options"]
    if options.get("lr_schedule") == "cosine" and options["lr_horizon"] < rounds:
        _logger.warning(
            "the learning rate is 0 after round %d, where the run was to end when it began",
            options["lr_horizon"],
        )
    return saved
