"""Adversarial Bandit: how its means are drawn, what its arms pay, and its families.

Expected returns are integrated here, from the formulas alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.envs.bandit import (
    AHEAD,
    BAR,
    adversarial_bandit_family,
    adversarial_bandit_h_family,
    draw_means,
    uniform_bandit_family,
)
from ad_hf.envs.dark_room import AGENT, CELL, GOAL, LINES
from ad_hf.tasks import TaskFamily, make_vec

ENV_ID = "ad_hf/AdversarialBandit-v0"
ODD = [0, 2, 4, 6, 8]  # the actions of the first, third, ... arm
EVEN = [1, 3, 5, 7, 9]
FAMILIES: list[Callable[..., TaskFamily]] = [
    adversarial_bandit_family,
    adversarial_bandit_h_family,
    uniform_bandit_family,
]


def bandit(**kwargs: Any) -> Any:
    """A single bandit without wrappers, reset."""
    env = gym.make(ENV_ID, **kwargs).unwrapped
    env.reset(seed=0)
    return env


def bandits(num_envs: int, **kwargs: Any) -> Any:
    """A vector of bandits that are reset by hand."""
    return gym.make_vec(ENV_ID, num_envs=num_envs, autoreset_mode="Disabled", **kwargs).unwrapped


def drawn(formula: str, favoured: str, number: int) -> np.ndarray:
    """The means (number, 10) of bandits."""
    rng = np.random.default_rng(0)
    return np.array([draw_means(formula, favoured, rng) for _ in range(number)])


# Formulas


def expected(distributions: list[Callable[[np.ndarray], np.ndarray]]) -> tuple[float, float]:
    """The mean of the arms' means and the mean of their maximum, from one distribution function per arm.

    Of a variable in [0, 1], E = integral of 1 - F; the distribution function of a maximum is the product.
    """
    middles = (np.arange(100_000) + 0.5) / 100_000
    values = np.array([distribution(middles) for distribution in distributions])
    return float(1 - values.mean()), float(1 - values.prod(axis=0).mean())


def active(chance: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: 1 - chance + chance * x


def uniform(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.clip((x - low) / (high - low), 0, 1)


EXPECTED = {
    "G": expected([active(0.95)] * 5 + [active(0.05)] * 5),
    "H": expected([uniform(0.5, 1)] * 5 + [uniform(0, 0.5)] * 5),
    "uniform": expected([uniform(0, 1)] * 10),
}


def test_the_expected_returns_of_100_pulls_are_those_of_the_reference_values() -> None:
    assert 100 * EXPECTED["G"][0] == pytest.approx(25.0, abs=1e-6)
    assert 100 * EXPECTED["G"][1] == pytest.approx(83.1, abs=0.01)
    # The reference, 83.4, was estimated on bandits drawn, whose optima scatter by 14.4 in 100.
    assert 100 * EXPECTED["G"][1] == pytest.approx(83.4, abs=2 * 14.4 / 2000**0.5)
    assert EXPECTED["H"] == pytest.approx((1 / 2, 11 / 12), abs=1e-6)
    assert EXPECTED["uniform"] == pytest.approx((1 / 2, 10 / 11), abs=1e-6)


@pytest.mark.parametrize("favoured", ["odd", "even"])
@pytest.mark.parametrize("formula", EXPECTED)
def test_drawn_means_and_their_maxima_are_the_expected_ones(formula: str, favoured: str) -> None:
    means = drawn(formula, favoured, 4000)
    assert means.shape == (4000, 10)
    for values, exact in zip((means.mean(axis=1), means.max(axis=1)), EXPECTED[formula], strict=True):
        assert abs(values.mean() - exact) < 3 * values.std() / 4000**0.5


@pytest.mark.parametrize(("favoured", "inside", "outside"), [("odd", ODD, EVEN), ("even", EVEN, ODD)])
def test_formula_g_makes_favoured_arms_active_and_others_rarely(
    favoured: str, inside: list[int], outside: list[int]
) -> None:
    means = drawn("G", favoured, 4000)
    share = (means > 0).mean(axis=0)
    standard_error = (0.95 * 0.05 / 4000) ** 0.5
    np.testing.assert_allclose(share[inside], 0.95, atol=4 * standard_error)
    np.testing.assert_allclose(share[outside], 0.05, atol=4 * standard_error)
    quarters = np.histogram(means[means > 0], bins=4, range=(0, 1))[0] / (means > 0).sum()
    np.testing.assert_allclose(quarters, 0.25, atol=0.02)


@pytest.mark.parametrize(("favoured", "inside", "outside"), [("odd", ODD, EVEN), ("even", EVEN, ODD)])
def test_formula_h_puts_favoured_arms_above_a_half_in_95_percent_of_the_bandits(
    favoured: str, inside: list[int], outside: list[int]
) -> None:
    means = drawn("H", favoured, 4000)
    is_upper = means >= 0.5
    as_favoured = is_upper[:, inside].all(axis=1) & ~is_upper[:, outside].any(axis=1)
    reversed_ = is_upper[:, outside].all(axis=1) & ~is_upper[:, inside].any(axis=1)
    assert (as_favoured | reversed_).all()
    assert abs(as_favoured.mean() - 0.95) < 3 * (0.95 * 0.05 / 4000) ** 0.5


def test_uniform_bandits_favour_no_parity() -> None:
    means = drawn("uniform", "odd", 4000)
    np.testing.assert_allclose(means.mean(axis=0), 0.5, atol=4 * (1 / 12 / 4000) ** 0.5)
    np.testing.assert_array_equal(means, drawn("uniform", "even", 4000))


@pytest.mark.parametrize("formula", EXPECTED)
def test_bandits_can_have_other_numbers_of_arms(formula: str) -> None:
    assert draw_means(formula, "odd", np.random.default_rng(0), num_arms=3).shape == (3,)


# Rewards


def test_random_and_optimal_pulls_earn_the_expected_returns() -> None:
    envs = bandits(4000, horizon=100)
    rng = np.random.default_rng(1)
    for actions, exact in (
        (lambda: rng.integers(10, size=4000), EXPECTED["G"][0]),
        (envs.optimal_actions, EXPECTED["G"][1]),
    ):
        envs.reset(seed=0)
        returns = np.sum([envs.step(actions())[1] for _ in range(100)], axis=0)
        assert abs(returns.mean() - 100 * exact) < 3 * returns.std() / 4000**0.5


def test_an_arm_pays_with_the_probability_that_is_its_mean() -> None:
    means = [0.0, 0.1, 0.5, 0.98, 1.0]
    envs = bandits(2000, means=means, horizon=50)
    for arm, mean in enumerate(means):
        envs.reset(seed=arm)
        rewards = np.array([envs.step(np.full(2000, arm))[1] for _ in range(50)])
        assert set(np.unique(rewards)) <= {0.0, 1.0}
        assert abs(rewards.mean() - mean) <= 4 * (mean * (1 - mean) / rewards.size) ** 0.5
        # Pulls of a bandit are independent: their sums vary as a binomial does.
        assert rewards.sum(axis=0).var() == pytest.approx(50 * mean * (1 - mean), rel=0.15)


@pytest.mark.parametrize("horizon", [1, 7])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_bandits_in_lockstep_pay_as_single_ones_for_longer_than_they_draw_ahead(
    mode: AutoresetMode, horizon: int
) -> None:
    # 0.5 everywhere: a number that was skipped or used twice shows in what follows.
    kwargs: dict[str, Any] = {"means": [0.5] * 4, "horizon": horizon}
    native = gym.make_vec(ENV_ID, num_envs=3, autoreset_mode=mode, **kwargs)
    single = SyncVectorEnv([lambda: gym.make(ENV_ID, **kwargs)] * 3, autoreset_mode=mode)
    both: list[Any] = [native, single]
    rng = np.random.default_rng(0)
    for envs in both:
        envs.reset(seed=3)
    for step in range(5 * AHEAD):
        if step % 90 == 45:  # some rows, one of them with a seed: from here on they draw at other times
            mask, seeds = np.array([True, step % 4 > 1, False]), [None, step, None]
            for envs in both:
                envs.reset(seed=seeds, options={"reset_mask": mask.copy()})
        actions = rng.integers(4, size=3)
        ours, theirs = (envs.step(actions) for envs in both)
        for mine, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        if mode == AutoresetMode.DISABLED and (done := ours[2] | ours[3]).any():
            for envs in both:
                envs.reset(options={"reset_mask": done.copy()})


def test_rewards_go_on_across_episodes_and_a_seed_repeats_them() -> None:
    env = bandit(means=[0.5])

    def rewards() -> list[float]:
        paid = []
        for _ in range(40):
            paid.append(env.step(0)[1])
            env.reset()
        return paid

    first, second = rewards(), rewards()
    env.reset(seed=0)
    again = rewards()
    assert first == again
    assert first != second


def test_neither_the_horizon_nor_the_neighbours_change_what_a_bandit_pays() -> None:
    alone = bandit(means=[0.5], horizon=200)
    many = bandits(3, means=[[0.0], [0.5], [1.0]])
    many.reset(seed=[5, 0, 9])
    for _ in range(200):
        paid = many.step(np.zeros(3, dtype=int))[1].tolist()
        assert paid == [0.0, alone.step(0)[1], 1.0]
        many.reset(options={"reset_mask": np.ones(3, dtype=bool)})


# Episodes and tasks


@pytest.mark.parametrize("horizon", [1, 3, 100])
def test_an_episode_terminates_at_its_horizon_and_is_not_truncated(horizon: int) -> None:
    env = bandit(horizon=horizon)
    for _ in range(2):
        ends = [env.step(0)[2:4] for _ in range(horizon)]
        assert ends == [(False, False)] * (horizon - 1) + [(True, False)]
        env.reset()


def test_an_episode_is_one_pull_of_ten_arms_unless_told_otherwise() -> None:
    env = bandit()
    assert env.action_space == gym.spaces.Discrete(10)
    assert env.observation_space == gym.spaces.Discrete(1)
    assert env.step(9)[2]
    assert bandit(means=[0.2, 0.3]).action_space == gym.spaces.Discrete(2)


def test_drawn_means_stay_until_a_seed_draws_others() -> None:
    env = bandit()
    means = []
    for seed in (1, None, None, 2, None, 1):
        env.reset(seed=seed)
        means.append(env.world.means[0].tolist())
    assert means[0] == means[1] == means[2] == means[5]
    assert means[3] == means[4]
    assert means[0] != means[3]


def test_drawn_bandits_favour_odd_arms_by_formula_g() -> None:
    envs = bandits(500)
    envs.reset(seed=0)
    share = (envs.means > 0).mean(axis=0)
    assert share[ODD].min() > 0.9
    assert share[EVEN].max() < 0.1


def test_given_means_are_not_drawn() -> None:
    envs = bandits(2, means=[[0.1, 0.9], [0.8, 0.3]])
    envs.reset(seed=4)
    assert envs.means.tolist() == [[0.1, 0.9], [0.8, 0.3]]
    assert envs.optimal_actions().tolist() == [1, 0]
    assert bandit(means=[0.3, 0.2, 0.7]).optimal_action() == 2


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_no_bandit_is_in_two_splits_or_twice_in_one(family: Callable[..., TaskFamily]) -> None:
    splits = family().splits
    tasks = [task.id for split in splits for task in splits[split]]
    assert len(set(tasks)) == len(tasks)
    assert {split: len(tasks) for split, tasks in splits.items()} == dict.fromkeys(splits, 200) | {
        "train": 4000
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_test_bandits_do_not_depend_on_how_many_are_trained_on(
    family: Callable[..., TaskFamily],
) -> None:
    small, large = family(num_train=3, num_test=5), family(num_train=30, num_test=5)
    assert large["train"][:3] == small["train"]
    assert {**large.splits, "train": None} == {**small.splits, "train": None}
    assert family(num_train=3, num_test=5, seed=1)["test"] != small["test"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bandit_family_remembers_its_options(family: Callable[..., TaskFamily]) -> None:
    changed = family(num_train=7, num_test=4, seed=3)
    assert family(**changed.options) == changed


def means_of(family: TaskFamily, split: str) -> np.ndarray:
    return np.array([task.params["means"] for task in family[split]])


def test_training_and_test_favour_odd_arms_and_the_two_tests_outside_do_not() -> None:
    family = adversarial_bandit_family(num_train=400, num_test=400)
    assert set(family.splits) == {"train", "test", "even", "uniform"}
    for split, favoured, other in (("train", ODD, EVEN), ("test", ODD, EVEN), ("even", EVEN, ODD)):
        is_active = means_of(family, split) > 0
        assert is_active[:, favoured].mean() > 0.9
        assert is_active[:, other].mean() < 0.1
    assert (means_of(family, "uniform") > 0).mean() > 0.99
    assert abs(means_of(family, "uniform").mean() - 0.5) < 0.02


def test_the_other_families_follow_their_formulas() -> None:
    other = adversarial_bandit_h_family(num_train=400, num_test=400)
    assert set(other.splits) == {"train", "test", "even", "uniform"}
    for split, favoured in (("train", ODD), ("test", ODD), ("even", EVEN)):
        assert 0.9 < (means_of(other, split)[:, favoured] >= 0.5).all(axis=1).mean() < 1
    family = uniform_bandit_family(num_train=400, num_test=400)
    assert set(family.splits) == {"train", "test"}
    for split in ("train", "test"):
        np.testing.assert_allclose(means_of(family, split).mean(axis=0), 0.5, atol=0.06)


def test_a_task_tells_its_means_to_four_digits_and_a_vector_has_them() -> None:
    tasks = adversarial_bandit_family(num_train=6, num_test=1)["train"]
    envs: Any = make_vec(tasks).unwrapped
    np.testing.assert_array_equal(envs.means, [task.params["means"] for task in tasks])
    np.testing.assert_array_equal(envs.means, envs.means.round(4))


# Pictures


def test_a_picture_shows_the_means_and_the_last_pull() -> None:
    env = bandit(means=[1.0, 0.0, 0.25], horizon=9, render_mode="rgb_array")
    heights = [(env.render()[:, arm * CELL + CELL // 2] == LINES).all(axis=1).sum() for arm in range(3)]
    assert heights == [BAR, 0, BAR // 4]

    def lit(colour: tuple[int, int, int]) -> list[bool]:
        frame = env.render()
        return [(frame[:, a * CELL : (a + 1) * CELL] == colour).all(axis=2).any() for a in range(3)]

    assert lit(GOAL) == lit(AGENT) == [False] * 3
    env.step(0)
    assert (lit(GOAL), lit(AGENT)) == ([True, False, False], [False] * 3)
    env.step(1)
    assert (lit(GOAL), lit(AGENT)) == ([False] * 3, [False, True, False])


def test_text_shows_the_means_and_the_last_pull() -> None:
    env = bandit(means=[1.0, 0.0, 0.25], render_mode="ansi")
    lines = ["   0    1    2", "1.00 0.00 0.25"]
    assert env.render().splitlines()[:2] == lines
    for arm, mark in ((0, "   +          "), (1, "        -     ")):
        env.step(arm)
        assert env.render().splitlines() == [*lines, mark]
        env.reset()
    env.reset(seed=1)
    assert env.render().splitlines() == [*lines, " " * 14]


def test_a_restart_is_no_pull() -> None:
    envs: Any = gym.make_vec(ENV_ID, num_envs=1, means=[1.0, 0.0], autoreset_mode="NextStep").unwrapped
    envs.reset(seed=0)
    envs.step(np.array([0]))
    before = envs.text(0)
    envs.step(np.array([1]))  # ignored: the row starts its next episode
    assert envs.text(0) == before
    assert "+" in before


# Refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"means": [0.5, 1.2]}, r"means hold 1\.2.*from 0 to 1"),
        ({"means": [0.5, -0.1]}, r"means hold -0\.1.*from 0 to 1"),
        ({"means": [0.5, float("nan")]}, r"means hold nan.*from 0 to 1"),
        ({"means": []}, r"means are of shape \(0,\).*one number.* per arm"),
        ({"means": 0.5}, r"means are of shape \(\).*one number.* per arm"),
        ({"means": [[0.1, 0.2]] * 2}, r"means are of shape \(2, 2\).*such lists"),
        ({"means": [[0.1, 0.2], [0.3], [0.4]]}, "means must be.*of one length"),
        ({"means": ["many", "few"]}, "means must be one number"),
        ({"horizon": 0}, r"horizon is 0.*at least 1"),
    ],
)
def test_impossible_bandits_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bandit(**kwargs)
    with pytest.raises(ValueError, match=message):
        bandits(3, **kwargs)


def test_no_bandits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_envs is 0.*at least 1"):
        bandits(0, means=[0.5])


@pytest.mark.parametrize(("formula", "favoured"), [("K", "odd"), ("G", "prime")])
def test_unknown_formulas_and_parities_are_answered_with_the_known_ones(formula: str, favoured: str) -> None:
    with pytest.raises(ValueError, match="'K'.*G, H, uniform" if formula == "K" else "'prime'.*odd, even"):
        draw_means(formula, favoured, np.random.default_rng(0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["num_train", "num_test"])
def test_families_without_bandits_are_refused(family: Callable[..., TaskFamily], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0.*at least 1"):
        family(**{name: 0})
