import dataclasses

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.fl import engine
from sparsefl.fl.methods import _hidenseek_downlink as downlink
from sparsefl.fl.methods import _hidenseek_rules as rules
from sparsefl.fl.methods import hidenseek
from sparsefl.support import Support

HIDDEN = "4.weight"
VOTES = [name for name, rule in rules.RULES.items() if rule.votes]


@pytest.fixture(params=list(rules.RULES))
def rule(request):
    return str(request.param)


def play(run, rounds=3):
    for round in range(1, rounds + 1):
        run.play(round)
    return run


def uplink(run, round=1):
    """Returns what one client of a run would send in a round."""
    client = run.new_client()
    received = run.receive(client, run.broadcast(round))
    optimizer = run.method.optimizer(client, round)
    for parameter in client.model.parameters():
        parameter.grad = torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    optimizer.step()
    return client, run.method.report(client, received, round)


def pooled(mean, scores=(0.1, -0.2, 0.3, -0.4), memory=None, clients=4, **options):
    given = {"tau": 0.5, "server_lr": 2.0, "beta_prior": 1.0, "beta_decay": 0.5, **options}
    tensors = (torch.tensor(scores).double(), torch.tensor(mean).double())
    return rules.Pooled(*tensors, memory or {}, clients, given)


class TestThreeRounds:
    def test_rounds_train_and_keep_supports_and_dense_names(self, federation, rule):
        run = federation("hidenseek", rule=rule)
        supports, names = dict(run.wire.supports), set(run.state.dense)
        play(run)
        assert run.wire.supports == supports
        assert set(run.state.dense) == names
        assert all(entry.lost == 0 for entry in run.ledger.rounds)
        assert all(bool(scores.isfinite().all()) for scores in run.state.scores.values())

    def test_one_seed_gives_one_model(self, federation, rule):
        first, second = (play(federation("hidenseek", rule=rule)) for _ in range(2))
        models = [run.method.global_model(run.task, run.state) for run in (first, second)]
        for mine, theirs in zip(*(m.state_dict().values() for m in models), strict=True):
            assert torch.equal(mine, theirs)

    def test_ledger_counts_the_bytes_that_pass(self, federation, rule, monkeypatch):
        lengths = []
        encode = codec.encode

        def counted(*arguments, **named):
            lengths.append(len(encode(*arguments, **named)))
            return encode(*arguments, **named)

        run = federation("hidenseek", rule=rule)
        monkeypatch.setattr(codec, "encode", counted)
        entry = run.play(1)
        assert entry.downlink_bytes == 3 * lengths[0]
        assert entry.uplink_bytes == sum(lengths[1:])

    def test_uplink_bits_a_kept_weight(self, federation, rule):
        run = federation("hidenseek", rule=rule)
        entry = run.play(1)
        kept = sum(support.nnz for support in run.wire.supports.values())
        dense_bytes = 4 * run.state.parameters
        bits = (8 * entry.uplink_bound_bytes / 3 - 8 * dense_bytes) / kept
        scale_and_padding = (32 + 8) / kept
        assert bits <= (32 if rule == "score" else 1) + scale_and_padding

    def test_client_starts_from_the_signs_of_the_server(self, federation, rule):
        run = play(federation("hidenseek", rule=rule), 2)
        client = run.new_client()
        run.receive(client, run.broadcast(3))
        expected = rules.signs_of(run.state.scores[HIDDEN].numpy())
        assert np.array_equal(client.model[4].signs().numpy(), expected)


SET = {"server_lr": 0.5, "tau": 0.1, "own_share": 0.25, "beta_prior": 2.0, "beta_decay": 0.5}


