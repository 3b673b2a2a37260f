"""Peers give back what they were given, and are left out where they are not installed."""

import numpy as np
import pytest

from sparsefl.bench.codec import peers
from sparsefl.support import Support


@pytest.mark.parametrize("density", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("name", peers.SUPPORTS)
def test_supports_come_back(name, density):
    found = dict(peers.installed({name: peers.SUPPORTS[name]}, Support.random((9973,), density)))
    if not found:
        pytest.skip(f"{name} is not installed")
    assert found[name].correct(found[name].encoded())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", peers.VALUES)
def test_values_come_back(name, dtype):
    values = np.random.default_rng(0).integers(0, 9, 4099).astype(dtype)
    found = dict(peers.installed({name: peers.VALUES[name]}, values))
    if not found:
        pytest.skip(f"{name} is not installed")
    assert found[name].correct(found[name].encoded())


def test_numpy_and_zlib_are_always_there():
    found = dict(peers.installed(peers.SUPPORTS, Support.random((65,), 0.5)))
    assert {"np_save_bool", "np_save_int32", "np_save_int64", "bitmap_zlib6"} <= set(found)


def test_what_is_not_installed_is_left_out():
    def absent(given: object) -> peers.Coder:
        raise ModuleNotFoundError("no such package")

    given = np.arange(3)
    assert [*dict(peers.installed({"absent": absent, "np_save": peers.numpy_file}, given))] == [
        "np_save"
    ]


def test_a_wrong_result_is_seen():
    coder = peers.numpy_file(np.arange(3))
    assert not coder.correct(coder.encode(np.arange(4)))
