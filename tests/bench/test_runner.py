"""The command: rows, JSON, comparison, and the refusal to time what is wrong."""

import dataclasses

import pytest

from sparsefl.bench import cases, layers, rows, runner, sweeps

# Of every row: what was measured, on what, and the figures.
FIELDS = {
    *("op", "provider", "mode", "shape", "density", "dtype", "device", "isa", "threads", "correct"),
    *("median_us", "p20_us", "p80_us", "ratio_to_dense", "bytes_moved", "gflops_per_s"),
    *("torch", "cpu", "commit", "date", "omp_wait_policy", "allocator"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "rows.json"
    arguments = ["--quick", "--op", "sparse_linear", "--threads", "1", "--json", str(path)]
    assert runner.main(arguments) == 0
    return path


@pytest.fixture
def found(written):
    return rows.read(written)


def test_rows_have_every_field(found):
    for row in found:
        assert set(row) >= FIELDS


def test_rows_cover_every_provider_and_mode(found):
    assert {(row["provider"], row["mode"]) for row in found} == {
        (provider, mode)
        for provider in ("sparsefl", "torch_dense", "torch_sparse", "torch_bf16")
        for mode in ("fwd", "bwd", "full")
    }


def test_quantiles_are_ordered(found):
    for row in found:
        assert 0 < row["p20_us"] <= row["median_us"] <= row["p80_us"]


def test_dense_baseline_has_ratio_one(found):
    full = [r for r in found if r["mode"] == "full" and r["provider"] == "torch_dense"]
    assert [row["ratio_to_dense"] for row in full] == [1.0]


def test_bytes_of_kernels_lack_the_gradient_of_the_bias():
    case = cases.CASES["sparse_linear"]
    layer, kernels = (
        case.setup(case.op, dataclasses.replace(sweeps.SMALL_LINEAR, table=table))
        for table in (sweeps.LINEAR, sweeps.LINEAR_KERNELS)
    )
    for mode, less in {"fwd": 0, "bwd": 4 * 33, "full": 4 * 33}.items():
        assert layers.bytes_moved(layer, 0.1, mode) - layers.bytes_moved(kernels, 0.1, mode) == less


def test_figures_count_kept_weights_only(found):
    ours, dense = (
        next(r for r in found if r["provider"] == provider and r["mode"] == "fwd")
        for provider in ("sparsefl", "torch_dense")
    )
    # x 16x65, out 16x33, bias 33, and 2145 weights of which a tenth is kept; 4 bytes each.
    assert dense["bytes_moved"] == 4 * (16 * 65 + 16 * 33 + 33 + 2145)
    assert ours["bytes_moved"] == 4 * (16 * 65 + 16 * 33 + 33 + 214)
    gflop = dense["gflops_per_s"] * dense["median_us"] * 1e-6
    assert gflop == pytest.approx(2 * 2145 * 16 * 1e-9, rel=0.1)


def test_comparison_with_itself_shows_no_change(written, capsys):
    assert runner.main(["--rows", str(written), "--compare", str(written)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("+0%")


def test_plot_of_one_density_is_refused(written, tmp_path):
    with pytest.raises(ValueError, match="two densities"):
        runner.main(["--rows", str(written), "--plot", str(tmp_path / "x.png")])


def test_wrong_results_are_not_timed(monkeypatch, capsys):
    right = cases.sparsefl_step

    def wrong(problem):
        step = right(problem)
        return step._replace(forward=lambda: step.forward() * 1.1)

    providers = {**cases.LINEAR_PROVIDERS, "sparsefl": {"batch_last": wrong}}
    case = cases.Case("sparse_linear", cases.linear_problem, providers, (sweeps.SMALL_LINEAR,))
    monkeypatch.setitem(layers.CASES, "sparse_linear", case)
    assert runner.main(["--quick", "--op", "sparse_linear", "--threads", "1"]) == 1
    line = next(x for x in capsys.readouterr().out.splitlines() if "sparsefl:batch_last" in x)
    assert "WRONG RESULT" in line


@pytest.mark.parametrize("argument", ["0", "2,-1", "two", ""])
def test_bad_thread_counts_are_refused(argument, capsys):
    with pytest.raises(SystemExit):
        runner.main(["--threads", argument])
    assert "--threads" in capsys.readouterr().err


def test_point_of_a_table_has_its_mode_and_ratios(monkeypatch):
    point = sweeps.Point(sweeps.linear(1, 65, 33), 0.1, sweeps.SIGN)
    found = layers.measure_point(cases.CASES["sign_linear"], point, False, runner.context())
    assert {row["mode"] for row in found} == {"full"}
    ours = next(row for row in found if row["provider"] == "sparsefl")
    assert set(ours["ratios"]) == {"torch_dense", "torch_sparse", "torch_bf16", "sparse_op"}


def test_resumed_run_measures_what_is_missing(tmp_path, monkeypatch):
    path, begun = tmp_path / "rows.json", []
    measure_point = layers.measure_point

    def counted(case, point, quick, described):
        begun.append((case.op, point.table))
        return measure_point(case, point, quick, described)

    monkeypatch.setattr(layers, "measure_point", counted)
    arguments = ["--quick", "--threads", "1", "--json", str(path), "--resume"]
    runner.main([*arguments, "--seconds", "0"])
    assert len(begun) == 1
    runner.main(arguments)
    assert len(begun) == len(set(begun)) == len(cases.CASES)
    assert {row["op"] for row in rows.read(path)} == set(cases.CASES)


def test_codec_tables_are_measured_and_resumed(tmp_path, capsys):
    path = tmp_path / "codec.json"
    arguments = ["--quick", "--table", "codec", "--json", str(path)]
    assert runner.main([*arguments, "--seconds", "0"]) == 0
    (point,) = {rows.point_of(row) for row in rows.read(path)}
    assert runner.main([*arguments, "--seconds", "0", "--resume"]) == 0
    assert len({rows.point_of(row) for row in rows.read(path)} - {point}) == 1
    assert "of the bound" in capsys.readouterr().out