class TestOptions:
    @pytest.mark.parametrize("key", SET)
    def test_those_that_the_rule_does_not_read_are_refused(self, rule, key):
        def given(**options):
            return hidenseek.METHOD.with_defaults({"rule": rule, **options})

        assert given(**{key: hidenseek.DEFAULTS[key]})["rule"] == rule
        if key in rules.RULES[rule].reads:
            assert given(**{key: SET[key]})[key] == SET[key]
        else:
            with pytest.raises(ValueError, match=f"{key} is not read by rule '{rule}', only by"):
                given(**{key: SET[key]})

    def test_rules_read_what_they_say_and_nothing_else(self, rule, federation, mean_of):
        class Noted(dict):
            def __getitem__(self, key):
                found.add(key)
                return super().__getitem__(key)

        found: set[str] = set()
        run = federation("hidenseek", rule=rule)
        client = run.new_client()
        received = run.receive(client, run.broadcast(1))
        options = Noted(run.state.options)
        noted = dataclasses.replace(client, options=options)
        update = run.method.report(noted, received, 1)
        if run.method.remember(client) is not None:
            run.method.recall(noted, run.method.remember(client))
        state = dataclasses.replace(run.state, options=options)
        run.method.broadcast(run.method.aggregate(state, mean_of(run, [(1.0, update)])), 2)
        assert found & set(SET) == set(rules.RULES[rule].reads)


class TestScoresThatAreNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
    def test_they_are_refused_by_name(self, federation, rule, value):
        run = federation("hidenseek", rule=rule)
        client = run.new_client()
        received = run.receive(client, run.broadcast(1))
        with torch.no_grad():
            client.model[4].scores[3] = value
        with pytest.raises(ValueError, match=r"scores of 4\.weight are not finite"):
            run.method.report(client, received, 1)

    def test_their_client_is_lost_and_its_memory_kept_as_it_was(self, federation, monkeypatch):
        run = play(federation("hidenseek", rule="personal"), 1)
        before = {client: scores[HIDDEN].clone() for client, scores in run.memories.items()}
        train = engine.train

        def poisoned(model, optimizer, dataset, **named):
            work = train(model, optimizer, dataset, **named)
            if dataset is run.datasets[1]:
                model[4].scores.data[0] = float("nan")
            return work

        monkeypatch.setattr(engine, "train", poisoned)
        entry = run.play(2)
        assert (entry.clients, entry.lost) == (2, 1)
        same = {c: torch.equal(before[c], scores[HIDDEN]) for c, scores in run.memories.items()}
        assert same == {0: False, 1: True, 2: False}


