"""What the user sees while rounds are played."""

import importlib
import importlib.util
import sys
import time
from typing import Any


class Progress:
    """A bar on a terminal that has tqdm, else a line a round; both on stderr."""

    def __init__(self, rounds: int) -> None:
        """Start the clock of ``rounds`` rounds a run."""
        self._rounds = rounds
        self._bars: dict[str, Any] = {}
        self._started = time.perf_counter()
        bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
        self._tqdm = importlib.import_module("tqdm").tqdm if bar else None

    def __call__(self, name: str, entry: Any) -> None:
        """Show that a round of the run called ``name`` is over."""
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.3f}"
        if self._tqdm is None:
            seconds = time.perf_counter() - self._started
            print(
                f"[{seconds:5.0f} s] {name} round {entry.round}/{self._rounds}: accuracy "
                f"{accuracy}, up {entry.uplink_bytes} B, down {entry.downlink_bytes} B",
                file=sys.stderr,
                flush=True,
            )
            return
        if name not in self._bars:
            self._bars[name] = self._tqdm(total=self._rounds, desc=f"{name:12}", unit="round")
        bar = self._bars[name]
        bar.set_postfix_str(f"accuracy {accuracy}", refresh=False)
        bar.update(1)
        if entry.round == self._rounds:
            bar.close()


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
