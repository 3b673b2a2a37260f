"""FedProx's local step, and that it is FedAvg without the term."""

import copy

import pytest
import torch
from torch import nn

from sparsefl.fl import Task, load_method
from sparsefl.fl.training import local_step

EXAMPLE = torch.zeros(1, 5)


def double_net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def opened(method: str, factory=double_net, **options):
    chosen = load_method(method)
    task = Task(factory, EXAMPLE, 0, 1.0, chosen.with_defaults(options))
    client = chosen.new_client(task, None)
    chosen.receive(client, chosen.broadcast(chosen.init(task), 1))
    return client, chosen.optimizer(client, 1)


def batches(count):
    draws = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(7, 5, generator=draws, dtype=torch.float64),
            torch.randint(3, (7,), generator=draws),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01)])
def test_steps_are_those_of_the_proximal_objective(momentum, decay):
    options = {"lr": 0.3, "momentum": momentum, "weight_decay": decay, "mu": 0.7}
    client, optimizer = opened("fedprox", **options)
    model = copy.deepcopy(client.model)
    start = [p.detach().clone() for p in model.parameters()]
    velocity = [torch.zeros_like(p) for p in start]
    for inputs, labels in batches(5):
        local_step(client.model, optimizer, inputs, labels)
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        # The objective as it is written; SGD on it by hand.
        pairs = zip(model.parameters(), start, strict=True)
        (loss + 0.35 * sum((p - w).square().sum() for p, w in pairs)).backward()
        with torch.no_grad():
            for parameter, speed in zip(model.parameters(), velocity, strict=True):
                speed.mul_(momentum).add_(parameter.grad + decay * parameter)
                parameter.sub_(0.3 * speed)
    for ours, expected in zip(client.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_without_the_term_it_is_fedavg_bit_for_bit(small, toy):
    options = {"weight_decay": 1e-3, "lr_decay": 0.9}
    plain = small("fedavg", model=toy.norm_net, options=options)
    none = small("fedprox", model=toy.norm_net, options={**options, "mu": 0.0})
    some = small("fedprox", model=toy.norm_net, options=options)
    assert none.model_sha256 == plain.model_sha256 != some.model_sha256
    assert none.row()["uplink_bytes"] == plain.row()["uplink_bytes"]
    assert none.costs.uplink_claimed_bytes == plain.costs.uplink_claimed_bytes


def test_each_round_is_held_near_the_model_of_its_broadcast(federation):
    run = federation("fedprox", mu=0.5)
    drifts = []
    for mu in (0.0, 0.5, 2.0):
        client = run.new_client()
        client.options["mu"] = mu
        received = run.receive(client, run.broadcast(1))
        optimizer = run.method.optimizer(client, 1)
        before = [p.detach().clone() for p in client.model.parameters()]
        inputs, labels = run.datasets[0][:16]
        for _ in range(10):
            local_step(client.model, optimizer, inputs, labels)
        after = zip(before, client.model.parameters(), strict=True)
        drifts.append(sum((old - new).square().sum().item() for old, new in after))
        assert received.round == 1
    assert drifts[0] > drifts[1] > drifts[2] > 0


def test_parameters_without_a_gradient_stay():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)
            self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)

        def forward(self, x):
            return self.used(x)

    client, optimizer = opened("fedprox", Unused, mu=1.0)
    before = copy.deepcopy(client.model.state_dict())
    local_step(client.model, optimizer, torch.ones(2, 5), torch.tensor([0, 1]))
    same = {name for name, v in client.model.state_dict().items() if torch.equal(v, before[name])}
    assert same == {"spare.weight", "spare.bias", "fixed"}