class TestWhatIsSent:
    def test_change_is_one_bit_and_the_mean_size(self):
        support = Support.from_mask(np.ones(6, dtype=bool))
        change = np.array([0.5, -1.0, 0.0, 0.0, 2.5, 0.0], dtype=np.float32)
        even, odd = (rules.signs_of_change(support, change, round) for round in (4, 5))
        assert even.signs.tolist() == [1, -1, 1, -1, 1, -1]
        assert odd.signs.tolist() == [1, -1, -1, 1, 1, 1]
        assert even.scale == pytest.approx(4.0 / 6)

    @pytest.mark.parametrize("rule", sorted(set(VOTES) - {"beta"}))
    def test_votes_are_the_signs_of_the_trained_scores(self, federation, rule):
        client, update = uplink(federation("hidenseek", rule=rule))
        assert np.array_equal(update[HIDDEN].signs, client.model[4].signs().numpy())
        assert update[HIDDEN].scale == 1.0

    def test_score_sends_the_trained_scores(self, federation):
        client, update = uplink(federation("hidenseek", rule="score"))
        layer = client.model[4]
        assert torch.equal(torch.tensor(update[HIDDEN].values), layer.row_major(layer.scores.data))

    def test_samples_are_unbiased_and_follow_the_scores(self):
        support = Support.from_mask(np.ones(6000, dtype=bool))
        after = np.repeat(np.array([-1e9, -0.5, 0.5, 1e9], np.float32), 1500)

        def draw(scores, round=1):
            return rules.sampled_signs(
                rules.Trained(support, scores, scores, round, {"tau": 0.5})
            ).signs

        shares = (draw(after).reshape(4, 1500) == 1).mean(axis=1)
        assert shares[[0, 3]].tolist() == [0.0, 1.0]
        # Four standard deviations of 1,500 draws.
        np.testing.assert_allclose(shares[1:3], [0.2689, 0.7311], atol=0.046)
        assert np.array_equal(draw(after), draw(after))
        assert not np.array_equal(draw(after), draw(after, round=2))

    def test_vote_broadcasts_signs_and_one_scale(self, federation):
        run = federation("hidenseek", rule="vote", tau=0.125)
        down = codec.decode(run.broadcast(1), run.wire.schema, base=run.wire.supports)
        assert isinstance(down[HIDDEN], codec.Signs)
        assert down[HIDDEN].scale == 0.125
        scores = federation("hidenseek", rule="mean")
        assert len(run.broadcast(1)) < len(scores.broadcast(1))

    @pytest.mark.parametrize("rule", VOTES)
    def test_votes_are_coded_against_the_broadcast(self, federation, rule):
        run = federation("hidenseek", rule=rule)
        sent = codec.decode(run.broadcast(1), run.wire.schema, base=run.wire.supports)
        reply = uplink(run)[1]
        alone, against = (
            codec.encode(reply, run.wire.schema, base=base) for base in (run.wire.supports, sent)
        )
        assert len(against) < len(alone)
        assert codec.decode(against, run.wire.schema, base=sent) == reply

    @pytest.mark.parametrize("value_format", ["bf16", "int8", "int4"])
    @pytest.mark.parametrize("count", [1, 7, 63, 65, 1000, 5003])
    def test_quantised_scores_keep_their_signs(self, value_format, count):
        generator = np.random.default_rng(count)
        scores = (generator.normal(size=count) ** 3).astype(np.float32)
        support = Support.random((2, 5003), count / 10006, seed=1)
        support = Support.from_indices((2, 5003), support.indices[:count])
        schema = codec.Schema({"w": ((2, 5003), "float32")})
        update = codec.Update(
            {"w": codec.Sparse(support, downlink.keep_signs(scores, value_format))}
        )
        sent = codec.decode(codec.encode(update, schema, value_format), schema)["w"].values
        assert np.array_equal(rules.signs_of(sent), rules.signs_of(scores))
        # No score moves by more than the step of the coarsest block.
        steps = {"bf16": 2**-7, "int8": 1 / 127, "int4": 1 / 7}
        assert np.abs(sent - scores).max() <= 1.01 * steps[value_format] * np.abs(scores).max()


class TestServer:
    MEAN = (0.5, 0.0, -1.0, 1.0)

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("sign_update", [0.1 + 2 * 0.5, -0.2, 0.3 - 2.0, -0.4 + 2.0]),
            ("mean", [0.25, 0.0, -0.5, 0.5]),
            ("vote", [0.5, -0.5, -0.5, 0.5]),
            ("accumulate", [0.1 + 0.25, -0.2, 0.3 - 0.5, -0.4 + 0.5]),
            ("score", [0.5, 0.0, -1.0, 1.0]),
            ("personal", [0.25, 0.0, -0.5, 0.5]),
            # Votes for +1 of four clients: 3, 2, 0, 4; the prior adds one to each side.
            ("beta", [0.5 * np.log(4 / 2), 0.0, 0.5 * np.log(1 / 5), 0.5 * np.log(5 / 1)]),
        ],
    )
    def test_moves_the_scores(self, rule, expected):
        moved, _ = rules.RULES[rule].move(pooled(self.MEAN))
        np.testing.assert_allclose(moved.numpy(), expected, atol=1e-7)

    def test_posterior_remembers_and_fades(self):
        rule = rules.RULES["beta"]
        _, memory = rule.move(pooled(self.MEAN))
        moved, memory = rule.move(pooled(self.MEAN, memory=memory))
        assert memory["ups"].tolist() == [4.5, 3.0, 0.0, 6.0]
        assert memory["downs"].tolist() == [1.5, 3.0, 6.0, 0.0]
        assert float(moved[0]) == pytest.approx(0.5 * np.log(5.5 / 2.5))

    def test_weights_and_scales_count(self, federation, mean_of):
        run = federation("hidenseek")
        before = run.state.scores[HIDDEN].clone()
        support = run.wire.supports[HIDDEN]
        dense = {name: codec.Dense(value) for name, value in run.state.dense.items()}
        updates = [
            (weight, codec.Update({HIDDEN: codec.Signs(support, signs, scale), **dense}))
            for weight, scale, signs in (
                (0.75, 0.2, np.ones(support.nnz, np.int8)),
                (0.25, 0.4, -np.ones(support.nnz, np.int8)),
            )
        ]
        after = run.method.aggregate(run.state, mean_of(run, updates))
        torch.testing.assert_close(after.scores[HIDDEN], before + 0.75 * 0.2 - 0.25 * 0.4)
        for name, value in run.state.dense.items():
            torch.testing.assert_close(after.dense[name], value)


