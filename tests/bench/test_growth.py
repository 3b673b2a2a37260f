"""The cells of the growth step's memory: what they run, not what they take."""

import pytest

from sparsefl.bench import growth


@pytest.mark.parametrize("provider", growth.PROVIDERS)
def test_cell_says_what_was_watched(provider, monkeypatch):
    monkeypatch.setattr(growth, "BATCH", 2)
    monkeypatch.setattr(growth, "IMAGE", (3, 8, 8))
    found = growth.cell(provider, 0.1, "block")
    assert found["provider"] == provider
    # Of 512 channels: four convolutions of 3x3, the first from 256, and a shortcut.
    assert found["watched_weights"] == 512 * (9 * (256 + 3 * 512) + 256)
    assert found["gradients"] == pytest.approx(0.03 * found["watched_weights"], rel=1e-4)
    assert found["added_bytes"] >= 0
