"""Claimed beside measured, as text: one line a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
_Column: TypeAlias = tuple[str, Callable[[Row], str]]

_ABSENT = "-"


def factor(dense: float | None, ours: float | None) -> float | None:
    """Return ``dense / ours``: how many times less ours is; ``None`` where one is unknown."""
    return None if not dense or not ours else dense / ours


def claimed_uplink_factor(row: Row) -> float | None:
    """Return how many times fewer bytes the method claims to send up."""
    return factor(row["uplink_dense_bytes"], row["uplink_claimed_bytes"])


def measured_uplink_factor(row: Row) -> float | None:
    """Return how many times fewer bytes its messages up have."""
    return factor(row["uplink_dense_bytes"], row["uplink_bytes"])


def claimed_step_factor(row: Row) -> float | None:
    """Return how many times fewer FLOPs the method claims for a local step."""
    return factor(row["dense_flops"], row["claimed_flops"])


def measured_step_factor(row: Row) -> float | None:
    """Return how many times faster than dense torch its local step is."""
    return factor(row["dense_step_s"], row["client_step_s"])


def realised(measured: float | None, claimed: float | None) -> float | None:
    """Return the realised factor, ``measured / claimed``."""
    return None if measured is None or claimed is None else measured / claimed


def size(count: float | None) -> str:
    """Format bytes with three digits, in units of 1000."""
    if count is None:
        return _ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _times(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3g}x"


def _share(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3f}"


def _milliseconds(value: float | None) -> str:
    return _ABSENT if value is None else f"{1000 * value:.3g}"


_NAME: _Column = ("method", lambda row: str(row["method"]))
_SECTIONS: tuple[tuple[str, tuple[_Column, ...]], ...] = (
    (
        "Accuracy of the last global model, test data and each client's own development data",
        (
            _NAME,
            ("model", lambda row: str(row["model"])),
            ("norm", lambda row: row["norm"] or "none"),
            ("density", lambda row: f"{row['density']:g}"),
            ("seed", lambda row: str(row["seed"])),
            ("rounds", lambda row: str(row["rounds"])),
            ("test", lambda row: _share(row["accuracy"])),
            ("clients' mean", lambda row: _share(row["accuracy_per_client"]["mean"])),
            ("worst decile", lambda row: _share(row["accuracy_per_client"]["worst_decile"])),
        ),
    ),
    (
        "Bytes of the encoded messages, all clients, all rounds (x: dense FedAvg / this)",
        (
            _NAME,
            ("up", lambda row: size(row["uplink_bytes"])),
            ("claimed", lambda row: size(row["uplink_claimed_bytes"])),
            ("bound", lambda row: size(row["uplink_bound_bytes"])),
            ("claimed x", lambda row: _times(claimed_uplink_factor(row))),
            ("measured x", lambda row: _times(measured_uplink_factor(row))),
            (
                "realised",
                lambda row: _share(
                    realised(measured_uplink_factor(row), claimed_uplink_factor(row))
                ),
            ),
            ("down", lambda row: size(row["downlink_bytes"])),
            (
                "down x",
                lambda row: _times(factor(row["downlink_dense_bytes"], row["downlink_bytes"])),
            ),
            ("set-up", lambda row: size(row["setup_bytes"])),
        ),
    ),
    (
        "Local step, optimizer included, against the same model dense in plain torch",
        (
            _NAME,
            ("threads", lambda row: str(row["threads"])),
            ("ms", lambda row: _milliseconds(row["client_step_s"])),
            ("dense ms", lambda row: _milliseconds(row["dense_step_s"])),
            ("claimed x", lambda row: _times(claimed_step_factor(row))),
            ("measured x", lambda row: _times(measured_step_factor(row))),
            (
                "realised",
                lambda row: _share(realised(measured_step_factor(row), claimed_step_factor(row))),
            ),
            ("peak memory", lambda row: size(row["client_peak_bytes"])),
            ("dense", lambda row: size(row["dense_peak_bytes"])),
        ),
    ),
    (
        "Seconds beside training, all clients, all rounds",
        (
            _NAME,
            ("encode", lambda row: f"{row['encode_s']:.2f}"),
            ("decode", lambda row: f"{row['decode_s']:.2f}"),
            ("aggregate", lambda row: f"{row['aggregate_s']:.2f}"),
        ),
    ),
)


def format_table(rows: Sequence[Row]) -> str:
    """Format rows of ``compare.json`` as aligned text, one section a question.

    A realised factor of 1 means that what is claimed was measured; ``-`` means not measured.
    """
    return "\n\n".join(_section(title, columns, rows) for title, columns in _SECTIONS)


def _section(title: str, columns: Sequence[_Column], rows: Sequence[Row]) -> str:
    cells = [[name for name, _ in columns]]
    cells += [[show(row) for _, show in columns] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    lines = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])
