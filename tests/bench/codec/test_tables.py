"""The codec's tables and pictures, from rows."""

import pytest

from sparsefl.bench import codec
from sparsefl.bench.codec import plots, tables
from sparsefl.bench.goals import CODEC_SIZES, CODEC_SPEED

MACHINE = {"cpu": "cpu", "isa": "avx2", "commit": "c" * 40}


def size(provider: str, ratio: float, variant: str = "", **changes: object) -> dict[str, object]:
    base = {
        **{"table": CODEC_SIZES, "op": "support", "shape": {"numel": 1 << 20}, "density": 0.1},
        **{"provider": provider, "variant": variant, "mode": "size", "correct": True, **MACHINE},
        **{"bytes": round(1000 * ratio), "bound_bytes": 1000.0, "ratio": ratio},
    }
    if provider == "sparsefl":
        base["code_ratio"] = ratio - 0.001
    return {**base, **changes}


def speed(provider: str, rate: float, variant: str = "", **changes: object) -> dict[str, object]:
    base = {
        **{"table": CODEC_SPEED, "op": "support", "shape": {"numel": 1 << 20}, "density": 0.1},
        **{"provider": provider, "variant": variant, "mode": "decode", "correct": True, **MACHINE},
        **{"median_us": 100.0, "gindices_per_s": rate},
    }
    return {**base, **changes}


OURS = size("sparsefl", 1.004, "rans", aim=1.005, reached=True)
PLAIN = size("sparsefl", 1.05, "plain", aim=1.045, reached=False)
RICE = {"figure": "gindices_per_s", "floor": 2.2, "aim": 3.2, "verdict": "floor", "reached": False}
TIMES = {"faster": 0.5, "slower": 2.0, "yardstick": "memcpy"}


def test_size_table_has_ours_its_aim_and_the_peers():
    rows = [OURS, PLAIN, size("bitmap_zstd1", 1.07), size("pcodec", 2.0, correct=False)]
    head, _, line, *_ = tables.size_table(rows).splitlines()
    assert head.count("|") == line.count("|")
    assert line == (
        "| random support, density 0.1 | 1,004 | 1.0040 | 1.0030 | 1.005 | 1.0490 | 1.070 | - | - |"
    )


def test_changes_have_their_peers_under_the_same_heads():
    changed = {"op": "changes", "shape": {"numel": 1 << 20, "changes": 5000}}
    judged = {"aim": 1.005, "reached": False}
    rows = [
        size("sparsefl", 1.01, "rans", **changed, **judged),
        size("xor_roaring", 1.9, "", **changed),
        size("sparsefl", 1.2, "rans", density=0.01),
    ]
    line, below = tables.size_table(rows).splitlines()[2:4]
    assert line.startswith(
        "| 5,000 drops and as many additions, density 0.1 | 1,010 | 1.0100 | 1.0090 | 1.005 |"
    )
    assert line.endswith("| - | - | 1.900 | - |")
    assert not below


def test_speed_table_has_what_is_judged():
    rows = [speed("sparsefl", 2.5, "plain", **RICE, **TIMES), speed("pcodec", 0.1)]
    lines = tables.speed_table(rows).splitlines()
    assert lines[2] == (
        "| support, Golomb-Rice, density 0.1: decode | 2.50 G indices/s | 2.2 | 3.2 |"
    )
    assert lines[3] == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"op": "bytes_int8", "density": 1.0, "variant": "rans"}, "rANS of int8: decode"),
        (
            {"op": "update", "variant": "from_dense"},
            "update, int8, density 0.1, from dense: decode",
        ),
        ({"op": "top_k", "mode": "fwd"}, "exact top-k, density 0.1"),
        (
            {"op": "majority_vote", "mode": "fwd", "shape": {"numel": 64, "clients": 10}},
            "majority vote of 10 clients, 64 positions",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_speed_table_names_what_was_done(changes, text):
    goal = {"figure": "faster", "floor": 1, "aim": 2, "yardstick": "numpy_max", "faster": 123.4}
    rows = [{**speed("sparsefl", 1.0), **goal, **changes}]
    line = tables.speed_table(rows).splitlines()[2]
    assert line == f"| {text} | 123x as fast as reading | 1 | 2 |"


def test_whole_messages_are_compared_with_the_dense_tensor():
    rows = [{**OURS, "op": "message_normal", "dense_share": 0.0351}]
    assert "float32, aim 0.034: whole update" in tables.size_table(rows)
    assert "0.0351 (bound 0.0350)" in tables.size_table(rows)
    assert "aim 0.034" not in tables.size_table([OURS])


def test_summary_names_what_misses_its_aim():
    text = codec.summary([OURS, PLAIN, speed("sparsefl", 2.5, "plain", **RICE)])
    first, *missed = text.splitlines()
    assert first == "codec: 1 of 3 aims reached"
    assert len(missed) == 2
    assert "1.0500 of the bound, its code 1.0490 (aim 1.045: MISSED)" in missed[0]
    assert "(floor 2.2, aim 3.2: floor)" in missed[1]


def test_summary_of_other_tables_is_empty():
    assert codec.summary([{"table": "linear", "aim": 1}]) == ""


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (OURS, "1,004 bytes     1.0040 of the bound, its code 1.0030 (aim 1.005: reached)"),
        (size("pcodec", 1.0, correct=False), "WRONG RESULT"),
        (speed("sparsefl", 2.5, **TIMES), "2.500 gindices_per_s, 2.00x the time of memcpy"),
        ({**OURS, "dense_share": 0.033}, "0.0330 of dense"),
    ],
    ids=["size", "wrong", "speed", "share"],
)
def test_line(row, text):
    assert text in codec.line(row)


def test_curves_are_by_provider_with_ours_first():
    rows = [size("pcodec", 1.1, density=0.3), size("pcodec", 1.2), PLAIN]
    assert plots.curves(rows, "ratio") == {
        "sparsefl, no rANS": [(0.1, 1.05)],
        "pcodec": [(0.1, 1.2), (0.3, 1.1)],
    }


def test_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    sizes = [OURS, PLAIN, size("np_save_bool", 17.0), {**OURS, "density": 0.5}]
    speeds = [
        speed("sparsefl", 2.0, "rans", density=d, mode=mode)
        for d in plots.SPEED_DENSITIES
        for mode in ("encode", "decode")
    ]
    speeds += [
        speed("sparsefl", 2.0, "from_dense", op="update", mode="encode"),
        speed("sparsefl", 2.0, op="update", mode="accumulate"),
        speed("memcpy", 2.0, op="update", mode="copy"),
    ]
    plots.draw_sizes(sizes, tmp_path / "new" / "sizes.png")
    plots.draw_speed(speeds, tmp_path / "speed.svg")
    assert (tmp_path / "new" / "sizes.png").stat().st_size > 1000
    assert (tmp_path / "speed.svg").stat().st_size > 1000


def test_nothing_to_draw_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.draw_sizes([speed("sparsefl", 1.0)], tmp_path / "x.png")


def test_footing_says_what_is_in_no_commit():
    rows = [OURS, size("pcodec", 1.0, commit="d" * 40 + "-dirty")]
    assert tables.footing(rows).endswith(f"commit {'c' * 12}, {'d' * 12}-dirty.\n")
