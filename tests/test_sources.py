"""Sources: every registered one climbs from random to nearly optimal, and a seed repeats its histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.histories import Histories, Recorder, collect
from ad_hf.sources import SOURCES, load_source, resolve_settings
from ad_hf.sources.networks import flatten
from ad_hf.sources.q_learning import _discrete_states
from ad_hf.tasks import Task, load_task_family, make_vec

NAMES = sorted(SOURCES)
IN_ROOMS = [name for name in NAMES if name not in ("epsilon-greedy", "thompson", "ucb")]  # these play bandits
TRAINING_TASKS = load_task_family("dark-room")["train"]
RANDOM_RETURN = 20 / 81  # exact; test_dark_room.py derives it

LEARNERS = ["q-learning", "a2c", "dqn"]  # sources that learn, and from rewards alone

# Episodes in which a source has to climb from random to nearly optimal, where it is not 300.
NUM_EPISODES = {"a2c": 200, "dqn": 200, "posterior-sampling": 60, "noise": 60}


def goal_task(x: int, y: int, **params: Any) -> Task:
    return Task("ad_hf/DarkRoom-v0", {"goal": [x, y], **params})


def every_goal(**params: Any) -> list[Task]:
    return [goal_task(x, y, **params) for x in range(9) for y in range(9)]


def optimal_returns(tasks: Sequence[Task]) -> np.ndarray:
    """Of Dark Room from the centre: d steps lead there, and the last of them pays first."""
    distance = np.array([abs(x - 4) + abs(y - 4) for x, y in (task.params["goal"] for task in tasks)])
    return 20 - np.maximum(distance - 1, 0)


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in (
        "observation",
        "action",
        "reward",
        "final_observation",
        "episode_offsets",
        "history_offsets",
    ):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


# Contracts of every registered source


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("a2c", "dqn"))) for name in IN_ROOMS]
)
def test_a_history_climbs_from_random_to_nearly_optimal(name: str) -> None:
    returns = collect(TRAINING_TASKS, name, NUM_EPISODES.get(name, 300)).return_matrix()
    num_last = returns.shape[1] // 10
    assert returns[:, 0].mean() < 1.5
    assert returns[:, -num_last:].mean() > 0.9 * optimal_returns(TRAINING_TASKS).mean()


@pytest.mark.parametrize("name", IN_ROOMS)
@pytest.mark.parametrize("start", ["center", "random"])
def test_a_seed_repeats_a_history_and_another_does_not(name: str, start: str) -> None:
    tasks = every_goal(start=start)[::16]
    first, again, other = (collect(tasks, name, 10, seed) for seed in (1, 1, 2))
    assert_same(first, again)
    assert (first.action != other.action).any()


@pytest.mark.parametrize("name", IN_ROOMS)
def test_a_learner_does_not_notice_its_neighbours(name: str) -> None:
    # The row in the middle meets rewards at once in the first run and late in the second.
    runs = [
        collect([goal_task(5, 4), neighbour, goal_task(4, 3)], name, 40)
        for neighbour in (goal_task(4, 4), goal_task(0, 8))
    ]
    first, second = (histories.action.reshape(3, 40 * 20) for histories in runs)
    assert (first == second).all(axis=1).tolist() == [True, False, True]


@pytest.mark.parametrize("name", IN_ROOMS)
def test_ragged_episodes_are_played_in_full_number(name: str) -> None:
    tasks = [goal_task(x, y, size=3, terminate_on_goal=True) for x in range(3) for y in range(3)]
    histories = collect(tasks, name, 12)
    assert histories.return_matrix().shape == (9, 12)
    lengths = np.diff(histories.episode_offsets)
    assert len(set(lengths)) > 1
    assert histories.terminated.any()
    assert (lengths[~histories.terminated] == 20).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_that_a_source_cannot_learn_in_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs"):
        collect([Task("Pendulum-v1", {})] * 2, name, 1)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_defaults_with_changes(name: str) -> None:
    defaults = resolve_settings(name, {})
    assert not {"envs", "num_episodes", "seed"} & defaults.keys()
    for key, value in {key: 0.25 for key in defaults if type(defaults[key]) is float}.items():
        assert resolve_settings(name, {key: value}) == {**defaults, key: value}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["learning_rte", "num_episodes", "seed"])
def test_an_unknown_setting_is_answered_with_the_known_ones(name: str, key: str) -> None:
    known = r", ".join(repr(known) for known in sorted(resolve_settings(name, {})))
    with pytest.raises(ValueError, match=rf"{name!r} has no setting {key!r}: choose one of \[{known}\]"):
        resolve_settings(name, {key: 1})
    with pytest.raises(ValueError, match=rf"{name!r} has no setting {key!r}"):
        collect([goal_task(0, 0)], name, 1, settings={key: 1})


def test_an_unknown_source_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=rf"unknown source 'ppo'.*{', '.join(map(repr, NAMES))}"):
        load_source("ppo")


# Noise


@pytest.mark.parametrize("horizon", [20, 7])
def test_without_noise_every_episode_is_optimal(horizon: int) -> None:
    tasks = every_goal(horizon=horizon)
    returns = collect(tasks, "noise", 3, settings={"epsilon_start": 0.0}).return_matrix()
    optimum = np.maximum(optimal_returns(tasks) - 20 + horizon, 0)
    np.testing.assert_array_equal(returns, np.repeat(optimum[:, None], 3, axis=1))


def test_with_noise_alone_episodes_are_random_throughout() -> None:
    returns = collect(every_goal(), "noise", 150, settings={"epsilon_end": 1.0}).return_matrix()
    for half in (returns[:, :75], returns[:, 75:]):
        assert abs(half.mean() - RANDOM_RETURN) < 3 * half.std() / half.size**0.5


def test_noise_fades_from_the_first_episode_to_the_last() -> None:
    tasks = every_goal() * 10
    returns = collect(tasks, "noise", 11).return_matrix()
    means = returns.mean(axis=0)
    assert abs(means[0] - RANDOM_RETURN) < 3 * returns[:, 0].std() / len(tasks) ** 0.5
    assert (np.diff(means) > 0).all()
    np.testing.assert_array_equal(returns[:, -1], optimal_returns(tasks))


def test_noise_held_at_a_level_stays_there() -> None:
    returns = collect(every_goal() * 10, "noise", 2, settings={"epsilon_start": 0.5, "epsilon_end": 0.5})
    first, last = returns.return_matrix().T
    assert abs(first.mean() - last.mean()) < 3 * (first - last).std() / len(first) ** 0.5
    assert RANDOM_RETURN < first.mean() < optimal_returns(every_goal()).mean()


# Posterior sampling


@pytest.mark.parametrize("seed", range(3))
def test_posterior_sampling_finds_every_goal_within_60_episodes(seed: int) -> None:
    returns = collect(every_goal(), "posterior-sampling", 60, seed).return_matrix()
    np.testing.assert_array_equal(returns[:, -1], optimal_returns(every_goal()))


@pytest.mark.parametrize("params", [{}, {"reward_once": True}, {"terminate_on_goal": True}])
def test_posterior_sampling_never_loses_a_goal_that_it_has_found(params: dict[str, bool]) -> None:
    # Had it refuted the true goal, it would not come back to it in every later episode by the shortest way.
    tasks = every_goal(**params)
    histories = collect(tasks, "posterior-sampling", 90)
    optimum = np.ones(len(tasks)) if params else optimal_returns(tasks)
    for history, best in enumerate(optimum):
        episodes = range(*histories.history_offsets[[history, history + 1]])
        returns = histories.episode_returns()[episodes]
        found = np.flatnonzero(returns)[0]
        assert (returns[found + 1 :] == best).all()
        assert found < 60


def test_posterior_sampling_stays_where_it_was_paid() -> None:
    rewards = collect(every_goal(), "posterior-sampling", 60).reward.reshape(-1, 20)
    assert (np.diff(rewards, axis=1) >= 0).all()


def test_posterior_sampling_tries_every_goal_alike() -> None:
    # A first action shows the first belief. Of the 9 cells 3 lie left (corners included), 3 right, 1 up and
    # 1 down, and on 1 stands the agent.
    tasks = [goal_task(0, 0, size=3, horizon=1)] * 9000
    actions = collect(tasks, "posterior-sampling", 1).action
    shares = np.bincount(actions, minlength=5) / len(actions)
    np.testing.assert_allclose(shares, np.array([3, 3, 1, 1, 1]) / 9, atol=0.02)


# Q-learning and A2C in other environments


class Knob(gym.Env):
    """Discrete to look at, continuous to turn."""

    observation_space = spaces.Discrete(3)
    action_space = spaces.Box(-1, 1)


class Offer(gym.Env):
    """One decision per episode: 1 and all is over, or 0.6 and only the time is up."""

    observation_space = spaces.Discrete(1)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        waits = bool(action == 1)
        return 0, 0.6 if waits else 1.0, not waits, waits, {}


@pytest.mark.parametrize("name", LEARNERS)
def test_what_follows_counts_when_an_episode_is_truncated_and_not_when_it_is_terminated(name: str) -> None:
    # To wait is worth 0.6 / (1 - 0.9) = 6. Were both bootstrapped, or neither, 1 would win over 0.6.
    envs = Recorder(SyncVectorEnv([Offer] * 8, autoreset_mode=AutoresetMode.DISABLED))
    load_source(name)(envs, 1000, 0)
    actions = envs.histories([Task("offer", {})] * 8, 1000).action.reshape(8, 1000)
    assert (actions[:, -100:] == 1).mean() > 0.9


@pytest.mark.parametrize("name", LEARNERS)
def test_continuous_actions_are_refused_by_name(name: str) -> None:
    envs = SyncVectorEnv([Knob] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match=r"needs a Discrete action space, got Box"):
        load_source(name)(envs, 1, 0)


@pytest.mark.parametrize(
    ("name", "env_id"), [("a2c", "CartPole-v1"), ("a2c", "FrozenLake-v1"), ("q-learning", "FrozenLake-v1")]
)
def test_environments_without_a_native_vector_version_are_learned_in_too(name: str, env_id: str) -> None:
    histories = collect([Task(env_id, {})] * 3, name, 5)
    assert histories.return_matrix().shape == (3, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_a_goal_that_ends_the_episode_is_reached_sooner_and_sooner(name: str) -> None:
    tasks = [goal_task(x, y, terminate_on_goal=True) for x in (2, 6) for y in (2, 6)] * 4
    lengths = np.diff(collect(tasks, name, 300).episode_offsets).reshape(len(tasks), 300)
    assert lengths[:, :10].mean() > 15
    assert lengths[:, -30:].mean() < 6  # 4 is the shortest way


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 5, 2], start=[1, 0, -1]),
        spaces.Box(-1, 1, (2, 3)),
    ],
    ids=repr,
)
def test_features_are_gymnasiums_flat_observations(space: spaces.Space) -> None:
    space.seed(0)
    samples = [space.sample() for _ in range(20)]
    expected = [spaces.flatten(space, sample) for sample in samples]
    np.testing.assert_array_equal(flatten(space, np.stack(samples)), expected)


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([3, 5, 2], start=[1, 0, -1]), spaces.Discrete(4, start=2)]
)
def test_states_tell_all_observations_apart(space: spaces.Space) -> None:
    space.seed(0)
    num_states, state_of = _discrete_states(space)
    samples = np.unique([space.sample() for _ in range(500)], axis=0)
    assert sorted(state_of(samples)) == list(range(num_states))


class Corridor(gym.Env):
    """Five places from 3 to 7, both ends of which pay; the left one ends the episode, as 9 steps do.

    With a clock it is also seen how many steps are left to the next hour, of 3 steps, less 1.
    """

    action_space = spaces.Discrete(3)  # left, stay, right

    def __init__(self, clock: bool) -> None:
        self.clock = clock
        seen = spaces.MultiDiscrete([5, 3], start=[3, -1]) if clock else spaces.Discrete(5, start=3)
        self.observation_space = seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.time = int(self.np_random.integers(4, 7)), 0
        return self.seen(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.place, self.time = min(self.place + int(action) - 1, 7), self.time + 1
        reward = {3: 1.0, 7: 0.25}.get(self.place, 0.0)
        return self.seen(), reward, self.place == 3, self.time == 9, {}

    def seen(self) -> Any:
        return np.array([self.place, -self.time % 3 - 1]) if self.clock else self.place


def learned_alone(
    env: Any,
    seed: int,
    num_episodes: int,
    chances: list[float],
    noises: list[list[float]],
    learning_rate: float = 0.5,
    discount: float = 0.9,
    epsilon_start: float = 1.0,
    epsilon_end: float = 0.02,
    exploration: float = 0.6,
    initial_value: float = 0.0,
    remember_rewards: int = 0,
) -> list[tuple]:
    """Every observation, action and reward of one Q-learner, written down as plainly as it can be."""
    table: dict[Any, list[float]] = {}
    happened: list[tuple] = []
    for episode in range(num_episodes):
        observation, _ = env.reset(seed=None if episode else seed)
        epsilon = epsilon_start + (epsilon_end - epsilon_start) * min(
            episode / (exploration * num_episodes), 1
        )
        over, num_paid = False, 0
        while not over:
            values = table.setdefault((str(observation), num_paid), [initial_value] * env.action_space.n)
            scale = 1e6 if chances[len(happened)] < epsilon else 1e-6
            noise = noises[len(happened)]
            tried = [value + noise[a] * scale for a, value in enumerate(values)]
            action = tried.index(max(tried))
            arrived, reward, terminated, truncated, _ = env.step(action)
            num_paid = min(num_paid + (reward != 0), remember_rewards)
            later = table.setdefault((str(arrived), num_paid), [initial_value] * env.action_space.n)
            target = reward + discount * (not terminated) * max(later)
            values[action] = float(np.float32(values[action] + learning_rate * (target - values[action])))
            happened.append((*np.ravel(observation), action, reward))
            observation, over = arrived, terminated or truncated
    return happened


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"remember_rewards": 1, "initial_value": 0.5, "epsilon_start": 0.2},
        {"remember_rewards": 3, "discount": 0.5, "learning_rate": 0.75, "exploration": 0.9},
    ],
    ids=["default", "one reward", "three rewards"],
)
@pytest.mark.parametrize("world", ["corridor", "corridor with a clock", "room that pays once"])
def test_q_learners_in_lockstep_do_step_for_step_what_each_would_do_alone(
    world: str, settings: dict[str, Any]
) -> None:
    K, num_episodes, seed = 4, 40, 3
    tasks = [goal_task(*goal, size=4, reward_once=True) for goal in ([0, 0], [3, 1], [2, 2], [1, 3])]
    makers: list[Callable[[], Any]] = [task.make for task in tasks]
    envs = make_vec(tasks)
    if "corridor" in world:
        makers = [partial(Corridor, "clock" in world)] * K
        envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    recorder = Recorder(envs)
    load_source("q-learning")(recorder, num_episodes, seed, **settings)
    histories = recorder.histories(tasks, num_episodes)
    columns = (histories.observation.reshape(len(histories.action), -1), histories.action, histories.reward)
    rng, num_actions = np.random.default_rng(seed), makers[0]().action_space.n
    draws = [
        (rng.random(K), rng.random((K, num_actions), dtype=np.float32)) for _ in range(20 * num_episodes)
    ]
    chances, noises = (np.stack(numbers, axis=1).tolist() for numbers in zip(*draws, strict=True))
    alone = [
        learned_alone(maker(), seed + row, num_episodes, chances[row], noises[row], **settings)
        for row, maker in enumerate(makers)
    ]
    np.testing.assert_array_equal(np.column_stack(columns), [step for steps in alone for step in steps])


def test_a_recorder_sees_what_the_source_does() -> None:
    # `collect` is nothing but this.
    tasks = TRAINING_TASKS[:4]
    envs = Recorder(make_vec(tasks))
    load_source("q-learning")(envs, 3, seed=5)
    assert_same(envs.histories(tasks, 3), collect(tasks, "q-learning", 3, seed=5))
