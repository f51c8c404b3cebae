"""Dark Key-to-Door: its rules, and its returns against exact computations.

The computations are the test's own: they know the rules from the paper and share no line with the
environment.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ad_hf.envs.dark_room import AGENT, CELL, DOWN, LEFT, NOOP, RIGHT, UP
from ad_hf.envs.key_to_door import (
    DOOR,
    KEY,
    DarkKeyToDoorEnv,
    DarkKeyToDoorVectorEnv,
    dark_key_to_door_family,
)
from ad_hf.tasks import TaskFamily, load_task_family, make_vec

CELLS = [(x, y) for x in range(9) for y in range(9)]
ALL_KEYS, ALL_DOORS = np.repeat(CELLS, 81, axis=0), np.tile(CELLS, (81, 1))  # the 6561 tasks


def room(**kwargs: Any) -> Any:
    """A single room with the key two steps to the right of the centre and the door one above, reset."""
    env = DarkKeyToDoorEnv(**{"key": (6, 4), "door": (4, 5), "start": "center", **kwargs})
    env.reset(seed=0)
    return env


def rooms(num_envs: int, **kwargs: Any) -> Any:
    """A vector of rooms that are reset by hand."""
    return DarkKeyToDoorVectorEnv(num_envs, autoreset_mode="Disabled", **kwargs)


def every_room(**kwargs: Any) -> Any:
    """All 6561 tasks of the 9x9 room in one vector."""
    return rooms(6561, key=ALL_KEYS, door=ALL_DOORS, **kwargs)


def walk(env: Any, *actions: int) -> list[float]:
    """The rewards of these actions."""
    return [env.step(action)[1] for action in actions]


# Returns against exact computation


def exact_random_return() -> float:
    """Expected return of uniformly random actions over all tasks and starts, by backward induction."""
    number = {cell: i for i, cell in enumerate(CELLS)}
    moves = [(-1, 0), (1, 0), (0, 1), (0, -1), (0, 0)]
    successor = np.array(
        [[number.get((x + dx, y + dy), number[x, y]) for dx, dy in moves] for x, y in CELLS]
    )  # (cells, actions): a step into a wall leaves one where one is
    arrives = successor == np.arange(81)[:, None, None]  # (goal, cells, actions)
    door = key = np.zeros((81, 81))  # (goal, cells): values with the key and before it
    for _ in range(50):
        # The value of having the key where it lay is the mean over all doors.
        after_key = 1 + door.mean(axis=0)[:, None, None]
        key = np.where(arrives, after_key, key[:, successor]).mean(axis=2)
        door = np.where(arrives, 1, door[:, successor]).mean(axis=2)
    return float(key.mean())


def test_the_random_return_is_that_of_the_reference_values() -> None:
    assert exact_random_return() == pytest.approx(0.2513, abs=5e-5)


def test_random_actions_earn_the_exact_mean() -> None:
    envs = every_room()
    rng = np.random.default_rng(0)
    returns = np.zeros((2, 6561))
    for episode in returns:
        envs.reset(seed=int(rng.integers(10_000)))
        episode += sum(envs.step(rng.integers(5, size=6561))[1] for _ in range(50))
    assert abs(returns.mean() - exact_random_return()) < 3 * returns.std() / returns.size**0.5


def shortest(start: Any, end: Any) -> np.ndarray:
    """Steps from cell to cell; who is there already has to spend one step to arrive."""
    return np.maximum(np.abs(np.subtract(end, start)).sum(axis=-1), 1)


@pytest.mark.parametrize("start", [(4, 4), (0, 8)])
@pytest.mark.parametrize("horizon", [9, 14, 40, 50])
@pytest.mark.parametrize("every_step", [False, True])
def test_optimal_actions_earn_the_optimum_of_every_task(start: Any, horizon: int, every_step: bool) -> None:
    envs = every_room(start=start, horizon=horizon, door_pays_every_step=every_step)
    envs.reset()
    returns = sum(envs.step(envs.optimal_actions())[1] for _ in range(horizon))
    at_key = shortest(start, ALL_KEYS)
    at_door = at_key + shortest(ALL_KEYS, ALL_DOORS)
    most = horizon if every_step else 1
    expected = (at_key <= horizon) * 1 + np.clip(horizon + 1 - at_door, 0, most)
    np.testing.assert_array_equal(returns, expected)


def test_the_optimum_is_2_in_every_task_from_wherever_an_episode_starts() -> None:
    envs = every_room()
    envs.reset(seed=0)
    assert (sum(envs.step(envs.optimal_actions())[1] for _ in range(50)) == 2).all()
    farthest = room(key=(0, 0), door=(8, 8), start=(8, 8))
    assert sum(farthest.step(farthest.optimal_action())[1] for _ in range(32)) == 2


def test_no_blind_walk_earns_more_than_one_that_meets_50_cells() -> None:
    # The key is in one of 81 cells, and the step that finds it leaves steps for at most as many doors.
    most = sum((1 + (50 - step) / 81) / 81 for step in range(1, 51))
    assert most == pytest.approx(0.804, abs=5e-4)
    back_and_forth = [UP, *[RIGHT] * 8, UP, *[LEFT] * 8] * 3  # from the corner: no cell twice in 50 steps
    envs = every_room(start=(0, 0))
    envs.reset()
    returns = sum(envs.step(np.full(6561, action))[1] for action in back_and_forth[:50])
    assert returns.mean() == pytest.approx(most, abs=1e-12)


# The rules


def test_the_key_pays_once_and_then_the_door_pays_once() -> None:
    env = room()
    assert walk(env, RIGHT, RIGHT, NOOP, LEFT, RIGHT) == [0, 1, 0, 0, 0]
    assert walk(env, UP, LEFT, LEFT, NOOP, RIGHT, LEFT) == [0, 0, 1, 0, 0, 0]


def test_without_the_key_the_door_pays_nothing() -> None:
    env = room()
    assert walk(env, UP, NOOP, DOWN, UP) == [0, 0, 0, 0]
    assert walk(env, RIGHT, RIGHT, DOWN, UP, LEFT, LEFT) == [0, 0, 1, 0, 0, 1]


def test_every_episode_begins_without_the_key() -> None:
    env = room()
    for _ in range(2):
        assert walk(env, UP, DOWN, RIGHT, RIGHT, UP, LEFT, LEFT) == [0, 0, 0, 1, 0, 0, 1]
        env.reset()


def test_the_door_can_pay_on_every_step_spent_there_with_the_key() -> None:
    env = room(door_pays_every_step=True)
    assert walk(env, UP, NOOP, DOWN, RIGHT, RIGHT) == [0, 0, 0, 0, 1]
    assert walk(env, UP, LEFT, LEFT, NOOP, RIGHT, LEFT) == [0, 0, 1, 1, 0, 1]


def test_a_key_and_a_door_in_one_cell_take_a_step_each() -> None:
    assert walk(room(key=(5, 4), door=(5, 4)), RIGHT, NOOP, NOOP) == [1, 1, 0]
    assert walk(room(key=(5, 4), door=(5, 4)), RIGHT, LEFT, RIGHT, LEFT, RIGHT) == [1, 0, 1, 0, 0]


def test_a_key_at_the_start_is_taken_by_a_step_that_stays_there() -> None:
    assert walk(room(key=(4, 4)), NOOP, UP) == [1, 1]
    assert walk(room(key=(4, 4)), UP, DOWN, UP) == [0, 1, 1]


def test_an_episode_lasts_50_steps_and_goes_on_behind_the_door() -> None:
    env = room(key=(4, 4))
    for _ in range(2):
        ends = [env.step(action)[2:4] for action in [NOOP, UP, *[NOOP] * 48]]
        assert ends == [(False, False)] * 49 + [(False, True)]
        env.reset()


def test_an_episode_ends_at_the_opened_door_where_it_should() -> None:
    env = room(key=(4, 4), terminate_at_door=True)
    ends = [env.step(action)[1:4] for action in (UP, DOWN, UP)]
    assert ends == [(0, False, False), (1, False, False), (1, True, False)]


def test_an_episode_can_end_by_door_and_horizon_at_once() -> None:
    env = room(key=(4, 4), terminate_at_door=True, horizon=2)
    assert [env.step(action)[1:4] for action in (NOOP, UP)] == [(1, False, False), (1, True, True)]


def test_an_episode_starts_anywhere_unless_it_is_told_where() -> None:
    per_cell = 100
    envs = rooms(81 * per_cell)
    positions, _ = envs.reset(seed=0)
    counts = np.bincount(positions @ [9, 1], minlength=81)
    chi_square = ((counts - per_cell) ** 2 / per_cell).sum()
    assert abs(chi_square - 80) < 3 * (2 * 80) ** 0.5  # 80 degrees of freedom: mean 80, variance 160
    again, _ = envs.reset()
    assert (again != positions).any(axis=1).mean() > 0.95
    assert room(start="center", size=5, key=None, door=None).reset()[0].tolist() == [2, 2]
    assert room(start=(8, 0)).reset()[0].tolist() == [8, 0]


def test_keys_and_doors_are_drawn_independently_and_uniformly() -> None:
    envs = rooms(40 * 81)
    envs.reset(seed=0)
    for places in (envs.keys, envs.doors):
        counts = np.bincount(places @ [9, 1], minlength=81)
        assert abs(((counts - 40) ** 2 / 40).sum() - 80) < 3 * (2 * 80) ** 0.5
    same = (envs.keys == envs.doors).all(axis=1).sum()
    assert abs(same - 40) < 3 * 40**0.5


def test_what_was_drawn_stays_until_a_seed_draws_again_and_what_was_given_stays() -> None:
    env = room(key=None, door=(1, 2))
    tasks = []
    for seed in (1, None, None, 2, None, 1):
        env.reset(seed=seed)
        tasks.append((*env.world.keys[0], *env.world.doors[0]))
    first, second = tasks[0], tasks[3]
    assert tasks == [first, first, first, second, second, first]
    assert first[:2] != second[:2]
    assert {task[2:] for task in tasks} == {(1, 2)}


def test_the_observation_is_the_position_and_shows_nothing_else() -> None:
    here, there = room(key=(5, 4), door=(5, 5)), room(key=(0, 0), door=(0, 1))
    assert here.observation_space == gym.spaces.MultiDiscrete([9, 9])
    path = [
        (env.step(action)[0].tolist(), env.step(NOOP)[0].tolist())
        for env in (here, there)
        for action in (RIGHT, UP)
    ]
    assert path[:2] == path[2:] == [([5, 4], [5, 4]), ([5, 5], [5, 5])]


def test_a_reset_mask_leaves_the_other_rooms_alone() -> None:
    envs = rooms(3, key=(5, 4), door=(6, 4), start="center", horizon=5)
    envs.reset()
    rewards = [envs.step(np.full(3, action))[1].tolist() for action in (RIGHT, RIGHT)]
    assert rewards == [[1, 1, 1], [1, 1, 1]]
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert envs.step(np.array([LEFT, RIGHT, NOOP]))[1].tolist() == [0, 1, 0]
    assert envs.step(np.array([RIGHT, RIGHT, NOOP]))[1].tolist() == [0, 1, 0]
    assert envs.step(np.full(3, NOOP))[3].tolist() == [True, False, True]


# What the environment knows about its task


def test_optimal_actions_walk_to_the_key_and_then_to_the_door_that_are_believed_in() -> None:
    believed = np.arange(6561)
    envs = every_room(start="center")
    assert envs.num_hypotheses == 6561
    envs.reset()
    for _ in range(32):  # believing the truth about the key and something else about the door
        observation = envs.step(envs.optimal_actions(believed // 81 * 81 + (believed + 1) % 81))[0]
    np.testing.assert_array_equal(observation, np.roll(ALL_DOORS, -1, axis=0))
    nowhere = rooms(6561, key=(0, 0), door=(0, 0), start=(8, 8))  # no way leads over the corner but to it
    nowhere.reset()
    for _ in range(16):
        observation = nowhere.step(nowhere.optimal_actions(believed))[0]
    np.testing.assert_array_equal(observation, ALL_KEYS)


@pytest.mark.parametrize("terminate_at_door", [False, True])
@pytest.mark.parametrize("door_pays_every_step", [False, True])
@pytest.mark.parametrize(("key", "door"), [((2, 1), (0, 2)), ((1, 0), (1, 0))])
def test_a_task_is_refuted_exactly_when_it_would_have_paid_otherwise(
    key: Any, door: Any, door_pays_every_step: bool, terminate_at_door: bool
) -> None:
    small = [(x, y) for x in range(3) for y in range(3)]
    tasks = {"key": np.repeat(small, 9, axis=0), "door": np.tile(small, (9, 1))}
    kwargs: dict[str, Any] = {"size": 3, "horizon": 12, "door_pays_every_step": door_pays_every_step}
    envs = rooms(1, key=key, door=door, terminate_at_door=terminate_at_door, **kwargs)
    worlds = rooms(81, **tasks, **kwargs)  # one for each thing that could be true, all starting alike
    envs.reset(seed=3)
    worlds.reset(seed=[3] * 81)
    rng = np.random.default_rng(0)
    possible, would_fit = np.ones((2, 81), dtype=bool)
    num_possible = []
    for _ in range(300):
        action = rng.integers(5)
        _, reward, terminated, truncated, _ = envs.step(np.array([action]))
        possible &= envs.consistent_hypotheses(reward)[0]
        would_fit &= worlds.step(np.full(81, action))[1] == reward
        np.testing.assert_array_equal(possible, would_fit)
        num_possible.append(possible.sum())
        if terminated[0] or truncated[0]:
            envs.reset(options={"reset_mask": np.array([True])})
            worlds.reset()
    np.testing.assert_array_equal(np.flatnonzero(possible), small.index(key) * 9 + small.index(door))
    assert len(set(num_possible)) > 5, "the task was found at once: the test has lost its point"


@pytest.mark.parametrize("kwargs", [{}, {"terminate_at_door": True}, {"door_pays_every_step": True}])
def test_the_truth_is_never_refuted(kwargs: dict[str, bool]) -> None:
    envs = rooms(200, **kwargs)
    envs.reset(seed=0)
    truth = (envs.keys @ [9, 1]) * 81 + envs.doors @ [9, 1]
    rng = np.random.default_rng(0)
    for _ in range(150):
        # Half at random, half on the way to the end, so that all parts of an episode are visited.
        actions = np.where(rng.random(200) < 0.5, rng.integers(5, size=200), envs.optimal_actions())
        _, reward, terminated, truncated, _ = envs.step(actions)
        assert envs.consistent_hypotheses(reward)[np.arange(200), truth].all()
        envs.reset(options={"reset_mask": terminated | truncated})


@pytest.mark.parametrize("door_pays_every_step", [False, True])
def test_nothing_is_left_of_an_episode_that_has_paid_twice(door_pays_every_step: bool) -> None:
    envs = rooms(200, door_pays_every_step=door_pays_every_step)
    envs.reset(seed=0)
    earned = np.zeros(200)
    for _ in range(3):
        for step in range(50):
            nothing_left = envs.nothing_left
            np.testing.assert_array_equal(nothing_left, (earned == 2) & (not door_pays_every_step))
            earned += envs.step(np.where(nothing_left, step % 5, envs.optimal_actions()))[1]
        assert (earned >= 2).all()
        envs.reset()
        earned[:] = 0


# Pictures


def colours(frame: np.ndarray, x: int, y: int) -> set[tuple[int, ...]]:
    """The colours in a cell; y grows upwards, rows of a picture downwards."""
    top = len(frame) - (y + 1) * CELL
    return set(map(tuple, frame[top : top + CELL, x * CELL : (x + 1) * CELL].reshape(-1, 3).tolist()))


def test_a_picture_shows_agent_key_and_door_where_they_are_and_no_key_once_it_is_taken() -> None:
    env = room(key=(5, 4), door=(1, 7), render_mode="rgb_array")
    assert env.render().shape == (9 * CELL, 9 * CELL, 3)
    shown = {KEY: (5, 4), DOOR: (1, 7), AGENT: (4, 4)}
    for colour, (x, y) in shown.items():
        found = {cell for cell in CELLS if colour in colours(env.render(), *cell)}
        assert found == {(x, y)}
    env.step(RIGHT)
    assert AGENT in colours(env.render(), 5, 4)
    assert KEY not in colours(env.render(), 5, 4)


def test_a_picture_shows_a_key_a_door_and_an_agent_in_one_cell() -> None:
    frame = room(key=(4, 4), door=(4, 4), render_mode="rgb_array").render()
    assert {KEY, DOOR, AGENT} <= colours(frame, 4, 4)


def test_text_shows_agent_key_and_door_where_they_are() -> None:
    env = room(size=3, key=(2, 1), door=(0, 2), start=(1, 0), render_mode="ansi")
    assert env.render() == "D . .\n. . K\n. @ ."
    walk(env, RIGHT)
    walk(env, UP)
    assert env.render() == "D . .\n. . @\n. . ."
    walk(env, UP, LEFT, LEFT)
    assert env.render() == "* . .\n. . .\n. . ."


# Refusals name the value, the limit and the way out


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"key": (9, 0)}, r"key is \(9, 0\).*\(x, y\).*0 to 8"),
        ({"door": (0, -1)}, r"door is \(0, -1\).*0 to 8"),
        ({"door": 5}, r"door is 5.*\(x, y\)"),
        ({"start": "corner"}, r"start is 'corner'.*'center', 'random' or \(x, y\)"),
        ({"size": 0}, r"size is 0.*at least 1"),
        ({"horizon": 0}, r"horizon is 0.*at least 1"),
        ({"terminate_at_door": [True, False, True]}, r"terminate_at_door is .*True or False"),
        ({"door_pays_every_step": 1}, r"door_pays_every_step is 1.*True or False"),
    ],
)
def test_impossible_rooms_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        room(**kwargs)
    with pytest.raises(ValueError, match=message):
        rooms(3, **kwargs)


def test_five_rooms_have_one_key_or_five() -> None:
    with pytest.raises(ValueError, match=r"key is \[\(1, 2\), \(3, 4\)\].*, or 5 of them"):
        rooms(5, key=[(1, 2), (3, 4)])


# The family of tasks


def pairs(family: TaskFamily, split: str) -> set[tuple[int, ...]]:
    return {(*task.params["key"], *task.params["door"]) for task in family[split]}


def test_a_family_of_shorter_episodes_that_end_at_the_door_has_other_tasks_of_the_same_places() -> None:
    family = dark_key_to_door_family(5, 3)
    others = dark_key_to_door_family(5, 3, horizon=40, terminate_at_door=True)
    assert pairs(others, "train") == pairs(family, "train")
    assert others["train"][0].id != family["train"][0].id
    envs: Any = make_vec(others["test"]).unwrapped
    assert (envs.horizon, envs.terminate_at_door) == (40, True)
    assert load_task_family(others.name, **others.options) == others
    assert family.options.keys() == {"num_train", "num_test", "fold", "seed"}
    with pytest.raises(ValueError, match="terminate_at_door is 'yes', but must be True or False"):
        dark_key_to_door_family(terminate_at_door="yes")  # type: ignore[arg-type]


def test_the_family_has_2000_tasks_to_train_on_and_256_others_to_test() -> None:
    family = dark_key_to_door_family()
    assert (len(family["train"]), len(family["test"])) == (2000, 256)
    assert len(pairs(family, "train") | pairs(family, "test")) == 2256


def test_all_that_is_not_held_out_can_be_trained_on() -> None:
    family = dark_key_to_door_family(num_train=6305)
    assert len(pairs(family, "train") | pairs(family, "test")) == 81**2


def test_fewer_training_tasks_are_part_of_more_and_leave_the_test_tasks_alone() -> None:
    few, many = dark_key_to_door_family(num_train=9, seed=4), dark_key_to_door_family(num_train=300, seed=4)
    assert pairs(few, "train") < pairs(many, "train")
    assert pairs(few, "test") == pairs(many, "test")
    assert pairs(few, "test") != pairs(dark_key_to_door_family(seed=5), "test")


def test_five_folds_test_every_task_exactly_once() -> None:
    folds = [dark_key_to_door_family(fold=fold) for fold in range(5)]
    tested = [pair for fold in folds for pair in pairs(fold, "test")]
    assert len(tested) == len(set(tested)) == 81**2
    assert all(len(fold["train"]) == 2000 for fold in folds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 6306}, "num_train is 6306, but must be 1 to 6305"),
        ({"num_train": 5249, "fold": 0}, "num_train is 5249, but must be 1 to 5248"),
        ({"num_train": 0}, "num_train is 0, but must be 1 to 6305"),
        ({"num_test": 6561}, "num_test is 6561, but must be 1 to 6560"),
    ],
)
def test_more_tasks_than_there_are_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dark_key_to_door_family(**options)


@pytest.mark.parametrize(
    "options", [{}, {"num_train": 3, "num_test": 5, "seed": 2}, {"fold": 4, "num_train": 7}]
)
def test_the_family_remembers_the_options_that_make_it_again(options: dict[str, int]) -> None:
    family = dark_key_to_door_family(**options)
    assert dark_key_to_door_family(**family.options) == family
    assert family.options.keys() == {"num_train", "num_test", "fold", "seed"}
