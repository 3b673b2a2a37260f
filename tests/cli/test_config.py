"""Files of settings: their layers, what they refuse, and that a run repeats from its own."""

import argparse
import inspect
import json

import pytest

from sparsefl import cli
from sparsefl.cli import config, settings
from sparsefl.cli.resolve import resolve
from sparsefl.names import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_from_its_resolved_configuration(method, run, tiny, tmp_path):
    quick = ["--set", "iterations=5"] if method == "hidenseek" else []
    # ADP needs a convolution after the first, with batch norm.
    gated = ["--model", "cnn", "--norm", "batch"] if method == "adp" else []
    first = run(method, *tiny, *quick, *gated, "--seed", "3", "--lr", "0.02", out="first")
    again = run(method, "--config", str(tmp_path / "first/config.toml"), out="again")
    assert again["model_sha256"] == first["model_sha256"]
    assert again["config"] == first["config"]
    written = [(tmp_path / out / "config.toml").read_text() for out in ("first", "again")]
    assert written[0].split("\n", 1)[1] == written[1].split("\n", 1)[1]


def test_the_file_names_the_method(run, tiny, tmp_path):
    run("fedavg", *tiny, out="first")
    assert run("--config", str(tmp_path / "first/config.toml"))["config"]["method"] == "fedavg"


def test_a_row_of_a_comparison_repeats_as_a_run(run, tiny, tmp_path):
    compared = ["--methods", "linear,fedpt", "--timed-steps", "0", "--no-memory", "--no-plots"]
    assert cli.main(["compare", *tiny, *compared, "--out", str(tmp_path / "c")]) == 0
    row = json.loads((tmp_path / "c/fedpt-0/result.json").read_text())
    alone = run("fedpt", "--config", str(tmp_path / "c/config.toml"))
    assert alone["model_sha256"] == row["model_sha256"]


def test_own_data_and_model_repeat(own, run):
    first = run("fedavg", "--data", "mine:clients", "--model", "mine:net", out="first")
    again = run("--config", str(own / "first/config.toml"), out="again")
    assert again["model_sha256"] == first["model_sha256"]


def test_the_command_line_lies_over_the_file_over_the_defaults(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'dataset = "digits"\nmodel = "mlp"\nclients = 3\nrounds = 1\nlocal_steps = 1\n'
        "batch_size = 5\nlr = 0.5\nseed = 4\n[fedavg]\nmomentum = 0.25\n"
    )
    over = ["--rounds", "2", "--set", "local_steps=2", "--set", "fedavg.momentum=0.75"]
    used = run("fedavg", "--config", str(file), *over)["config"]
    assert (used["rounds"], used["local_steps"]) == (2, 2)
    assert (used["batch_size"], used["seed"], used["clients"]) == (5, 4, 3)
    assert (used["options"]["momentum"], used["options"]["lr"]) == (0.75, 0.5)
    assert used["local_epochs"] == settings.DEFAULTS["run"]["local_epochs"]


def test_options_of_the_model_are_given_recorded_and_repeated(run, tiny, tmp_path):
    first = run("fedavg", *tiny, "--set", "model.width=0.5", out="first")
    whole = run("fedavg", *tiny, out="whole")
    assert first["row"]["uplink_bytes"] < 0.6 * whole["row"]["uplink_bytes"]
    assert first["config"]["model"] == first["row"]["model"] == "mlp width=0.5"
    written = config.read(tmp_path / "first/config.toml")
    assert written["model"] == {"name": "mlp", "width": 0.5}
    again = run("--config", str(tmp_path / "first/config.toml"), out="again")
    assert again["model_sha256"] == first["model_sha256"]
    over = ["--config", str(tmp_path / "first/config.toml"), "--model", "cnn", "--dry-run"]
    assert cli.main(["run", *over]) == 0


def test_options_of_the_model_are_not_the_linear_rows(tiny, tmp_path):
    given = ["--set", "model.width=0.5", "--timed-steps", "0", "--no-memory", "--no-plots"]
    rows = ["--methods", "linear,fedavg", "--out", str(tmp_path)]
    assert cli.main(["compare", *tiny, *given, *rows]) == 0
    written = json.loads((tmp_path / "compare.json").read_text())
    assert [row["model"] for row in written["rows"]] == ["linear", "mlp width=0.5"]
    assert written["config"]["model_options"] == {"width": 0.5}


def test_tables_of_other_methods_are_left_alone(run, tiny, tmp_path):
    file = tmp_path / "both.toml"
    file.write_text("[fedpt]\nlr = 0.5\n[fedavg]\nlr = 0.25\n")
    assert run("fedavg", *tiny, "--config", str(file))["config"]["options"]["lr"] == 0.25


