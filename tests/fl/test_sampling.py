import numpy as np
import pytest

from sparsefl.fl import Schedule
from sparsefl.fl.pool import Pool
from sparsefl.fl.sampling import draw_cohort, inclusion_chances

EXAMPLES = np.array([1, 50, 0, 10, 3, 30, 6])


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("rule", ["uniform", "examples"])
@pytest.mark.parametrize("size", [1, 3, 6, 99])
def test_a_cohort_has_its_size_and_nobody_without_examples(rule, size):
    for seed in range(20):
        cohort = draw_cohort(EXAMPLES, size, rule, generator(seed))
        assert len(cohort) == min(size, 6)
        assert list(cohort) == sorted(cohort)
        assert 2 not in cohort


def test_chances_are_proportional_and_sum_to_the_size():
    assert inclusion_chances(np.array([1, 2, 3, 4]), 2).tolist() == pytest.approx(
        [0.2, 0.4, 0.6, 0.8]
    )
    # 50 of 60 would get a chance of 1.67: it is certain, and the others share what is left.
    assert inclusion_chances(np.array([50, 5, 5]), 2).tolist() == [1.0, 0.5, 0.5]
    assert inclusion_chances(np.array([3, 3]), 2).tolist() == [1.0, 1.0]


def test_clients_come_as_often_as_their_chances_say():
    owned = EXAMPLES[EXAMPLES > 0]
    chances = dict(zip(np.flatnonzero(EXAMPLES > 0), inclusion_chances(owned, 3), strict=True))
    drawn = np.zeros(EXAMPLES.size)
    for seed in range(2000):
        for client, chance in draw_cohort(EXAMPLES, 3, "examples", generator(seed)).items():
            assert chance == pytest.approx(chances[client])
            drawn[client] += 1
    for client, chance in chances.items():
        assert abs(drawn[client] / 2000 - chance) < 4 * (chance * (1 - chance) / 2000) ** 0.5 + 1e-9


@pytest.mark.parametrize("size", [2, 6, 99])
def test_coins_of_their_own_draw_so_many_on_average(size):
    cohorts = [draw_cohort(EXAMPLES, size, "poisson", generator(seed)) for seed in range(2000)]
    chance = min(size, 6) / 6
    assert all(set(cohort) <= {0, 1, 3, 4, 5, 6} for cohort in cohorts)
    assert all(list(cohort) == sorted(cohort) for cohort in cohorts)
    both = sum({0, 1} <= set(cohort) for cohort in cohorts) / 2000
    assert abs(both - chance**2) < 4 * (chance**2 * (1 - chance**2) / 2000) ** 0.5 + 1e-9
    for client in (0, 6):
        drawn = sum(client in cohort for cohort in cohorts) / 2000
        assert abs(drawn - chance) < 4 * (chance * (1 - chance) / 2000) ** 0.5 + 1e-9


def test_the_weights_of_every_cohort_sum_to_all_examples():
    for seed in range(50):
        cohort = draw_cohort(EXAMPLES, 4, "examples", generator(seed))
        total = sum(EXAMPLES[client] / chance for client, chance in cohort.items())
        assert total == pytest.approx(EXAMPLES.sum())


def test_everyone_weighs_as_in_fedavg(federation, toy):
    data = [toy.clusters(n, n) for n in (30, 10, 4)]
    plain, weighted = (federation("fedavg", datasets=data) for _ in range(2))
    weighted.schedule = Schedule(batch_size=16, sampling="examples")
    states = []
    for run in (plain, weighted):
        run.play(1)
        states.append(run.state.tensors)
    assert all((states[0][name] == value).all() for name, value in states[1].items())


def test_sampled_by_examples_updates_count_alike(federation, toy, monkeypatch):
    run = federation("fedavg", datasets=[toy.clusters(n, n) for n in (12, 8, 6, 4)])
    run.schedule = Schedule(batch_size=16, clients_per_round=2, sampling="examples")
    weights = []

    def recorded(pool, message, weight, base):
        weights.append(weight)
        add(pool, message, weight, base)

    add = Pool.add
    monkeypatch.setattr(Pool, "add", recorded)
    run.play(1)
    assert len(weights) == 2
    assert weights[0] == pytest.approx(weights[1])


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="uniform, examples, poisson"):
        Schedule(sampling="by size")
