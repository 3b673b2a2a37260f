import hashlib
import importlib.util
import math
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch

from sparsefl import _codec, random

ROOT = pathlib.Path(__file__).parents[1]
# Kolmogorov's 0.1 % point: sqrt(n) D lies under it for 99.9 % of all seeds.
KS_LIMIT = 1.95


def has_isa(name: str) -> bool:
    try:
        _codec.normal(0, 0, 1, 1.0, name)
    except ValueError:
        return False
    return True


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & 0xFFFFFFFF
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def documented_word(seed: int, name: str, position: int) -> int:
    """The definition in sparsefl/random.py's docstring, word for word."""
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    group, inside = divmod(position, 64)
    word, offset = divmod(inside, 16)
    block = 16 * group + offset
    low = 0xFFFFFFFF
    counter = (block & low, block >> 32, stream & low, stream >> 32)
    return philox(counter, (seed & low, seed >> 32))[word]


# Random123's published known-answer vectors (tests/kat_vectors, philox4x32 10). numpy's Philox is
# Philox4x64, another generator.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_oracle_gives_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected


def test_zero_stream_starts_with_random123s_block() -> None:
    words = _codec.uniform_bits(0, 0, 64)[::16].tolist()
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("n", [0, 1, 15, 16, 63, 64, 65, 257])
@pytest.mark.parametrize(
    ("seed", "name"),
    [(0, "weight"), (2**32 + 5, "features.0.weight"), (2**64 - 1, "\u03b8"), (1, "")],
    ids=["plain", "wide-seed", "unicode", "empty-name"],
)
def test_words_follow_the_documented_layout(seed: int, name: str, n: int) -> None:
    words = random.uniform_bits(seed, name, n)
    assert words.dtype == np.uint32
    assert words.tolist() == [documented_word(seed, name, i) for i in range(n)]


@pytest.mark.parametrize(
    ("seed", "name", "std", "first_bits", "digest"),
    [
        (0, "weight", 1.0, [0xBF3E8988, 0xBF252B10, 0x3E977EC0], "6e84cddd65fe6ac0"),
        (7, "fc.weight", 0.05, [0xBC8CF81A, 0xBC03741A, 0x3D96E930], "adb4e334508eb90e"),
        (
            2**64 - 1,
            "\u043a\u043b\u044e\u0447",
            3.0,
            [0x400D4E00, 0xC0A8C9F6, 0x3D156A00],
            "be8a7a72ca0eda48",
        ),
    ],
    ids=["unit", "small", "unicode"],
)
def test_normals_are_the_golden_bits(
    seed: int, name: str, std: float, first_bits: list[int], digest: str
) -> None:
    values = random.normal(seed, name, 1000, std)
    assert values[:3].view(np.uint32).tolist() == first_bits
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000003])
def test_instruction_sets_give_the_same_bits(isa: str, n: int) -> None:
    if not has_isa(isa):
        pytest.skip(f"this machine or SPARSEFL_ISA rules {isa} out")
    expected = _codec.normal(3, 2**63 + 11, n, 0.7, "scalar")
    assert np.array_equal(_codec.normal(3, 2**63 + 11, n, 0.7, isa), expected)


def test_normals_are_the_quantiles_of_the_words() -> None:
    words = random.uniform_bits(5, "quantiles", 100000)
    values = random.normal(5, "quantiles", 100000)
    exact = [NormalDist().inv_cdf((word + 0.5) / 2**32) for word in words.tolist()]
    assert np.abs(values - np.array(exact)).max() <= 2.6e-7


def test_far_tails_are_exact_on_every_instruction_set() -> None:
    n = 1 << 24
    words, values = random.uniform_bits(11, "tails", n), random.normal(11, "tails", n)
    # Beyond the 16 octaves that an AVX-512 vector holds.
    far = np.flatnonzero((words < 2**15) | (words >= 2**32 - 2**15))
    assert far.size > 50
    exact = [NormalDist().inv_cdf((word + 0.5) / 2**32) for word in words[far].tolist()]
    assert np.abs(values[far] - np.array(exact)).max() <= 2.6e-7


def test_normals_pass_kolmogorov_smirnov() -> None:
    n = 1_000_003
    values = np.sort(random.normal(1, "ks", n).astype(np.float64))
    cdf = torch.special.ndtr(torch.from_numpy(values)).numpy()
    steps = np.arange(n + 1) / n
    distance = max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    assert math.sqrt(n) * distance < KS_LIMIT


@pytest.mark.parametrize(("power", "expected"), [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)])
def test_moments(power: int, expected: float) -> None:
    n = 4_000_000
    values = random.normal(2, "moments", n).astype(np.float64)
    # Var(z^k) = (2k - 1)!! - E[z^k]^2.
    variance = math.prod(range(1, 2 * power, 2)) - expected**2
    assert abs((values**power).mean() - expected) < 4 * math.sqrt(variance / n)


