import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from sparsefl import Support, cli, codec

DECLARED = {"a.weight": [[40, 50], "float32"], "a.bias": [[40], "float32"], "n": [[], "int64"]}
SCHEMA = codec.Schema({name: tuple(spec) for name, spec in DECLARED.items()})
KEPT = Support.random((40, 50), 0.2, seed=1)
HEADER_BYTES = 64
GOLDEN = sorted((pathlib.Path(codec.__file__).parent / "golden").glob("*.spfl"))
by_name = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


@pytest.fixture
def broken(capsys):
    """Returns a caller of the command that must end with status 1 and one line, which it gives."""

    def call(*arguments):
        capsys.readouterr()
        assert cli.main(["inspect", *arguments]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1, error
        assert error.startswith(f"sparsefl: {arguments[0]}: ") or "--base" in arguments
        return error

    return call


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
    assert "values that are coded by classes of blocks (format 1.1)" in " ".join(text.split())


def test_a_base_is_read_from_its_message(message, schema, broken, capsys):
    first = message({"a.weight": codec.SupportOnly(KEPT)}, "setup.spfl")
    signs = codec.Signs(KEPT, np.ones(KEPT.nnz, np.int8))
    path = message({"a.weight": signs}, base={"a.weight": KEPT})
    assert cli.main(["inspect", path, *schema, "--base", first]) == 0
    found = lines(capsys.readouterr().out)["a.weight"]
    assert (found["form"], found["of bound"][-1]) == ("Signs", "x")
    other = message({"a.weight": codec.SupportOnly(Support.random((40, 50), 0.2, seed=2))}, "other")
    assert "BASE_MISMATCH" in broken(path, *schema, "--base", other)
    (pathlib.Path(other)).write_bytes(b"")
    assert f"sparsefl: {other}: TRUNCATED" in broken(path, *schema, "--base", other)


def test_without_its_base_a_message_is_described(message, schema, broken, capsys):
    signs = codec.Signs(KEPT, np.ones(KEPT.nnz, np.int8))
    path = message({"a.weight": signs}, base={"a.weight": KEPT})
    assert cli.main(["inspect", path, *schema]) == 0
    text = capsys.readouterr().out
    assert lines(text)["a.weight"]["of bound"] == "-"
    assert "'a.weight' refers to what the receiver had (BASE_MISSING)" in text
    spoil(path, -1)
    assert "CHUNK_CHECKSUM" in broken(path, *schema)


def test_mixed_formats_are_listed_one_by_one(message, schema, capsys):
    entries = {
        "a.weight": codec.Dense(np.full((40, 50), 1 / 3, np.float32)),
        "a.bias": codec.Dense(np.full(40, 1 / 3, np.float32)),
    }
    path = message(entries, value_format={"a.weight": "bf16", "a.bias": "fp32"})
    assert cli.main(["inspect", path, *schema]) == 0
    found = lines(capsys.readouterr().out)
    assert [found[name]["values"] for name in ("a.weight", "a.bias")] == ["bf16", "fp32"]


def spoil(path, at):
    """Flips a bit of a file."""
    data = bytearray(pathlib.Path(path).read_bytes())
    data[at] ^= 1
    pathlib.Path(path).write_bytes(data)


def test_a_damaged_message_shows_what_is_wrong_and_where(message, schema, broken):
    path = message({"a.weight": codec.SupportOnly(KEPT)})
    spoil(path, -1)
    text = broken(path, *schema)
    assert "CHUNK_CHECKSUM: The checksum of a chunk does not match. In 'a.weight'." in text


def test_the_header_is_shown_of_a_damaged_message(message, schema, capsys):
    path = message({"a.weight": codec.SupportOnly(KEPT)})
    spoil(path, -1)
    assert cli.main(["inspect", path, *schema]) == 1
    assert "round 7, 1 tensors" in capsys.readouterr().out


@by_name
def test_a_golden_message_is_outlined_without_its_schema(path, capsys):
    data = path.read_bytes()
    assert cli.main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    outline = codec.outline(data)
    assert f"{len(data):,} bytes stated" in text
    assert len(lines(text)) == len(outline.tensors) == outline.header.tensors
    framing = HEADER_BYTES + 24 * outline.header.tensors + 16 * outline.header.chunks
    assert framing + outline.support_bytes + outline.value_bytes == len(data)


@by_name
def test_a_broken_golden_message_takes_one_line(path, tmp_path, broken):
    data, copy = path.read_bytes(), tmp_path / "copy"
    for length in range(0, len(data), 1 + len(data) // 50):
        copy.write_bytes(data[:length])
        assert "TRUNCATED" in broken(str(copy))
    for at in range(0, len(data), 1 + len(data) // 50):
        copy.write_bytes(data)
        spoil(copy, at)
        broken(str(copy))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "TRUNCATED: Shorter than a header, or than the length that its header states. "),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "MAGIC: Does not begin with the magic bytes"),
    ],
    ids=["empty", "picture"],
)
def test_an_alien_file_is_refused(data, text, tmp_path, broken):
    (tmp_path / "alien").write_bytes(data)
    assert text in broken(str(tmp_path / "alien"))


def test_another_schema_is_named(message, tmp_path, broken):
    path = message({"n": codec.Dense(np.array(3))})
    (tmp_path / "other.json").write_text(json.dumps({"n": [[], "int64"]}))
    fingerprint = codec.Schema({"n": ((), "int64")}).fingerprint
    text = broken(path, "--schema", str(tmp_path / "other.json"))
    assert "SCHEMA: Written for another schema than the receiver's." in text
    assert f"That of --schema is {fingerprint:#018x}." in text


def test_a_support_alone_is_inspected(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")
    (tmp_path / "support.json").write_text(json.dumps({"support": [[40, 50], "bool"]}))
    (tmp_path / "mask").write_bytes(codec.encode_support(KEPT))
    assert (
        cli.main(["inspect", str(tmp_path / "mask"), "--schema", str(tmp_path / "support.json")])
        == 0
    )
    assert lines(capsys.readouterr().out)["support"]["kept"] == "400"


def test_torch_is_not_needed(message, schema):
    path = message({"n": codec.Dense(np.array(3))})
    script = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; sys.modules['torch'] = None; "
        f"from sparsefl import cli; sys.exit(cli.main({['inspect', path, *schema]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 tensors" in done.stdout


def test_the_schema_may_be_a_networks(own, capsys):
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    schema = codec.Schema.of(net)
    entries = {name: codec.Dense(tensor) for name, tensor in net.state_dict().items()}
    (own / "m").write_bytes(codec.encode(codec.Update(entries), schema))
    assert cli.main(["inspect", "m", "--schema", "mine:net"]) == 0
    assert "4 of 4 tensors" in capsys.readouterr().out


def test_what_cannot_be_read_is_refused(tmp_path, message, schema, refused, broken):
    path = message({"n": codec.Dense(np.array(3))})
    with open(path, "r+b") as file:
        file.truncate(70)
    assert "TRUNCATED" in broken(path, *schema)
    assert "The file has 70 bytes" in broken(path, *schema)
    assert "give --schema too" in refused("inspect", path, "--base", path)
    assert "No such file" in refused("inspect", str(tmp_path / "absent"), *schema)
    (tmp_path / "bad.json").write_text("[1]")
    assert "no JSON of tensors" in refused("inspect", path, "--schema", str(tmp_path / "bad.json"))