class TestPersonal:
    def test_clients_keep_their_own_scores_apart(self, federation):
        run = play(federation("hidenseek", rule="personal"), 2)
        assert set(run.memories) == {0, 1, 2}
        own = [run.memories[client][HIDDEN] for client in (0, 1, 2)]
        assert not torch.equal(own[0], own[1])
        assert not torch.equal(own[1], own[2])
        kept = own[0].clone()
        run.play(3)
        assert torch.equal(kept, own[0])
        assert not torch.equal(kept, run.memories[0][HIDDEN])

    @pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
    def test_start_is_a_mixture_of_own_and_received(self, federation, share):
        run = play(federation("hidenseek", rule="personal", own_share=share), 1)
        client = run.new_client()
        run.receive(client, run.broadcast(2))
        layer = client.model[4]
        received = layer.row_major(layer.scores.detach()).clone()
        run.method.recall(client, run.memories[1])
        expected = share * run.memories[1][HIDDEN] + (1 - share) * received
        torch.testing.assert_close(layer.row_major(layer.scores.detach()), expected)
        run.method.recall(client, None)
        torch.testing.assert_close(layer.row_major(layer.scores.detach()), expected)

    def test_personal_model_has_the_signs_of_its_client(self, federation):
        run = play(federation("hidenseek", rule="personal"), 1)
        common = run.method.global_model(run.task, run.state)
        own = hidenseek.personal_model(run.task, run.state, run.memories[2])
        support = run.wire.supports[HIDDEN]
        signs = own[4].weight.detach().flatten()[torch.tensor(support.indices)].sign()
        assert np.array_equal(signs.numpy(), rules.signs_of(run.memories[2][HIDDEN].numpy()))
        assert torch.equal(own[0].weight, common[0].weight)
        fresh = hidenseek.personal_model(run.task, run.state, None)
        assert torch.equal(fresh[4].weight, common[4].weight)

    @pytest.mark.parametrize("rule", sorted(set(rules.RULES) - {"personal"}))
    def test_other_rules_have_stateless_clients(self, federation, rule):
        run = play(federation("hidenseek", rule=rule), 1)
        assert not any(run.memories.values())
        assert hidenseek.personal_model(run.task, run.state, None) is None

    def test_results_give_personal_accuracy_beside_the_global_one(self, small):
        result = small("hidenseek", options={"rule": "personal", "iterations": 10}, rounds=4)
        personal = result.accuracy_per_client["personal"]
        assert len(personal["each"]) == len(result.accuracy_per_client["each"])
        assert 0.0 <= personal["worst_decile"] <= personal["mean"] <= 1.0
        assert "own models' mean" in result.table()
        common = small("hidenseek", options={"iterations": 10}, rounds=1)
        assert "personal" not in common.accuracy_per_client
        assert "own models' mean" not in common.table()
