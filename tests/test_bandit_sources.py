"""Bandit algorithms: their choices and returns against exact computations and published figures.

The computations are the tests' own: `expected_return` knows the rules from the papers and shares no line with
the sources. s and f = rewards and pulls without one, per arm.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.envs.bandit import adversarial_bandit_family
from ad_hf.histories import Histories, collect
from ad_hf.sources import load_source
from ad_hf.tasks import Task, make_vec

NAMES = ["ucb", "thompson", "epsilon-greedy"]
GREEDY = {"epsilon_start": 0.0, "epsilon_end": 0.0}
RANDOM = {"epsilon_start": 1.0, "epsilon_end": 1.0}


def bandit_tasks(number: int, *means: float, horizon: int = 1) -> list[Task]:
    return [Task("ad_hf/AdversarialBandit-v0", {"means": list(means), "horizon": horizon})] * number


def columns(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """Actions and rewards, (learners, pulls) each."""
    shape = len(histories), -1
    return histories.action.reshape(shape).astype(int), histories.reward.reshape(shape)


# Against reference values of the Adversarial Bandit: sums over 100 pulls, odd arms favoured


@pytest.mark.parametrize(
    ("name", "settings", "reference"),
    [("ucb", {}, 73.5), ("epsilon-greedy", GREEDY, 73.9), ("thompson", {}, 66.5)],
)
def test_each_source_loses_what_the_reference_loses(
    name: str, settings: dict[str, float], reference: float
) -> None:
    tasks = adversarial_bandit_family(num_train=1, num_test=2500)["test"]
    best = np.array([max(task.params["means"]) for task in tasks])
    lost = 100 * best - collect(tasks, name, 100, 0, settings).return_matrix().sum(axis=1)
    # The references were estimated on bandits drawn, whose optimum was 83.4.
    assert abs(lost.mean() - (83.4 - reference)) < 4 * lost.std() / 2500**0.5


def test_random_pulls_earn_25_of_100() -> None:
    tasks = adversarial_bandit_family(num_train=1, num_test=2500)["test"]
    returns = collect(tasks, "epsilon-greedy", 100, 0, RANDOM).return_matrix().sum(axis=1)
    assert abs(returns.mean() - 25.0) < 3 * returns.std() / 2500**0.5


# Against exact computation


State = tuple[int, int, int, int]  # s and f of the first arm, then of the second


def expected_return(means: tuple[float, float], pulls: int, first: Callable[[State, int], float]) -> float:
    """Of that many pulls of two arms, by enumeration of every state.

    At pull t = 0, 1, ... the first arm is chosen with the probability `first(state, t)`.
    """
    chances: dict[State, float] = {(0, 0, 0, 0): 1.0}
    total = 0.0
    for t in range(pulls):
        following: dict[State, float] = {}
        for state, chance in chances.items():
            of_first = first(state, t)
            for arm, of_arm in ((0, of_first), (1, 1 - of_first)):
                total += chance * of_arm * means[arm]
                for paid, of_outcome in ((1, means[arm]), (0, 1 - means[arm])):
                    counts = list(state)
                    counts[2 * arm + (1 - paid)] += 1
                    after = (counts[0], counts[1], counts[2], counts[3])
                    following[after] = following.get(after, 0.0) + chance * of_arm * of_outcome
        chances = following
    return total


@functools.cache
def first_beta_is_larger(state: State) -> float:
    """P(X > Y) for X ~ Beta(1 + s, 1 + f) of the first arm and Y of the second.

    X is the (s + 1)st smallest of n = s + f + 1 uniform numbers, so X > y where at most s of them lie below
    y. For each number k of those, a Beta integral over the density of Y is left.
    """
    s, f, other_s, other_f = state
    n, other_n = s + f + 1, other_s + other_f + 1
    density = other_n * math.comb(other_n - 1, other_s)
    return sum(
        math.comb(n, k) * density / ((n + other_n) * math.comb(n + other_n - 1, k + other_s))
        for k in range(s + 1)
    )


def compare(first: float, second: float) -> float:
    """The probability to choose the first of two: ties are a matter of chance."""
    return 0.5 if first == second else float(first > second)


def thompson_rule(state: State, t: int) -> float:
    return first_beta_is_larger(state)


def greedy_rule(epsilon: Callable[[int], float], state: State, t: int) -> float:
    s, f, other_s, other_f = state
    greedy = compare((1 + s) / (2 + s + f), (1 + other_s) / (2 + other_s + other_f))
    return epsilon(t) / 2 + (1 - epsilon(t)) * greedy


def ucb_rule(exploration: float, state: State, t: int) -> float:
    def bound(s: int, f: int) -> float:
        return math.inf if s + f == 0 else s / (s + f) + math.sqrt(exploration * math.log(t) / (s + f))

    return compare(bound(*state[:2]), bound(*state[2:]))


def constant(value: float) -> Callable[[int], float]:
    return lambda t: value


PULLS = 25
RULES = [
    pytest.param("thompson", {}, thompson_rule, id="thompson"),
    pytest.param("epsilon-greedy", GREEDY, functools.partial(greedy_rule, constant(0.0)), id="greedy"),
    pytest.param(
        "epsilon-greedy",
        {"epsilon_start": 0.3, "epsilon_end": 0.3},
        functools.partial(greedy_rule, constant(0.3)),
        id="epsilon-0.3",
    ),
    pytest.param(
        "epsilon-greedy",
        {"epsilon_start": 0.9, "epsilon_end": 0.1},
        functools.partial(greedy_rule, lambda t: 0.9 - 0.8 * t / (PULLS - 1)),
        id="epsilon-fades",
    ),
    pytest.param("ucb", {}, functools.partial(ucb_rule, 0.03), id="ucb-0.03"),
    pytest.param("ucb", {"exploration": 2.0}, functools.partial(ucb_rule, 2.0), id="ucb-2"),
]


def test_the_chance_of_the_larger_beta_is_the_one_drawn() -> None:
    rng = np.random.default_rng(0)
    for s, f, other_s, other_f in [(0, 0, 0, 0), (3, 1, 1, 1), (0, 5, 2, 9), (7, 2, 8, 3)]:
        wins = rng.beta(1 + s, 1 + f, 40_000) > rng.beta(1 + other_s, 1 + other_f, 40_000)
        exact = first_beta_is_larger((s, f, other_s, other_f))
        assert abs(wins.mean() - exact) < 3 * (exact * (1 - exact) / 40_000) ** 0.5


@pytest.mark.parametrize("means", [(1.0, 0.0), (0.9, 0.6), (0.2, 0.4)])
@pytest.mark.parametrize(("name", "settings", "rule"), RULES)
def test_returns_on_two_arms_are_the_exact_ones(
    name: str, settings: dict[str, float], rule: Any, means: tuple[float, float]
) -> None:
    action, _ = columns(collect(bandit_tasks(2500, *means), name, PULLS, 0, settings))
    returns = np.array(means)[action].sum(axis=1)  # means, not rewards: the same without the arms' own luck
    assert abs(returns.mean() - expected_return(means, PULLS, rule)) < 3 * returns.std() / 2500**0.5 + 1e-9


@pytest.mark.parametrize("exploration", [0.3, 2.0])
def test_ucb_chooses_as_its_formula_does_pull_by_pull(exploration: float) -> None:
    action, _ = columns(collect(bandit_tasks(10, 1.0, 0.0), "ucb", 300, 0, {"exploration": exploration}))
    state = (1, 0, 0, 1)  # once each arm was pulled, nothing is left to chance
    for t in range(2, 300):
        first = ucb_rule(exploration, state, t)
        assert (action[:, t] == 1 - first).all()
        state = (state[0] + int(first), 0, 0, state[3] + 1 - int(first))
    assert state[3] > 1, "the worse arm was never tried again: the test has lost its point"


def test_ucb_wastes_nine_pulls_on_ten_arms_of_which_one_always_pays() -> None:
    # With 0.03 the bound of an arm that has failed once stays below 1, what the paying arm has earned.
    means = [0.0] * 10
    means[6] = 1.0
    returns = collect(bandit_tasks(50, *means), "ucb", 100).return_matrix().sum(axis=1)
    assert (returns == 91).all()


@pytest.mark.parametrize("means", [(0.9, 0.6), (0.6, 0.4)])
def test_the_regret_of_ucb1_lies_between_the_lower_bound_and_its_guarantee(
    means: tuple[float, float],
) -> None:
    best, other = means
    gap, n = best - other, 1000
    action, _ = columns(collect(bandit_tasks(500, *means), "ucb", n, 0, {"exploration": 2.0}))
    regret = gap * np.cumsum(action == 1, axis=1).mean(axis=0)[[99, 299, 999]]
    t = np.array([100, 300, 1000])
    # Auer, Cesa-Bianchi and Fischer 2002, theorem 1.
    assert (regret < 8 * np.log(t) / gap + (1 + math.pi**2 / 3) * gap).all()
    # Lai and Robbins 1985: no consistent algorithm has a lower slope in ln t.
    divergence = other * math.log(other / best) + (1 - other) * math.log((1 - other) / (1 - best))
    slopes = np.diff(regret) / np.diff(np.log(t))
    assert (slopes > gap / divergence).all()


# Choices


def test_every_arm_comes_once_first_and_each_order_is_as_likely() -> None:
    action, _ = columns(collect(bandit_tasks(3000, *[0.5] * 3), "ucb", 3))
    assert (np.sort(action, axis=1) == [0, 1, 2]).all()
    counts = np.unique(action @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert chi_square < 5 + 4 * 10**0.5  # 5 degrees of freedom: mean 5, variance 10


@pytest.mark.parametrize("name", NAMES)
def test_arms_that_look_alike_are_as_likely(name: str) -> None:
    action, _ = columns(collect(bandit_tasks(3000, *[0.5] * 5), name, 1, 0))
    counts = np.bincount(action[:, 0], minlength=5)
    assert ((counts - 600) ** 2 / 600).sum() < 4 + 4 * 8**0.5  # 4 degrees of freedom: mean 4, variance 8


@pytest.mark.parametrize(("name", "settings"), [("ucb", {}), ("thompson", {}), ("epsilon-greedy", GREEDY)])
def test_what_was_learned_goes_on_across_episodes(name: str, settings: dict[str, float]) -> None:
    means = [0.1, 0.3, 0.5, 0.7]
    whole = columns(collect(bandit_tasks(20, *means, horizon=100), name, 1, 0, settings))
    parts = columns(collect(bandit_tasks(20, *means, horizon=5), name, 20, 0, settings))
    pulls = columns(collect(bandit_tasks(20, *means), name, 100, 0, settings))
    for ours, theirs in zip(whole + whole, parts + pulls, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_climbs_from_random_to_nearly_optimal(name: str) -> None:
    tasks = adversarial_bandit_family(num_train=500, num_test=1)["train"]
    best = np.mean([max(task.params["means"]) for task in tasks])
    returns = collect(tasks, name, 300).return_matrix()
    assert returns[:, 0].mean() < 0.35
    assert returns[:, -30:].mean() > 0.93 * best


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_a_history_and_another_does_not(name: str) -> None:
    tasks = bandit_tasks(10, 0.4, 0.5, 0.6)
    first, again, other = (columns(collect(tasks, name, 30, seed)) for seed in (1, 1, 2))
    for ours, theirs, others in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != others).any()


# Refusals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1", "FrozenLake-v1", "ad_hf/DarkRoom-v0"])
def test_what_is_no_bandit_is_refused(name: str, env_id: str) -> None:
    with pytest.raises(ValueError, match=r"needs a bandit, with Discrete\(1\) observations.*got "):
        collect([Task(env_id, {})] * 2, name, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_rewards_outside_0_to_1_are_refused(name: str, shift: float) -> None:
    envs = make_vec(bandit_tasks(4, 0.5))
    shifted = gym.wrappers.vector.TransformReward(envs, lambda reward: reward + shift)
    with pytest.raises(ValueError, match=r"needs rewards from 0 to 1, got -?\d\.5 to -?\d\.5"):
        load_source(name)(shifted, 20, 0)
