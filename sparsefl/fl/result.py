"""The outcome of a run: accuracy, ledger, costs claimed and measured, and the final model."""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.fl.costs import Costs
from sparsefl.fl.ledger import Ledger, json_ready
from sparsefl.fl.plots import plot_curves
from sparsefl.fl.table import format_table

# What of the configuration tells experiments apart, beside what a row's table prints.
_EXPERIMENT = (
    "data",
    "clients",
    "clients_per_round",
    "sampling",
    "batch_size",
    "local_epochs",
    "local_steps",
    "options",
    "capabilities",
)


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        method: Name of the method.
        config: Everything that determines the run, JSON-ready.
        accuracy: Test accuracy of the last global model; NaN without test data, null in files.
        accuracy_per_client: "mean", "worst_decile" and "each" of the clients' own held-out data;
            for methods whose clients have models of their own, the same of these as "personal".
        ledger: Bytes and seconds of every round.
        costs: Claimed and measured costs.
        model: The final global model, in plain torch.
        model_sha256: Its fingerprint: equal for equal seeds.
    """

    method: str
    config: Mapping[str, Any]
    accuracy: float
    accuracy_per_client: Mapping[str, Any]
    ledger: Ledger
    costs: Costs
    model: nn.Module
    model_sha256: str

    def row(self) -> dict[str, Any]:
        """Return the run as one row of ``compare.json``; what was not measured is ``None``."""
        row: dict[str, Any] = json_ready(self._row())
        return row

    def _row(self) -> dict[str, Any]:
        sums, costs = self.ledger.sums(), self.costs
        return {
            "method": self.config["label"],
            "model": self.config["model"],
            "norm": self.config["norm"],
            "density": self.config["density"],
            "seed": self.config["seed"],
            "threads": self.config["threads"],
            "rounds": self.config["rounds"],
            **{name: self.config[name] for name in _EXPERIMENT},
            "capabilities": sorted(set(self.config["capabilities"] or ()), reverse=True) or None,
            "accuracy": self.accuracy,
            "accuracy_per_client": dict(self.accuracy_per_client),
            "uplink_bytes": sums["uplink_bytes"],
            "downlink_bytes": sums["downlink_bytes"],
            "setup_bytes": sums["setup_bytes"],
            "setup_uplink_bytes": sums["setup_uplink_bytes"],
            "uplink_bound_bytes": sums["uplink_bound_bytes"],
            "downlink_bound_bytes": sums["downlink_bound_bytes"],
            "uplink_claimed_bytes": costs.uplink_claimed_bytes,
            "uplink_dense_bytes": costs.uplink_dense_bytes,
            "downlink_dense_bytes": costs.downlink_dense_bytes,
            "client_step_s": costs.client_step and costs.client_step.median_s,
            "dense_step_s": costs.dense_step and costs.dense_step.median_s,
            "claimed_flops": costs.claimed_flops,
            "dense_flops": costs.dense_flops,
            "client_peak_bytes": costs.client_memory and costs.client_memory.peak_bytes,
            "dense_peak_bytes": costs.dense_memory and costs.dense_memory.peak_bytes,
            "encode_s": sums["encode_s"],
            "decode_s": sums["decode_s"],
            "aggregate_s": sums["aggregate_s"],
            "step_factor": costs.step_factor,
            "groups": self.ledger.group_lines(),
            **self._privacy(),
        }

    def _privacy(self) -> dict[str, Any]:
        """Return what the run spent of its clients' privacy, where it was accounted for."""
        spent = self.ledger.rounds[-1].epsilon if self.ledger.rounds else None
        if spent is None:
            return {}
        return {"epsilon": spent, "delta": self.config["options"]["dp_delta"]}

    def rounds_to(self, target: float) -> int | None:
        """Return the first round with at least that accuracy on the development data, if any.

        Raises:
            ValueError: if ``target`` is not over 0 and at most 1.
        """
        return self.ledger.rounds_to(target)

    def report(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        report: dict[str, Any] = json_ready(self._report())
        return report

    def _report(self) -> dict[str, Any]:
        return {
            "config": dict(self.config),
            "accuracy": self.accuracy,
            "accuracy_per_client": dict(self.accuracy_per_client),
            "model_sha256": self.model_sha256,
            "ledger": self.ledger.sums(),
            "costs": asdict(self.costs),
            "row": self._row(),
        }

    def table(self) -> str:
        """Format claimed beside measured, as text."""
        return format_table([self.row()])

    def plot(self, path: str | pathlib.Path) -> None:
        """Plot accuracy against total bytes into an image file (needs matplotlib)."""
        plot_curves({self.config["label"]: self.ledger.curve()}, path)

    def save(self, folder: str | pathlib.Path) -> None:
        """Write ``log.jsonl`` (a line a round), ``result.json`` and ``model.pt`` into a folder.

        ``model.pt`` is the final global model's state_dict, for the network that was given to
        :func:`sparsefl.fl.run`: ``net.load_state_dict(torch.load(path, weights_only=True))``.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(line) for line in self.ledger.lines())
        (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (folder / "result.json").write_text(json.dumps(self.report(), indent=2) + "\n")
        torch.save(self.model.state_dict(), folder / "model.pt")


def model_sha256(model: nn.Module) -> str:
    """Fingerprint a model: SHA-256 over name, dtype, shape and bytes of its sorted state_dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    """Return a tensor's elements, row-major, of any dtype: numpy has no bfloat16."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def summarise_clients(accuracies: Sequence[float]) -> dict[str, Any]:
    """Return mean and mean of the worst tenth (at least one client), beside each client's own.

    A client without examples has NaN: ``None`` in "each", and left out of the others, which are
    ``None`` where no client is left.
    """
    known = sorted(value for value in accuracies if not math.isnan(value))
    worst = known[: max(1, len(known) // 10)]
    return {
        "mean": sum(known) / len(known) if known else None,
        "worst_decile": sum(worst) / len(worst) if known else None,
        "each": [None if math.isnan(value) else value for value in accuracies],
    }
