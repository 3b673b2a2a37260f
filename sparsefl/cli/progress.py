"""What the user sees while rounds are played."""

import importlib
import importlib.util
import sys
import time
from typing import Any


class Progress:
    """A bar on a terminal that has tqdm, else a line a round; both on stderr.

    Both tell round, accuracy, all bytes sent so far and the time that the run has left.
    """

    def __init__(self, rounds: int) -> None:
        """Start the clock of ``rounds`` rounds a run."""
        self._rounds = rounds
        self._bars: dict[str, Any] = {}
        # When a run's first round began that is seen here, and its number.
        self._begun: dict[str, tuple[float, int]] = {}
        self._started = self._last = time.perf_counter()
        bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
        self._tqdm = importlib.import_module("tqdm").tqdm if bar else None

    def __call__(self, name: str, entry: Any) -> None:
        """Show that a round of the run called ``name`` is over."""
        begun, first = self._begun.setdefault(name, (self._last, entry.round))
        self._last = time.perf_counter()
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.3f}"
        size = importlib.import_module("sparsefl.fl.table").size
        if self._tqdm is None:
            each_s = (self._last - begun) / (entry.round + 1 - first)
            print(
                f"[{self._last - self._started:5.0f} s] {name} round {entry.round}/{self._rounds}: "
                f"accuracy {accuracy}, up {entry.uplink_bytes} B, down {entry.downlink_bytes} B, "
                f"{size(entry.spent_bytes)} so far, "
                f"{_duration(each_s * (self._rounds - entry.round))} left",
                file=sys.stderr,
                flush=True,
            )
            return
        if name not in self._bars:
            # tqdm itself tells the time that is left.
            self._bars[name] = self._tqdm(
                total=self._rounds, initial=first - 1, desc=f"{name:12}", unit="round"
            )
        bar = self._bars[name]
        bar.set_postfix_str(f"accuracy {accuracy}, {size(entry.spent_bytes)}", refresh=False)
        bar.update(1)
        if entry.round == self._rounds:
            bar.close()


def _duration(seconds: float) -> str:
    """Format seconds as ``12 s``, ``3:05 min`` or ``2:07 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return (
        f"{minutes}:{whole % 60:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
    )


def describe(result: Any) -> str:
    """Say in one line what was trained, from the result's configuration."""
    config = result.config
    work = f"{config['local_epochs']} local epoch{'s' * (config['local_epochs'] > 1)}"
    if config["local_steps"] is not None:
        work += f" of at most {config['local_steps']} steps"
    return (
        f"{config['data']}, {config['clients']} clients, "
        f"{config['clients_per_round'] or 'all'} take part, {config['rounds']} rounds, {work}, "
        f"batch {config['batch_size']}\n"
    )
