"""Posterior sampling against a simulation of its own, in both environments and with both settings.

The simulation knows the rules of the rooms and of the source, and shares no line with either.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.histories import collect
from ad_hf.sources.posterior_sampling import _pick, posterior_sampling
from ad_hf.tasks import Task

Cell = tuple[int, int]
MODES = ["episode", "refuted"]


def goal_task(x: int, y: int, **params: Any) -> Task:
    return Task("ad_hf/DarkRoom-v0", {"goal": [x, y], **params})


def every_goal(size: int = 9) -> list[Task]:
    env_id = "ad_hf/DarkRoom-v0" if size == 9 else "ad_hf/DarkRoomHard-v0"
    return [Task(env_id, {"goal": [x, y]}) for x in range(size) for y in range(size)]


def keys_and_doors(number: int) -> list[Task]:
    """Tasks of Dark Key-to-Door, drawn from all."""
    places = np.random.default_rng(0).integers(9, size=(number, 2, 2)).tolist()
    return [Task("ad_hf/DarkKeyToDoor-v0", {"key": key, "door": door}) for key, door in places]


def returns_of(tasks: Sequence[Task], num_episodes: int, resample: str) -> np.ndarray:
    settings = {"resample": resample}
    return collect(tasks, "posterior-sampling", num_episodes, settings=settings).return_matrix()


def simulate(
    rng: random.Random, targets: Sequence[Cell], horizon: int, num_episodes: int, resample: str
) -> list[float]:
    """Returns of one explorer that has to visit `targets` in this order: a goal, or a key and a door.

    A goal alone pays on every step and is sought from the centre, others once and from anywhere.
    """
    possible = [[(x, y) for x in range(9) for y in range(9)] for _ in targets]
    believed = [rng.choice(cells) for cells in possible]
    returns = []
    for _ in range(num_episodes):
        x, y = (4, 4) if len(targets) == 1 else (rng.randrange(9), rng.randrange(9))
        earned = visited = 0
        for step in range(horizon):
            goal = believed[min(visited, len(targets) - 1)]
            right, up = goal[0] - x, goal[1] - y
            if abs(right) >= abs(up):
                x += (right > 0) - (right < 0)
            else:
                y += (up > 0) - (up < 0)
            paid = visited < len(targets) and (x, y) == targets[visited]
            if paid:
                possible[visited] = [(x, y)]
                visited += 1
            elif visited < len(targets) and (x, y) in possible[visited]:
                possible[visited].remove((x, y))
            earned += paid or (len(targets) == 1 and visited == 1 and (x, y) == targets[0])
            refuted = any(cell not in cells for cell, cells in zip(believed, possible, strict=True))
            if refuted if resample == "refuted" else (paid or step == horizon - 1):
                believed = [rng.choice(cells) for cells in possible]
        returns.append(earned)
    return returns


@pytest.mark.parametrize("resample", MODES)
@pytest.mark.parametrize(("env", "num_episodes"), [("room", 10), ("key and door", 6)])
def test_every_episode_earns_what_an_independent_simulation_does(
    env: str, num_episodes: int, resample: str
) -> None:
    tasks = every_goal() * 8 if env == "room" else keys_and_doors(400)
    ours = returns_of(tasks, num_episodes, resample)
    rng = random.Random(0)
    targets = [[tuple(place) for place in task.params.values()] for task in tasks]
    horizon = 20 if env == "room" else 50
    theirs = np.array([simulate(rng, cells, horizon, num_episodes, resample) for cells in targets])
    deviation = ours.mean(axis=0) - theirs.mean(axis=0)
    standard_error = ((ours.var(axis=0) + theirs.var(axis=0)) / len(tasks)) ** 0.5
    assert (np.abs(deviation) < 3 * np.maximum(standard_error, 1e-9)).all(), deviation / standard_error


def test_key_and_door_are_found_as_fast_as_the_reference_values_say() -> None:
    # Those values are of walks that turn at random: ours, the longer way first, meet a little less.
    returns = returns_of(keys_and_doors(800), 7, "refuted").mean(axis=0)
    np.testing.assert_allclose(returns[:6], [0.60, 1.11, 1.52, 1.79, 1.91, 1.97], atol=0.06)
    assert returns[0] < (50 + 1225 / 81) / 81  # no blind walk earns more in a first episode
    assert returns[6] > 1.95


def test_no_step_is_spent_on_what_is_refuted() -> None:
    # To stay where nothing pays is right but once, to believe in the centre.
    for resample, most in (("refuted", 1), ("episode", 1000)):
        histories = collect(every_goal(), "posterior-sampling", 60, settings={"resample": resample})
        unpaid = (histories.action == 4) & (histories.reward == 0)
        stays = np.add.reduceat(unpaid, np.arange(0, len(unpaid), 60 * 20))
        assert (stays <= most).all()
    assert stays.mean() > 50


def test_the_goals_of_both_rooms_are_found_sooner_without_refuted_beliefs() -> None:
    for size, num_episodes in ((9, 20), (17, 70)):
        patient, keen = (returns_of(every_goal(size), num_episodes, mode) for mode in MODES)
        assert (keen[:, -1] > 0).all()
        assert not (patient[:, -1] > 0).all()
        assert keen[:, :20].mean() > 1.2 * patient[:, :20].mean()


@pytest.mark.parametrize("resample", MODES)
def test_key_and_door_are_never_lost_once_both_are_found(resample: str) -> None:
    # Had it refuted the truth, it would not come back to both in every later episode.
    same_cell = [Task("ad_hf/DarkKeyToDoor-v0", {"key": [x, 3], "door": [x, 3]}) for x in range(9)]
    returns = returns_of(keys_and_doors(91) + same_cell, 40, resample)
    found = np.maximum.accumulate(returns == 2, axis=1)
    assert (returns[found] == 2).all()
    assert found[:, -1].mean() > {"episode": 0.7, "refuted": 0.99}[resample]


@pytest.mark.parametrize("resample", MODES)
def test_an_explorer_does_not_notice_its_neighbours(resample: str) -> None:
    # The row in the middle meets rewards at once in the first run and late in the second.
    runs = [
        collect(
            [goal_task(5, 4), neighbour, goal_task(4, 3)], "posterior-sampling", 40, 0, {"resample": resample}
        )
        for neighbour in (goal_task(4, 4), goal_task(0, 8))
    ]
    first, second = (histories.action.reshape(3, 40 * 20) for histories in runs)
    assert (first == second).all(axis=1).tolist() == [True, False, True]


def test_every_possible_hypothesis_is_picked_alike_and_no_other() -> None:
    possible = np.random.default_rng(0).random((6, 30)) < np.array([[0.03, 0.1, 0.3, 0.5, 0.9, 1.0]]).T
    possible[0, 17] = True
    luck = np.linspace(0, 1, 9000, endpoint=False)
    for row in possible:
        counts = np.bincount(_pick(np.tile(row, (9000, 1)), luck), minlength=30)
        np.testing.assert_allclose(counts, row * 9000 / row.sum(), atol=1)
    picked = _pick(possible, np.full(6, 1 - 2**-53))
    assert picked.tolist() == [int(np.flatnonzero(row)[-1]) for row in possible]


@pytest.mark.parametrize("resample", MODES)
@pytest.mark.parametrize(
    ("tasks", "most"), [(keys_and_doors(90), 2), (every_goal(17), 1)], ids=["key and door", "hard room"]
)
def test_an_explorer_wanders_when_nothing_is_left_and_learns_nothing_from_it(
    tasks: Sequence[Task], most: int, resample: str
) -> None:
    stays, wanders = (
        collect(tasks, "posterior-sampling", 30, settings={"resample": resample, "afterwards": afterwards})
        for afterwards in ("stay", "wander")
    )
    np.testing.assert_array_equal(stays.reward, wanders.reward)
    rewards = stays.reward.reshape(len(tasks) * 30, -1)
    earned_all = (rewards.cumsum(axis=1) - rewards == most).ravel()
    np.testing.assert_array_equal(stays.action[~earned_all], wanders.action[~earned_all])
    shares = np.bincount(wanders.action[earned_all], minlength=5) / earned_all.sum()
    np.testing.assert_allclose(shares, 0.2, atol=4 * (0.16 / earned_all.sum()) ** 0.5)
    assert earned_all.sum() > 5000


@pytest.mark.parametrize(
    "task", [goal_task(6, 6), Task("ad_hf/Watermaze-v0", {"platform": [300.0, 300.0]})], ids=["room", "pool"]
)
def test_an_explorer_that_can_always_be_paid_never_wanders(task: Task) -> None:
    stays, wanders = (
        collect([task] * 4, "posterior-sampling", 20, settings={"afterwards": afterwards}).action
        for afterwards in ("stay", "wander")
    )
    np.testing.assert_array_equal(stays, wanders)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": "step"}, "resample is 'step', but must be 'episode' or 'refuted'"),
        ({"afterwards": True}, "afterwards is True, but must be 'stay' or 'wander'"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(every_goal(), "posterior-sampling", 1, settings=settings)


def test_wandering_needs_an_environment_that_says_when_nothing_is_left() -> None:
    envs: Any = SimpleNamespace(unwrapped=SimpleNamespace(consistent_hypotheses=None))
    with pytest.raises(ValueError, match="needs an environment with nothing_left, and "):
        posterior_sampling(envs, 1, 0, afterwards="wander")
