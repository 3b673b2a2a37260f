"""What measurements ask of torch: threads for a while, and the bytes that autograd saves."""

import pytest
import torch
from torch import nn

from sparsefl.measuring import saved_bytes, torch_threads


@pytest.mark.parametrize(("asked", "inside"), [(3, 3), (None, 1)], ids=["three", "as-they-are"])
def test_threads_are_put_back(asked, inside):
    with torch_threads(1):
        with torch_threads(asked):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 1


def test_threads_are_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_saved_storages_count_once_and_known_ones_never():
    layer, x = nn.Linear(6, 5), torch.randn(4, 6)
    known = [*layer.parameters(), x, "no tensor"]
    # relu saves its result, [4, 5]; the linear layer the input alone; a view saves no more.
    assert saved_bytes(lambda: layer(x).relu(), known) == 4 * 5 * 4
    assert saved_bytes(lambda: layer(x).relu(), known[:-2]) == 4 * 5 * 4 + 4 * 6 * 4
    assert saved_bytes(lambda: [layer(x).relu(), layer(x[:2]).relu()], known) == (4 + 2) * 5 * 4
