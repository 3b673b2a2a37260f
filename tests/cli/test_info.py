import sys

from sparsefl import cli


def test_info_says_what_is_there(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["operators"].startswith("compiled, ")
    assert lines["codec"] == "compiled"
    assert lines["digits"] == "shipped"
    assert lines["cores"].isdigit()
    assert "hidenseek" in lines["methods"]
    assert "cnn" in lines["models"]


def test_info_survives_missing_operators(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sparsefl.ops", None)
    assert cli.main(["info"]) == 1
    assert "not available" in capsys.readouterr().out