@pytest.mark.parametrize("bound", [1.0, 2.0, 3.0, 4.0, 5.0])
def test_tail_mass(bound: float) -> None:
    n = 1 << 24
    p = math.erfc(bound / math.sqrt(2))
    count = int((np.abs(random.normal(4, "mass", n)) > bound).sum())
    assert abs(count - n * p) < 4 * math.sqrt(n * p)


def test_streams_are_uncorrelated() -> None:
    n = 1_000_000
    values = [random.normal(s, m, n) for s, m in [(0, "a"), (0, "b"), (1, "a")]]
    pairs = np.corrcoef(np.stack([*values, np.roll(values[0], 1)]))
    assert np.abs(pairs[~np.eye(4, dtype=bool)]).max() < 4 / math.sqrt(n)


def test_std_scales_by_one_float32_multiplication() -> None:
    unit = random.normal(9, "scale", 10007)
    assert np.array_equal(random.normal(9, "scale", 10007, 0.3), unit * np.float32(0.3))


def test_zero_std_gives_zeros() -> None:
    assert not random.normal(9, "scale", (3, 5), 0.0).any()


@pytest.mark.parametrize("shape", [(), 7, (7,), (0, 3), (2, 3, 5), [4, 1]], ids=str)
def test_shape_is_filled_row_major(shape: Any) -> None:
    values = random.normal(1, "shape", shape)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    assert values.shape == sizes
    assert values.dtype == np.float32
    assert np.array_equal(values.ravel(), random.normal(1, "shape", values.size))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random.normal(-1, "a", 3), ValueError, "seed must lie"),
        (lambda: random.normal(2**64, "a", 3), ValueError, "seed must lie"),
        (lambda: random.normal(1.0, "a", 3), TypeError, "seed must be an int"),
        (lambda: random.normal(True, "a", 3), TypeError, "seed must be an int"),
        (lambda: random.normal(1, b"a", 3), TypeError, "name must be a str"),
        (lambda: random.normal(1, "a", (3, -1)), ValueError, "shape must lie"),
        (lambda: random.normal(1, "a", (2**40, 2**40)), ValueError, "shape must lie"),
        (lambda: random.normal(1, "a", 2.5), TypeError, "shape must be an int"),
        (lambda: random.normal(1, "a", 3, -1.0), ValueError, "std must be 0 or lie"),
        (lambda: random.normal(1, "a", 3, math.nan), ValueError, "std must be 0 or lie"),
        (lambda: random.normal(1, "a", 3, "1"), TypeError, "std must be a float"),
        (lambda: random.uniform_bits(1, "a", -3), ValueError, "n must lie"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_interpreter_runs_on_while_normals_are_drawn() -> None:
    ticks = 0
    done = threading.Event()

    def draw() -> None:
        random.normal(1, "gil", 1 << 25)
        done.set()

    worker = threading.Thread(target=draw)
    worker.start()
    while not done.wait(0.001):
        ticks += 1
    worker.join()
    assert ticks > 2


@pytest.mark.skipif(importlib.util.find_spec("mpmath") is None, reason="mpmath is not installed")
def test_committed_table_is_what_its_script_writes() -> None:
    script = ROOT / "tools" / "make_normal_table.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def in_fresh_process(code: str, isa: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "SPARSEFL_ISA": isa},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_environment_selects_the_instruction_set(isa: str) -> None:
    if not has_isa(isa):
        pytest.skip(f"this machine or SPARSEFL_ISA rules {isa} out")
    code = (
        "import hashlib; from sparsefl import random;"
        "print(hashlib.sha256(random.normal(0, 'weight', 1000)).hexdigest()[:16])"
    )
    assert in_fresh_process(code, isa) == "6e84cddd65fe6ac0"


def test_instruction_set_beyond_the_selected_is_refused() -> None:
    code = (
        "from sparsefl import _codec\n"
        "try: _codec.normal(0, 0, 1, 1.0, 'avx2')\n"
        "except ValueError as error: print(error)"
    )
    assert in_fresh_process(code, "scalar") == "isa must be at most scalar, got avx2"


def test_streams_need_no_torch() -> None:
    code = "import sys; from sparsefl import random; print('torch' in sys.modules)"
    assert in_fresh_process(code, "scalar") == "False"


def test_generators_of_other_names_and_seeds_are_other_streams():
    drawn = {
        (seed, name): tuple(random.generator(seed, name).integers(2**63, size=4))
        for seed in (0, 1, 2**64 - 1)
        for name in ("", "a", "client 0 in round 1", "cohort of round 1")
    }
    assert len(set(drawn.values())) == len(drawn)


def test_generator_draws_the_same_everywhere():
    assert random.generator(7, "a").integers(1000, size=4).tolist() == [710, 433, 162, 535]


@pytest.mark.parametrize(("seed", "name"), [(-1, "a"), (2**64, "a")])
def test_generator_refuses_a_seed_out_of_range(seed, name):
    with pytest.raises(ValueError, match="seed"):
        random.generator(seed, name)
