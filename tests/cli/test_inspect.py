import json

import numpy as np
import pytest

from sparsefl import Support, cli, codec

DECLARED = {"a.weight": [[40, 50], "float32"], "a.bias": [[40], "float32"], "n": [[], "int64"]}
SCHEMA = codec.Schema({name: tuple(spec) for name, spec in DECLARED.items()})
KEPT = Support.random((40, 50), 0.2, seed=1)
HEADER_BYTES = 64


@pytest.fixture
def schema(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")  # the table in one piece
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(DECLARED))
    return ["--schema", str(path)]


@pytest.fixture
def message(tmp_path):
    """Returns a writer of messages into files."""

    def write(entries, name="m.spfl", round=7, **how):
        path = tmp_path / name
        path.write_bytes(codec.encode(codec.Update(entries, round=round), SCHEMA, **how))
        return str(path)

    return write


def lines(text):
    """Returns the cells of each tensor, by column."""
    rows = [[c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines()]
    head = next(row for row in rows if row[:1] == ["tensor"])
    return {
        r[0]: dict(zip(head, r, strict=True)) for r in rows if len(r) == len(head) and r != head
    }


@pytest.mark.parametrize("value_format", ["fp32", "bf16", "int8", "int4"])
def test_tensors_are_listed_with_their_bytes(value_format, message, schema, capsys):
    values = np.random.default_rng(0).normal(size=KEPT.nnz).astype(np.float32)
    entries = {
        "a.weight": codec.Sparse(KEPT, values),
        "a.bias": codec.Dense(np.zeros(40, np.float32)),
        "n": codec.Dense(np.array(3)),
    }
    path = message(entries, value_format=value_format)
    assert cli.main(["inspect", path, *schema]) == 0
    text = capsys.readouterr().out
    found = lines(text)
    weight = found["a.weight"]
    assert (weight["form"], weight["shape"], weight["kept"]) == ("Sparse", "40x50", "400")
    assert weight["density"] == "0.2"
    assert (weight["values"], weight["support"]) == (value_format, "sent")
    assert weight["coders"].split("+")[0] in ("rice", "rans-gaps")
    coarse = value_format in ("int8", "int4")
    assert found["a.bias"]["values"] == ("fp32" if coarse else value_format)
    assert "round 7, 3 tensors" in text
    with open(path, "rb") as file:
        total = len(file.read())
    assert sum(int(row["bytes"].replace(",", "")) for row in found.values()) == total - HEADER_BYTES
    assert f"{total:,} bytes stated" in text
    assert float(weight["of bound"].rstrip("x")) >= 1


def test_a_base_is_read_from_its_message(message, schema, refused, capsys):
    first = message({"a.weight": codec.SupportOnly(KEPT)}, "setup.spfl")
    signs = codec.Signs(KEPT, np.ones(KEPT.nnz, np.int8))
    path = message({"a.weight": signs}, base={"a.weight": KEPT})
    assert "BASE_MISSING" in refused("inspect", path, *schema)
    assert cli.main(["inspect", path, *schema, "--base", first]) == 0
    assert lines(capsys.readouterr().out)["a.weight"]["form"] == "Signs"


def test_mixed_formats_are_listed_one_by_one(message, schema, capsys):
    entries = {
        "a.weight": codec.Dense(np.full((40, 50), 1 / 3, np.float32)),
        "a.bias": codec.Dense(np.full(40, 1 / 3, np.float32)),
    }
    path = message(entries, value_format={"a.weight": "bf16", "a.bias": "fp32"})
    assert cli.main(["inspect", path, *schema]) == 0
    found = lines(capsys.readouterr().out)
    assert [found[name]["values"] for name in ("a.weight", "a.bias")] == ["bf16", "fp32"]


def test_a_damaged_message_shows_its_header_and_what_is_wrong(message, schema, refused, capsys):
    path = message({"a.weight": codec.SupportOnly(KEPT)})
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    text = refused("inspect", path, *schema)
    assert (
        "CHUNK_CHECKSUM (tensor 0 of the message): The checksum of a chunk does not match." in text
    )


def test_the_schema_may_be_a_networks(own, capsys):
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    schema = codec.Schema.of(net)
    entries = {name: codec.Dense(tensor) for name, tensor in net.state_dict().items()}
    (own / "m").write_bytes(codec.encode(codec.Update(entries), schema))
    assert cli.main(["inspect", "m", "--schema", "mine:net"]) == 0
    assert "4 of 4 tensors" in capsys.readouterr().out


def test_what_is_no_message_is_refused(tmp_path, message, schema, refused):
    path = message({"n": codec.Dense(np.array(3))})
    with open(path, "r+b") as file:
        file.truncate(70)
    assert "TRUNCATED" in refused("inspect", path, *schema)
    assert "No such file" in refused("inspect", str(tmp_path / "absent"), *schema)
    (tmp_path / "bad.json").write_text("[1]")
    assert "no JSON of tensors" in refused("inspect", path, "--schema", str(tmp_path / "bad.json"))
