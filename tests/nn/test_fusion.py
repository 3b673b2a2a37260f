"""Forwards that torch.fx would trace into something else: each is left as it is, and named."""

import random
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsefl.nn import report

SWITCH = True
COUNTS = [0]


class Block(nn.Module):
    """What could be fused."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm1(self.conv1(x)))


class Mode(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return F.dropout(out, 0.5, self.training)


class Randomly(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if random.random() < 0.5 else x


class TorchRandomly(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if torch.rand(1) < 0.5 else x


class Counting(Block):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.relu(self.norm1(self.conv1(x)))


class Logging(Block):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return self.relu(self.norm1(self.conv1(x)))


class Branching(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if out.sum() > 0 else -out


class Optional(Block):
    def forward(self, x, mask=None):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if mask is None else out * mask


class TwoInputs(Block):
    def forward(self, x, y):
        return self.relu(self.norm1(self.conv1(x)))


class AsksForType(Block):
    def forward(self, x):
        x = x if isinstance(x, Tensor) else x[0]
        return self.relu(self.norm1(self.conv1(x)))


class ReadsGlobal(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if SWITCH else x


def reads_counts():
    return COUNTS[0] == 0


class ReadsGlobalInFunction(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if reads_counts() else x


class GradMode(Block):
    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return out if torch.is_grad_enabled() else out * 2


class ReadsProperty(Block):
    @property
    def scale(self):
        return COUNTS[0] + 1

    def forward(self, x):
        return self.relu(self.norm1(self.conv1(x))) * self.scale


class Settings:
    scale = 1


class HoldsObject(Block):
    def __init__(self):
        super().__init__()
        self.settings = Settings()

    def forward(self, x):
        return self.relu(self.norm1(self.conv1(x))) * self.settings.scale


REFUSED = {
    Mode: "depends on training",
    Randomly: "draws random numbers",
    TorchRandomly: "draws random numbers",
    Counting: "changes its attributes",
    Logging: "its attribute seen is a list",
    Branching: "torch.fx cannot trace its forward: TraceError",
    Optional: "other than one argument",
    TwoInputs: "other than one argument",
    AsksForType: "calls isinstance",
    ReadsGlobal: "reads the variable SWITCH",
    ReadsGlobalInFunction: "reads the variable COUNTS",
    GradMode: "depends on training or no_grad",
    ReadsProperty: "reads the property scale",
    HoldsObject: "its attribute settings is a Settings",
}


@pytest.mark.parametrize(
    ("kind", "reason"), REFUSED.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_what_cannot_be_traced_safely_stays_and_is_named(kind, reason, sparse_of):
    model = nn.Sequential(kind(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    state = torch.get_rng_state(), random.getstate()
    sparse = sparse_of(model)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    ((name, said),) = report(sparse).left_unfused
    assert name == "0"
    assert re.search(reason, said), said
    assert "forward" not in vars(sparse[0])
    assert report(sparse).fused == ("2",)


def test_the_block_itself_is_fused(sparse_of):
    assert report(sparse_of(nn.Sequential(Block()))).fused == ("0.norm1",)