def test_none_unsets_a_default(run, tiny, tmp_path):
    file = tmp_path / "all.toml"
    file.write_text('local_steps = "none"\nclients_per_round = 2\n')
    flags = [*tiny[:6], "--rounds", "1", "--set", "clients_per_round=none"]
    used = run("fedavg", *flags, "--config", str(file))["config"]
    assert used["local_steps"] is None
    assert used["clients_per_round"] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("round = 3", "no setting 'round'; did you mean rounds?"),
        ("momentun = 0.5", "did you mean momentum?"),
        ("[fedavg]\nlearning_rate = 1", "fedavg has no option 'learning_rate'"),
        ("[fedavg]\nmomentun = 0.5", "did you mean momentum?"),
        ("[model]\nwidht = 0.5", "did you mean width?"),
        ('[model]\nname = "linear"\nwidth = 0.5', "model 'linear' has no option 'width'"),
        ('[model]\nname = "mine:net"\nwidth = 0.5', "model.width has no meaning"),
        ('[model]\nname = "mpl"\nwidth = 0.5', "name must be one of"),
        ('dataset = "digits"\n[model]\nwidth = 0', "width must be positive"),
        ("width = 0.5", "as an option of the model it is model.width"),
        ("[hidenseak]\nlr = 1", "did you mean hidenseek?"),
        ("rounds = 2.5", "rounds must be an integer, got 2.5"),
        ("rounds = true", "rounds must be an integer, got True"),
        ('density = "much"', "density must be a number, got 'much'"),
        ('norm = "layer"', "norm must be one of batch, group, got 'layer'"),
        ("memory = 1", "memory must be true or false, got 1"),
        ("seeds = [0, 0.5]", "seeds must be an integer, got 0.5"),
        ("seed = 1\nseeds = [1, 2]", "seeds comes twice"),
        ('[fedavg]\nlr = "fast"', "lr must be a number, got 'fast'"),
        ("rounds = ", "is no TOML"),
        ('dataset = "mine:clients"\npartition = "iid"', "partition has no meaning"),
    ],
    ids=lambda value: value.replace("\n", " ") if "=" in value else "",
)
def test_what_a_file_must_not_say(text, says, refused, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert says in refused("run", "fedavg", "--config", str(file), "--out", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "rounds"], "KEY=VALUE"),
        (["--set", "=3"], "KEY=VALUE"),
        (["--set", "rounds=3", "--set", "rounds=4"], "twice"),
        (["--set", "rounds=3", "--rounds", "4"], "rounds comes twice"),
        (["--seed", "1", "--seeds", "1,2"], "seeds comes twice"),
        (["--set", "hidenseek.lr=1"], "hidenseek is not among the methods, fedavg"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_command_line_must_not_say(arguments, says, refused):
    assert says in refused("run", "fedavg", *arguments)


@pytest.mark.parametrize(
    "value", ['a"b\\c', "tab\tnew\nline\x7f\x00", "é😀", 1, -2.5, 1e-30, True, ["a", 1], []]
)
def test_what_is_written_is_read_again(value, tmp_path):
    file = tmp_path / "c.toml"
    config.write(file, "head", {"key": value, "table": {"inner": value}, "empty": {}})
    assert config.read(file) == {"key": value, "table": {"inner": value}}
    assert file.read_text().startswith("# head c.toml\n")


def test_defaults_agree_with_the_package():
    from sparsefl.fl import Schedule, run
    from sparsefl.fl.experiment import Setting

    given = settings.DEFAULTS["run"]
    known = {**vars(Setting()), **vars(Schedule())}
    # Steps are timed unless the command line says otherwise.
    shared = (set(given) & set(known)) - {"timed_steps"}
    assert shared >= {"model", "clients", "partition", "rounds", "batch_size", "density"}
    assert {name: given[name] for name in shared} == {name: known[name] for name in shared}
    for name in ("density", "rounds"):
        assert inspect.signature(run).parameters[name].default == given[name]


@pytest.mark.parametrize(
    "command", [["run", "fedavg"], ["run", "fedavg", "--dry-run"], ["compare"]]
)
def test_a_device_that_is_not_there_is_refused(command, tiny, refused, tmp_path):
    out = ["--device", "cuda:99", "--out", str(tmp_path)]
    assert "device is cuda:99, but torch" in refused(*command, *tiny, *out)


def test_memory_is_asked_for_on_the_cpu_alone(tiny):
    def plan(*flags: str):
        parser = argparse.ArgumentParser()
        settings.add_flags(parser, "compare")
        return resolve(parser.parse_args([*tiny, *flags]), "compare").setting

    assert plan().memory
    assert not plan("--device", "cuda").memory
    assert plan("--device", "cuda", "--memory").memory
