"""FedPM: its network, its votes, what a mask weighs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import codec, fl, models
from sparsefl.fl import Task, load_method
from sparsefl.fl.methods import fedpm
from sparsefl.fl.methods._fedpm_network import MaskedNetwork, draw_constants
from sparsefl.fl.methods._votes import entropy_bits, mode_logits, sample_bits
from sparsefl.fl.pool import Pool
from sparsefl.support import Support

METHOD = load_method("fedpm")


def task_of(factory, **options) -> Task:
    return Task(factory, torch.zeros(1, 6), 3, 1.0, METHOD.with_defaults(options))


def as_signs(mask) -> codec.Signs:
    whole = Support.from_mask(np.ones_like(mask, dtype=bool))
    return codec.Signs(whole, np.where(mask, 1, -1).astype(np.int8).reshape(-1), 1.0)


def linear() -> nn.Module:
    return nn.Linear(6, 4).double()


class TestNetwork:
    def test_weights_are_one_constant_a_layer_with_balanced_signs(self, toy):
        for name, weight in draw_constants(toy.cnn(), 5, 2.0).items():
            fan_in = {"0": 9, "4": 36, "6": 24}[name[0]]
            expected = torch.full_like(weight, 2 / math.sqrt(fan_in))
            torch.testing.assert_close(weight.abs(), expected)
            # Four standard deviations of the mean of signs.
            assert abs(float(weight.sign().mean())) <= 4 / math.sqrt(weight.numel())
        assert set(draw_constants(toy.cnn(), 5, 2.0)) == set(dict(toy.cnn().named_parameters()))

    def test_weights_and_scores_depend_on_the_seed_alone(self, toy):
        one, same = (METHOD.init(task_of(toy.cnn)) for _ in range(2))
        assert all(torch.equal(one.scores[name], same.scores[name]) for name in one.scores)
        other = draw_constants(toy.cnn(), 4, 1.0)
        assert not torch.equal(other["4.weight"], draw_constants(toy.cnn(), 3, 1.0)["4.weight"])

    def test_training_samples_masks_of_the_probabilities(self):
        network = fedpm.network_of(task_of(lambda: nn.Linear(500, 40, bias=False)))
        with torch.no_grad():
            network.inner.weight.fill_(math.log(0.2 / 0.8))
        weights = fedpm.draw_constants(nn.Linear(500, 40, bias=False), 3, math.sqrt(2))["weight"]
        first, second = (network.weights()["weight"] for _ in range(2))
        assert torch.equal(first[first != 0], weights[first != 0])
        assert not torch.equal(first, second)
        # Four standard deviations of 20,000 draws.
        assert abs(float((first != 0).double().mean()) - 0.2) < 0.012

    def test_gradient_passes_the_draw_straight_to_the_scores(self):
        network = fedpm.network_of(task_of(linear))
        with torch.no_grad():
            for name, scores in METHOD.init(task_of(linear)).scores.items():
                network.inner.get_parameter(name).copy_(scores)
        x = torch.randn(9, 6, dtype=torch.float64)
        torch.manual_seed(11)
        network(x).sin().sum().backward()
        torch.manual_seed(11)
        sampled = {n: w.detach().requires_grad_() for n, w in network.weights().items()}
        torch.nn.functional.linear(x, sampled["weight"], sampled["bias"]).sin().sum().backward()
        constants = draw_constants(linear(), 3, math.sqrt(2))
        for name, scores in network.scores().items():
            theta = scores.detach().sigmoid()
            expected = sampled[name].grad * constants[name] * theta * (1 - theta)
            torch.testing.assert_close(scores.grad, expected)

    def test_nothing_but_scores_trains(self, toy):
        network = fedpm.network_of(task_of(toy.norm_net))
        trained = {name for name, p in network.inner.named_parameters() if p.requires_grad}
        assert trained == set(network.scores()) == {"0.weight", "0.bias", "5.weight", "5.bias"}
        assert set(network.travelling()) == {
            "1.running_mean",
            "1.running_var",
            "1.num_batches_tracked",
        }

    def test_tied_layers_share_one_mask(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
                self.second.weight = self.first.weight

            def forward(self, x):
                return self.second(self.first(x))

        task = task_of(Tied)
        state = METHOD.init(task)
        assert set(state.scores) == {"first.weight", "first.bias", "second.bias"}
        model = METHOD.global_model(task, state)
        assert model.first.weight is model.second.weight
        client = METHOD.new_client(task, None)
        METHOD.receive(client, METHOD.broadcast(state, 1))
        x = torch.randn(2, 6)
        torch.testing.assert_close(client.model.eval()(x), model(x))

    def test_a_clip_that_leaves_no_probability_is_refused(self):
        assert METHOD.with_defaults({"clip": 0.49})["clip"] == 0.49
        with pytest.raises(ValueError, match=r"clip must be below 0\.5, .* got 0\.5"):
            METHOD.with_defaults({"clip": 0.5})
        with pytest.raises(ValueError, match=r"clip must be .* at least 1\.2e-07, got 1e-18"):
            METHOD.with_defaults({"clip": 1e-18})

    def test_a_model_without_a_layer_to_mask_is_refused(self):
        with pytest.raises(ValueError, match="needs a linear or convolution layer"):
            METHOD.init(task_of(lambda: nn.Sequential(nn.LayerNorm(6))))


class TestServer:
    @pytest.mark.parametrize("reset_every", [1, 2, 5])
    @pytest.mark.parametrize("prior", [1.0, 3.0])
    def test_scores_are_the_logits_of_the_posteriors_mode(self, reset_every, prior):
        """Against Bayesian aggregation in plain loops over bits."""
        task = task_of(linear, reset_every=reset_every, prior=prior, clip=0.05)
        state, weights = METHOD.init(task), (0.5, 0.3, 0.2)
        draws = np.random.default_rng(0)
        a = b = None
        for round in range(1, 6):
            masks = draws.random((3, 4, 6)) < 0.6
            pool = Pool(state.wire.schema, {}, ("weight", "bias"))
            for weight, mask in zip(weights, masks, strict=True):
                update = codec.Update(
                    {"weight": as_signs(mask), "bias": as_signs(np.ones(4, bool))}
                )
                message = codec.encode(update, state.wire.schema)
                pool.add(message, weight, {})
            state = METHOD.aggregate(state, pool.mean())
            if (round - 1) % reset_every == 0:
                a = b = np.full((4, 6), prior)
            bits = np.where(masks, 0.95, 0.05)
            a = a + 3 * np.tensordot(weights, bits, 1)
            b = b + 3 * np.tensordot(weights, 1 - bits, 1)
            theta = (a - 1) / (a + b - 2)
            np.testing.assert_allclose(state.scores["weight"].sigmoid().numpy(), theta, rtol=1e-9)
        assert bool(state.scores["bias"].isfinite().all())

    def test_mode_of_equal_votes_is_half(self):
        votes = {"ups": torch.tensor([2.0, 3.0]), "downs": torch.tensor([2.0, 1.0])}
        assert mode_logits(votes, 1.0).tolist() == pytest.approx([0.0, math.log(3.0)])

    def test_global_model_is_of_one_sampled_mask_or_of_the_mean(self, federation):
        run = federation("fedpm", gain=1.0)
        run.play(1)
        weights = draw_constants(run.task.new_model(), 0, 1.0)["4.weight"]
        theta = run.state.scores["4.weight"].sigmoid()
        sampled = run.method.global_model(run.task, run.state)[4].weight.detach()
        kept = sampled != 0
        assert torch.equal(sampled[kept], weights[kept])
        spread = float((theta * (1 - theta)).sum().sqrt())
        assert abs(float(kept.sum()) - float(theta.sum())) < 4 * spread
        mean = federation("fedpm", gain=1.0, evaluated="mean")
        mean.play(1)
        torch.testing.assert_close(
            mean.method.global_model(mean.task, mean.state)[4].weight.detach(), weights * theta
        )


class TestMessages:
    def test_uplink_is_the_entropy_of_the_masks_within_2_percent(self):
        pixels = torch.utils.data.TensorDataset(torch.randn(4, 1, 28, 28), torch.arange(4))
        row = fl.run(
            "fedpm",
            model=lambda: models.build("cnn", in_shape=(1, 28, 28), num_classes=10),
            clients=[(pixels, pixels)],
            test=pixels,
            rounds=1,
            timed_steps=0,
        ).row()
        assert row["uplink_bytes"] <= 1.02 * row["uplink_claimed_bytes"]
        # The EMNIST CNN's parameters, all of them masked.
        assert row["uplink_claimed_bytes"] <= math.ceil(1_199_882 / 8)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.8])
    def test_any_density_travels_within_2_percent_of_its_entropy(self, share):
        schema = codec.Schema({"w": ((1000, 900), "float32")})
        bits = sample_bits(np.full((1000, 900), math.log(share / (1 - share))), 1)
        update = codec.Update({"w": as_signs(bits)})
        claimed = entropy_bits(bits.size, float(bits.mean())) / 8
        assert len(codec.encode(update, schema)) <= 1.02 * claimed

    def test_a_client_sends_masks_and_buffers_alone(self, federation, toy):
        run = federation("fedpm", factory=toy.norm_net)
        client = run.new_client()
        received = run.receive(client, run.broadcast(1))
        update = run.method.report(client, received, 1)
        kinds = {name: type(entry).__name__ for name, entry in update.items()}
        assert {n for n, kind in kinds.items() if kind == "Signs"} == set(run.state.scores)
        assert {n for n, kind in kinds.items() if kind == "Dense"} == set(run.state.buffers)

    @pytest.mark.parametrize("score_format", fedpm.SCORE_FORMATS)
    def test_scores_travel_in_their_format(self, score_format, federation):
        run = federation("fedpm", score_format=score_format)
        run.play(1)
        client = run.new_client()
        run.receive(client, run.broadcast(2))
        tolerance = {"fp32": 0.0, "bf16": 0.02, "int8": 0.05}[score_format]
        for name, held in client.model.scores().items():
            assert float((held - run.state.scores[name]).detach().abs().max()) <= tolerance

    @pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
    def test_scores_that_are_not_finite_are_refused(self, value, federation):
        run = federation("fedpm")
        client = run.new_client()
        received = run.receive(client, run.broadcast(1))
        with torch.no_grad():
            client.model.scores()["4.weight"][0, 0] = value
        with pytest.raises(ValueError, match=r"scores of 4\.weight are not finite"):
            run.method.report(client, received, 1)

    def test_a_broadcast_that_lacks_scores_is_refused_untouched(self, federation):
        run = federation("fedpm")
        client = run.new_client()
        entries = dict(run.receive(client, run.broadcast(1)))
        before = {name: scores.detach().clone() for name, scores in client.model.scores().items()}
        entries["6.bias"] = codec.Dense(torch.ones(3))
        del entries["4.weight"]
        with pytest.raises(ValueError, match=r"no tensor for 4\.weight"):
            run.method.receive(client, codec.Update(entries))
        assert all(torch.equal(before[n], s) for n, s in client.model.scores().items())


def test_claims_are_entropies_of_what_was_received(federation):
    run = federation("fedpm")
    count = sum(scores.numel() for scores in run.state.scores.values())
    assert run.method.claimed_uplink_bytes(run.state) == math.ceil(count / 8)
    run.play(1)
    assert run.state.received == 3
    assert run.method.claimed_uplink_bytes(run.state) == math.ceil(run.state.claimed_bits / 24)
    assert entropy_bits(1000, 0.5) == 1000
    assert entropy_bits(1000, 0.0) == entropy_bits(1000, 1.0) == 0
    assert entropy_bits(1000, 0.11) == pytest.approx(499.9, abs=0.1)
    assert run.method.claimed_flops(run.state, {"a": 7, "b": 3}) == 30


def test_the_network_belongs_to_its_client(federation):
    assert isinstance(federation("fedpm").new_client().model, MaskedNetwork)
