"""What a user sees of the rounds: a line each, or a bar."""

import sys
import types

import pytest

from sparsefl.cli import progress
from sparsefl.fl.ledger import Round

ENTRIES = [
    Round(number, accuracy=acc, uplink_bytes=10, downlink_bytes=20, spent_bytes=1500 * number)
    for number, acc in ((3, 0.5), (4, None), (5, 0.625))
]


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 30 seconds whenever it is read."""
    seconds = iter(range(0, 10_000, 30))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(seconds))


def test_without_a_terminal_a_line_tells_accuracy_bytes_and_time_left(clock, capsys):
    shown = progress.Progress(100)
    for entry in ENTRIES:
        shown("fedpt", entry)
    first, second, third = capsys.readouterr().err.splitlines()
    assert "fedpt round 3/100: accuracy 0.500, up 10 B, down 20 B, 4.5 kB so far" in first
    assert first.endswith("48:30 min left")
    assert "accuracy -" in second
    assert third.endswith(
        "round 5/100: accuracy 0.625, up 10 B, down 20 B, 7.5 kB so far, 47:30 min left"
    )


BARS = []


class Bar:
    """Stands for tqdm's bar, an extra."""

    def __init__(self, **named):
        self.named, self.done, self.texts, self.closed = named, named["initial"], [], False
        BARS.append(self)

    def set_postfix_str(self, text, refresh):
        self.texts.append(text)

    def update(self, count):
        self.done += count

    def close(self):
        self.closed = True


def test_on_a_terminal_a_bar_goes_on_where_a_resumed_run_does(monkeypatch):
    BARS.clear()
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.Progress(5)
    for entry in ENTRIES:
        shown("fedpt", entry)
    (bar,) = BARS
    assert (bar.named["initial"], bar.named["total"], bar.done, bar.closed) == (2, 5, 5, True)
    assert bar.texts == ["accuracy 0.500, 4.5 kB", "accuracy -, 6 kB", "accuracy 0.625, 7.5 kB"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01 min"), (7260, "2:01 h")]
)
def test_durations(seconds, text):
    assert progress._duration(seconds) == text
