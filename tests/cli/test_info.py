import re
import sys

from sparsefl import cli
from sparsefl.ops import _dispatch


def test_info_says_what_is_there(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["operators"].startswith("compiled, ")
    assert lines["codec"] == "compiled"
    assert lines["digits"] == "shipped"
    assert lines["cores"].isdigit()
    assert lines["layouts"] == "SPARSEFL_LAYOUT=density"
    assert re.match(r"on, \d+ GiB of addresses|off", lines["pool"])
    assert "unverified: " in lines["kernels"]
    assert "hidenseek" in lines["methods"]
    assert "cnn" in lines["models"]


def test_info_says_what_layouts_rest_on(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFL_LAYOUT", "measured")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _dispatch.forget()
    try:
        assert cli.main(["info"]) == 0
    finally:
        monkeypatch.undo()
        _dispatch.forget()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["layouts"].startswith("shipped with the package (")
    assert re.search(r"dense from density on: linear [01]\b", lines["layouts"])


def test_info_survives_missing_operators(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sparsefl.ops", None)
    assert cli.main(["info"]) == 1
    assert "not available" in capsys.readouterr().out
