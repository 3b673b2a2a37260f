import pytest
import torch

from sparsefl.fl.aggregation import SERVER_DEFAULTS, ServerOptimizer, add_change, cast_like


def optimizer(**options):
    return ServerOptimizer.of({**SERVER_DEFAULTS, **options})


def walk(server, changes, start=1.0):
    """Takes a step along each mean change; returns the position after each."""
    tensors, path = {"w": torch.tensor([start])}, []
    for change in changes:
        tensors, server = server.step(tensors, {"w": torch.tensor([change]).double()})
        path.append(tensors["w"].item())
    return path


CHANGES = [1.0, -2.0]


def test_sgd_scales_the_mean_change():
    assert walk(optimizer(server_lr=0.5), CHANGES) == pytest.approx([1.5, 0.5])


def test_momentum_accumulates():
    found = walk(optimizer(server_optimizer="momentum", server_momentum=0.5), CHANGES)
    assert found == pytest.approx([1 + 1, 2 + (0.5 - 2)])


def test_adam_is_the_papers_second_algorithm():
    server = optimizer(
        server_optimizer="adam",
        server_lr=0.1,
        server_momentum=0.5,
        server_beta2=0.75,
        server_tau=0.2,
    )
    m, v, x, expected = 0.0, 0.2**2, 1.0, []
    for mean in (1.0, -2.0):
        m = 0.5 * m + 0.5 * mean
        v = 0.75 * v + 0.25 * mean**2
        x += 0.1 * m / (v**0.5 + 0.2)
        expected.append(x)
    assert walk(server, CHANGES) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"server_optimizer": "adagrad"}, "sgd, momentum, adam"),
        ({"server_lr": 0.0}, "server_lr"),
        ({"server_tau": 0.0}, "server_tau"),
        ({"server_momentum": 1.0}, "server_momentum"),
        ({"server_beta2": -0.1}, "server_beta2"),
    ],
    ids=str,
)
def test_impossible_optimizers_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        optimizer(**options)


def test_integers_take_the_nearest():
    counts = {"n": torch.tensor(10)}
    mean = {"n": torch.tensor(3.6).double()}
    for found, expected in ((cast_like(counts, mean), 4), (add_change(counts, mean), 14)):
        assert found["n"].dtype == torch.int64
        assert found["n"].item() == expected


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_methods_learn_with_every_server_optimizer(method, kind, federation):
    rate = {"sgd": 0.8, "momentum": 0.5, "adam": 0.02}[kind]
    run = federation(method, server_optimizer=kind, server_lr=rate, server_momentum=0.5)
    losses = [run.play(round).loss for round in range(1, 9)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
def test_the_first_momentum_step_at_rate_1_is_averaging(method, federation):
    plain, momentum = federation(method), federation(method, server_optimizer="momentum")
    models = []
    for run in (plain, momentum):
        run.play(1)
        models.append(run.method.global_model(run.task, run.state).state_dict())
        run.play(2)
        models.append(run.method.global_model(run.task, run.state).state_dict())
    for name, value in models[0].items():
        torch.testing.assert_close(models[2][name], value)
    assert not torch.equal(models[1]["6.weight"], models[3]["6.weight"])


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_buffers_are_averaged_whatever_the_optimizer(method, kind, federation, toy):
    frozen = {"frozen": "0"} if method == "fedpt" else {}
    plain = federation(method, factory=toy.norm_net, **frozen)
    other = federation(
        method, factory=toy.norm_net, server_optimizer=kind, server_lr=0.01, **frozen
    )
    buffers = []
    for run in (plain, other):
        run.play(1)
        model = run.method.global_model(run.task, run.state)
        assert int(model[1].num_batches_tracked) == 2
        assert model[1].num_batches_tracked.dtype == torch.int64
        buffers.append({name: b.clone() for name, b in model.named_buffers()})
    for name, value in buffers[0].items():
        torch.testing.assert_close(buffers[1][name], value)
