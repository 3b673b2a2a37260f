import csv
import json
import sys
import types

import pytest

from sparsefl.fl import logs
from sparsefl.fl.ledger import Round

ROUNDS = [
    Round(1, clients=3, uplink_bytes=120, train_s=0.5, loss=1.25),
    Round(2, clients=2, lost=1, uplink_bytes=80, train_s=0.25, loss=None, accuracy=0.75),
]


def test_csv_has_a_line_a_round_and_gaps_where_nothing_is_known(tmp_path):
    with logs.CsvLog(tmp_path / "new" / "run.csv") as log:
        for entry in ROUNDS:
            log(entry)
        # A run that is killed leaves every finished round.
        assert len((tmp_path / "new" / "run.csv").read_text().splitlines()) == 3
    with (tmp_path / "new" / "run.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["round"], first["uplink_bytes"], first["accuracy"]) == ("1", "120", "")
    assert (second["lost"], second["loss"], second["accuracy"]) == ("1", "", "0.75")


@pytest.mark.parametrize("append", [True, False])
def test_a_resumed_log_goes_on_below(append, tmp_path):
    for entry in ROUNDS:
        with logs.CsvLog(tmp_path / "run.csv", append) as table:
            table(entry)
        with logs.JsonLinesLog(tmp_path / "run.jsonl", append) as lines:
            lines(entry)
    rows = (tmp_path / "run.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == (
        ["round", "1", "2"] if append else ["round", "2"]
    )
    records = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == ([1, 2] if append else [2])
    assert records[-1] == vars(ROUNDS[1])


def test_a_log_forgets_rounds_that_are_played_again_and_lines_that_were_cut(tmp_path):
    paths = tmp_path / "run.csv", tmp_path / "run.jsonl"
    kinds = logs.CsvLog, logs.JsonLinesLog
    for kind, path in zip(kinds, paths, strict=True):
        with kind(path) as log:
            for number in range(1, 5):
                log(Round(number, uplink_bytes=number))
        with path.open("a") as file:
            file.write(path.read_text().splitlines()[-1][:7])
        with kind(path, append=True) as log:
            for number in (3, 4, 5):
                log(Round(number, uplink_bytes=10 * number))
    with paths[0].open() as file:
        rows = [(row["round"], row["uplink_bytes"]) for row in csv.DictReader(file)]
    lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert rows == [("1", "1"), ("2", "2"), ("3", "30"), ("4", "40"), ("5", "50")]
    assert [(line["round"], line["uplink_bytes"]) for line in lines] == [
        (int(number), int(sent)) for number, sent in rows
    ]


def test_a_run_writes_several_logs_at_once(tmp_path, small):
    seen = []
    with logs.CsvLog(tmp_path / "run.csv") as table:
        result = small("fedavg", on_round=logs.tee(table, seen.append))
    assert seen == result.ledger.rounds
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 4


class Writer:
    """Stands for TensorBoard's writer, which is an extra."""

    def __init__(self, folder):
        self.folder, self.scalars, self.closed = folder, [], False

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_scalars_by_group(tmp_path, monkeypatch):
    module = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with logs.TensorBoardLog(tmp_path / "board") as log:
        for entry in ROUNDS:
            log(entry)
        writer = log._writer
    assert writer.folder == str(tmp_path / "board")
    assert ("bytes/uplink", 120, 1) in writer.scalars
    assert ("seconds/train", 0.25, 2) in writer.scalars
    assert ("accuracy", 0.75, 2) in writer.scalars
    assert not [tag for tag, _, step in writer.scalars if step == 1 and tag == "accuracy"]
    assert writer.closed


def test_tensorboard_itself_reads_the_scalars(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with logs.TensorBoardLog(tmp_path) as log:
        for entry in ROUNDS:
            log(entry)
    events = accumulators.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("bytes/uplink")] == [(1, 120.0), (2, 80.0)]


def test_missing_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"sparsefl\[tensorboard\]"):
        logs.TensorBoardLog(tmp_path)
