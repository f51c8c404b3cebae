"""Every task family with every source: what fits learns, what does not says so, histories can be replayed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from ad_hf.evaluation import source_returns
from ad_hf.histories import Histories, collect, observations
from ad_hf.sources import SOURCES
from ad_hf.tasks import TASK_FAMILIES, Task, load_task_family

FAMILIES = sorted(TASK_FAMILIES)
BANDITS = {name for name in FAMILIES if "bandit" in name}

# Families on which a source cannot learn; it has to say what it needs.
MISFITS = {
    "ucb": set(FAMILIES) - BANDITS,
    "thompson": set(FAMILIES) - BANDITS,
    "epsilon-greedy": set(FAMILIES) - BANDITS,
    "posterior-sampling": BANDITS,
    "q-learning": {"watermaze"},
}
FITTING = [
    (family, source)
    for family in FAMILIES
    for source in sorted(SOURCES)
    if family not in MISFITS.get(source, ())
]


load_task_family = functools.cache(load_task_family)


def some_tasks(family: str, number: int) -> list[Task]:
    tasks = load_task_family(family)["train"]
    return [tasks[i] for i in np.random.default_rng(5).integers(len(tasks), size=number)]


def test_only_known_sources_and_families_are_said_not_to_fit() -> None:
    assert MISFITS.keys() <= SOURCES.keys()
    assert set().union(*MISFITS.values()) <= set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "source"), [(family, source) for source in MISFITS for family in sorted(MISFITS[source])]
)
def test_a_source_says_what_it_needs_where_it_does_not_fit(family: str, source: str) -> None:
    with pytest.raises(ValueError, match="needs"):
        collect(some_tasks(family, 2), source, 1)


def replay_mismatches(histories: Histories, seed: int) -> int:
    """Steps on which fresh single environments, given the recorded actions, differ from what was recorded."""
    mismatches = 0
    for row, task in enumerate(histories.tasks):
        env = task.make()
        seen, _ = env.reset(seed=seed + row)
        for episode in range(*histories.history_offsets[[row, row + 1]]):
            steps = np.arange(*histories.episode_offsets[[episode, episode + 1]])
            recorded = observations(histories, steps)
            ended = False
            for step, observation in zip(steps, recorded, strict=True):
                mismatches += ended or not np.array_equal(seen, observation)
                seen, reward, terminated, truncated, _ = env.step(int(histories.action[step]))
                mismatches += reward != histories.reward[step]
                ended = terminated or truncated
            expected = histories.terminated[episode], histories.truncated[episode]
            mismatches += not ended or (terminated, truncated) != expected
            seen, _ = env.reset()
    return mismatches


@pytest.mark.parametrize(("family", "source"), FITTING)
def test_recorded_histories_replay_in_a_fresh_environment(family: str, source: str) -> None:
    histories = collect(some_tasks(family, 3), source, 3, seed=11)
    assert replay_mismatches(histories, seed=11) == 0


def test_a_history_of_other_actions_does_not_replay() -> None:
    histories = collect(some_tasks("dark-room", 3), "a2c", 3, seed=11)
    histories.action[:] = (histories.action + 1) % 5
    assert replay_mismatches(histories, seed=11) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_who_knows_the_task_beats_who_acts_at_random(family: str) -> None:
    tasks = some_tasks(family, 100 if family != "watermaze" else 20)
    knows, guesses = (
        source_returns("noise", tasks, 5, 1, 0, {"epsilon_start": noise, "epsilon_end": noise})
        for noise in (0.0, 1.0)
    )
    assert knows.mean() > 2 * guesses.mean()


# Settings and episodes with which a source has to climb where its defaults do not suffice.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("dark-key-to-door", "q-learning"): {"remember_rewards": 2, "initial_value": 0.1},
    ("dark-room-hard", "q-learning"): {"remember_rewards": 1, "initial_value": 1.0, "learning_rate": 0.9},
}
NUM_EPISODES = {("dark-room-hard", source): 300 for source in ("a2c", "dqn", "q-learning")}
NUM_EPISODES["watermaze", "a2c"] = 200


@pytest.mark.slow
@pytest.mark.parametrize(("family", "source"), FITTING)
def test_returns_go_up_over_every_sources_history(family: str, source: str) -> None:
    number = 48 if source in ("a2c", "dqn") else 32 if family not in BANDITS else 128
    tasks = some_tasks(family, number)
    episodes = NUM_EPISODES.get((family, source), 100)
    returns = collect(tasks, source, episodes, 0, SETTINGS.get((family, source))).return_matrix()
    fifth = episodes // 5
    first, last = returns[:, :fifth].mean(axis=1), returns[:, -fifth:].mean(axis=1)
    gain = last - first
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
