"""Dark Room: its rules, and its returns against an exact computation.

The computation is the test's own: `exact_return` knows the rules from the paper and shares no line with the
environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.envs.dark_room import AGENT, CELL, DOWN, GOAL, LEFT, NOOP, RIGHT, UP, move

# Size and payment of the two rooms as the paper has them (Laskin et al. 2022, section 4.1).
ROOMS = [
    pytest.param("ad_hf/DarkRoom-v0", 9, False, id="DarkRoom"),
    pytest.param("ad_hf/DarkRoomHard-v0", 17, True, id="DarkRoomHard"),
]
HORIZON = 20


def room(**kwargs: Any) -> Any:
    """A single Dark Room without wrappers, reset."""
    env = gym.make("ad_hf/DarkRoom-v0", **kwargs).unwrapped
    env.reset(seed=0)
    return env


def rooms(num_envs: int, **kwargs: Any) -> Any:
    """A vector of Dark Rooms that are reset by hand."""
    return gym.make_vec("ad_hf/DarkRoom-v0", num_envs=num_envs, autoreset_mode="Disabled", **kwargs).unwrapped


def all_goals(size: int) -> list[tuple[int, int]]:
    return [(x, y) for x in range(size) for y in range(size)]


def walk(env: Any, *actions: int) -> list[float]:
    """The rewards of these actions."""
    return [env.step(action)[1] for action in actions]


# Returns against exact computation


def exact_return(
    goal: tuple[int, int], size: int, once: bool, over_actions: Callable[..., np.ndarray]
) -> float:
    """Expected return from the centre by backward induction.

    Args:
        goal: (x, y).
        size: cells along each side.
        once: whether the goal pays once per episode.
        over_actions: `np.max` for the optimal policy, `np.mean` for the uniformly random one.
    """
    number = {cell: i for i, cell in enumerate(all_goals(size))}
    successor = np.array(
        [
            [
                number.get((x + dx, y + dy), number[x, y])
                for dx, dy in [(-1, 0), (1, 0), (0, 1), (0, -1), (0, 0)]
            ]
            for x, y in number
        ]
    )  # (cells, actions): a step into a wall leaves one where one is
    arrives = successor == number[goal]
    before = after = np.zeros(len(number))  # values while the goal has not paid yet, and once it has
    for _ in range(HORIZON):
        before, after = (
            over_actions(arrives + np.where(arrives, after[successor], before[successor]), axis=1),
            over_actions((not once) * arrives + after[successor], axis=1),
        )
    return float(before[number[size // 2, size // 2]])


def exact_returns(size: int, once: bool, over_actions: Callable[..., np.ndarray]) -> np.ndarray:
    return np.array([exact_return(goal, size, once, over_actions) for goal in all_goals(size)])


def optimal_returns(env_id: str, size: int) -> np.ndarray:
    """Per goal, what `optimal_action` earns in a single environment."""
    returns = []
    for goal in all_goals(size):
        env: Any = gym.make(env_id, goal=goal).unwrapped
        env.reset()
        returns.append(sum(env.step(env.optimal_action())[1] for _ in range(HORIZON)))
    return np.array(returns)


@pytest.mark.parametrize(("env_id", "size", "once"), ROOMS)
def test_optimal_action_earns_the_optimum_of_every_goal(env_id: str, size: int, once: bool) -> None:
    np.testing.assert_array_equal(optimal_returns(env_id, size), exact_returns(size, once, np.max))


@pytest.mark.parametrize(("env_id", "size", "once"), ROOMS)
def test_optimal_actions_earn_the_optimum_of_every_goal(env_id: str, size: int, once: bool) -> None:
    envs: Any = gym.make_vec(env_id, num_envs=size**2, goal=all_goals(size)).unwrapped
    envs.reset()
    returns = sum(envs.step(envs.optimal_actions())[1] for _ in range(HORIZON))
    np.testing.assert_array_equal(returns, exact_returns(size, once, np.max))


def test_the_optimum_of_dark_room_is_that_of_the_reference_values() -> None:
    optimum = exact_returns(9, False, np.max)
    assert optimum.mean() == pytest.approx(16.543, abs=5e-4)
    assert (optimum.min(), optimum.max()) == (13, 20)
    assert (exact_returns(17, True, np.max) == 1).all()


def test_random_returns_of_both_rooms_are_those_of_the_reference_values() -> None:
    # At each of the 20 steps the agent stands on exactly one of the 81 cells, so over all goals it earns 20.
    assert exact_returns(9, False, np.mean).mean() == pytest.approx(20 / 81, abs=1e-12)
    assert exact_returns(17, True, np.mean).mean() == pytest.approx(0.0373, abs=5e-5)


@pytest.mark.parametrize(("env_id", "size", "once"), ROOMS)
def test_random_actions_earn_the_exact_mean(env_id: str, size: int, once: bool) -> None:
    goals = np.repeat(all_goals(size), 12_000 // size**2, axis=0)
    envs = gym.make_vec(env_id, num_envs=len(goals), goal=goals)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    returns = np.sum([envs.step(rng.integers(5, size=len(goals)))[1] for _ in range(HORIZON)], axis=0)
    standard_error = returns.std() / len(returns) ** 0.5
    assert abs(returns.mean() - exact_returns(size, once, np.mean).mean()) < 3 * standard_error


@pytest.mark.parametrize(("env_id", "size", "once"), ROOMS)
def test_the_environments_moves_make_the_exact_random_returns(env_id: str, size: int, once: bool) -> None:
    # Forward through `move` here, backward through our own rules above.
    cells = np.array(all_goals(size))
    x, y = np.stack([move(cells, np.full(len(cells), action), size) for action in range(5)]).transpose(
        2, 0, 1
    )
    chances = np.zeros((size**2, size**2))  # (goals, cells)
    chances[:, size**2 // 2] = 1
    returns = np.zeros(size**2)
    for _ in range(HORIZON):
        following = np.zeros_like(chances)
        for successor in x * size + y:
            np.add.at(following.T, successor, chances.T / 5)
        on_goal = np.diagonal(following)
        returns += on_goal
        chances = following * (1 - np.eye(size**2)) if once else following
    np.testing.assert_allclose(returns, exact_returns(size, once, np.mean), atol=1e-12)


# The rules of Dark Room


@pytest.mark.parametrize(
    ("corner", "action"), [((0, 0), LEFT), ((0, 0), DOWN), ((8, 8), RIGHT), ((8, 8), UP), ((3, 5), NOOP)]
)
def test_walls_stop_and_so_does_a_no_op(corner: tuple[int, int], action: int) -> None:
    assert room(start=corner).step(action)[0].tolist() == list(corner)


@pytest.mark.parametrize(("action", "end"), [(LEFT, [0, 4]), (RIGHT, [8, 4]), (UP, [4, 8]), (DOWN, [4, 0])])
def test_walls_do_not_wrap(action: int, end: list[int]) -> None:
    env = room()
    walk(env, *[action] * 12)
    assert env.step(action)[0].tolist() == end


def test_x_grows_to_the_right_and_y_upwards() -> None:
    env = room()
    path = [env.step(action)[0].tolist() for action in (RIGHT, UP, UP, LEFT, DOWN)]
    assert path == [[5, 4], [5, 5], [5, 6], [4, 6], [4, 5]]


def test_the_goal_pays_on_every_step_spent_there() -> None:
    env = room(goal=(5, 4))
    assert walk(env, NOOP, RIGHT, NOOP, RIGHT, LEFT) == [0, 1, 1, 0, 1]


def test_the_goal_pays_once_an_episode_where_it_does() -> None:
    env = room(goal=(5, 4), reward_once=True)
    assert walk(env, NOOP, RIGHT, NOOP, RIGHT, LEFT) == [0, 1, 0, 0, 0]
    env.reset()
    assert walk(env, RIGHT, NOOP) == [1, 0]


def test_standing_on_the_goal_from_the_start_pays_from_the_first_step_on() -> None:
    assert walk(room(goal=(4, 4)), NOOP, NOOP) == [1, 1]


def test_dark_room_hard_is_a_room_of_17_cells_that_pays_once() -> None:
    env: Any = gym.make("ad_hf/DarkRoomHard-v0", goal=(9, 8)).unwrapped
    assert env.observation_space == gym.spaces.MultiDiscrete([17, 17])
    assert env.reset()[0].tolist() == [8, 8]
    assert walk(env, RIGHT, NOOP, LEFT, RIGHT) == [1, 0, 0, 0]


@pytest.mark.parametrize("horizon", [1, 3, 20])
def test_an_episode_is_truncated_at_its_horizon_and_not_before(horizon: int) -> None:
    env = room(goal=(4, 4), horizon=horizon)
    for _ in range(2):
        ends = [env.step(NOOP)[2:4] for _ in range(horizon)]
        assert ends == [(False, False)] * (horizon - 1) + [(False, True)]
        env.reset()


def test_an_episode_ends_at_the_goal_where_it_should() -> None:
    env = room(goal=(5, 4), terminate_on_goal=True)
    assert env.step(NOOP)[1:4] == (0, False, False)
    assert env.step(RIGHT)[1:4] == (1, True, False)


def test_an_episode_can_end_by_goal_and_horizon_at_once() -> None:
    assert room(goal=(5, 4), terminate_on_goal=True, horizon=1).step(RIGHT)[1:4] == (1, True, True)


@pytest.mark.parametrize(
    ("kwargs", "start"),
    [({}, [4, 4]), ({"size": 4}, [2, 2]), ({"size": 1}, [0, 0]), ({"start": (8, 0)}, [8, 0])],
)
def test_an_episode_starts_at_the_centre_or_where_it_is_told(
    kwargs: dict[str, Any], start: list[int]
) -> None:
    env = room(**kwargs)
    for _ in range(2):
        env.step(RIGHT)
        assert env.reset()[0].tolist() == start


def test_a_random_start_is_uniform_over_the_room() -> None:
    per_cell = 100
    positions, _ = rooms(81 * per_cell, start="random").reset(seed=0)
    counts = np.bincount(positions @ [9, 1], minlength=81)
    chi_square = ((counts - per_cell) ** 2 / per_cell).sum()
    assert abs(chi_square - 80) < 3 * (2 * 80) ** 0.5  # 80 degrees of freedom: mean 80, variance 160


def test_a_random_start_is_drawn_for_every_episode() -> None:
    env = room(start="random")
    starts = {tuple(env.reset()[0]) for _ in range(20)}
    assert len(starts) > 10


def test_a_drawn_goal_stays_until_a_seed_draws_another() -> None:
    env = room(goal=None)
    goals = []
    for seed in (1, None, None, 2, None, 1):
        env.reset(seed=seed)
        goals.append(tuple(env.world.goals[0]))
    first, second = goals[0], goals[3]
    assert goals == [first, first, first, second, second, first]
    assert first != second


def test_drawn_goals_cover_the_room() -> None:
    envs = rooms(1000)
    envs.reset(seed=0)
    assert len(np.unique(envs.goals, axis=0)) == 81


def test_a_given_goal_is_not_drawn_again_by_a_seed() -> None:
    env = room(goal=(1, 2))
    env.reset(seed=5)
    assert env.world.goals[0].tolist() == [1, 2]


def test_a_row_reset_for_the_first_time_draws_its_goal() -> None:
    envs, first, second = rooms(2), room(), room()
    envs.reset(seed=[3, 4], options={"reset_mask": np.array([True, False])})
    first.reset(seed=3)
    assert envs.goals[0].tolist() == first.world.goals[0].tolist()
    envs.reset(options={"reset_mask": np.array([False, True])})
    assert envs.goals[0].tolist() == first.world.goals[0].tolist()
    assert second.observation_space.contains(envs.goals[1])


def test_a_reset_mask_leaves_the_other_rooms_alone() -> None:
    envs = rooms(3, goal=(6, 4), horizon=4, reward_once=True)
    envs.reset()
    envs.step(np.full(3, RIGHT))
    envs.step(np.full(3, RIGHT))  # all on the goal, paid
    observation, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert observation.tolist() == [[6, 4], [4, 4], [6, 4]]
    observation, reward, _, truncated, _ = envs.step(np.array([NOOP, RIGHT, NOOP]))
    assert observation.tolist() == [[6, 4], [5, 4], [6, 4]]
    assert reward.tolist() == [0, 0, 0]
    assert not truncated.any()
    _, reward, _, truncated, _ = envs.step(np.full(3, RIGHT))
    assert reward.tolist() == [0, 1, 0]
    assert truncated.tolist() == [True, False, True]


# What the environment knows about its task


def test_optimal_actions_walk_to_the_goal_that_is_believed_in() -> None:
    envs = rooms(81, goal=(0, 0))
    envs.reset()
    for _ in range(HORIZON):
        observation = envs.step(envs.optimal_actions(np.arange(envs.num_hypotheses)))[0]
    np.testing.assert_array_equal(observation, all_goals(9))


@pytest.mark.parametrize("reward_once", [False, True])
@pytest.mark.parametrize("terminate_on_goal", [False, True])
def test_a_goal_is_refuted_exactly_when_it_would_have_paid_otherwise(
    reward_once: bool, terminate_on_goal: bool
) -> None:
    size, goal, seed = 4, (3, 1), 1
    kwargs: dict[str, Any] = {"size": size, "reward_once": reward_once, "start": "random", "horizon": 10}
    envs = rooms(1, goal=goal, terminate_on_goal=terminate_on_goal, **kwargs)
    worlds = [
        room(goal=other, **kwargs) for other in all_goals(size)
    ]  # one for each thing that could be true
    envs.reset(seed=seed)
    for world in worlds:
        world.reset(seed=seed)
    rng = np.random.default_rng(0)
    possible = np.ones(size**2, dtype=bool)
    would_fit = np.ones(size**2, dtype=bool)
    num_possible = []
    for _ in range(100):
        action = rng.integers(5)
        _, reward, terminated, truncated, _ = envs.step(np.array([action]))
        possible &= envs.consistent_hypotheses(reward)[0]
        would_fit &= np.array([world.step(action)[1] for world in worlds]) == reward[0]
        np.testing.assert_array_equal(possible, would_fit)
        num_possible.append(possible.sum())
        if terminated[0] or truncated[0]:
            envs.reset(options={"reset_mask": np.array([True])})
            for world in worlds:
                world.reset()
    assert possible.tolist() == [cell == goal for cell in all_goals(size)]
    assert len(set(num_possible)) > 3, "the goal was found at once: the test has lost its point"


@pytest.mark.parametrize("reward_once", [False, True])
def test_nothing_is_left_of_an_episode_whose_one_reward_is_paid(reward_once: bool) -> None:
    envs = rooms(81, goal=all_goals(9), reward_once=reward_once)
    envs.reset()
    paid = np.zeros(81, dtype=bool)
    for _ in range(2):
        for step in range(HORIZON):
            nothing_left = envs.nothing_left
            np.testing.assert_array_equal(nothing_left, paid & reward_once)
            paid |= envs.step(np.where(nothing_left, step % 5, envs.optimal_actions()))[1] > 0
        assert paid.all()
        envs.reset()
        paid[:] = False


# Pictures


def cell_of(frame: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The pixels of a cell, (CELL * CELL, 3); y grows upwards, rows of a picture downwards."""
    size = len(frame) // CELL
    top, left = (size - 1 - cell[1]) * CELL, cell[0] * CELL
    return frame[top : top + CELL, left : left + CELL].reshape(-1, 3)


def shows(frame: np.ndarray, colour: tuple[int, int, int]) -> set[tuple[int, int]]:
    """The cells that contain pixels of this colour."""
    return {
        cell for cell in all_goals(len(frame) // CELL) if (cell_of(frame, cell) == colour).all(axis=1).any()
    }


@pytest.mark.parametrize("size", [9, 17])
def test_a_picture_shows_agent_and_goal_where_they_are(size: int) -> None:
    env = room(size=size, goal=(1, 6), start=(2, 3), render_mode="rgb_array")
    assert env.render().shape == (size * CELL, size * CELL, 3)
    assert env.render().dtype == np.uint8
    assert shows(env.render(), AGENT) == {(2, 3)}
    assert shows(env.render(), GOAL) == {(1, 6)}
    env.step(UP)
    assert shows(env.render(), AGENT) == {(2, 4)}


def test_a_picture_shows_the_agent_on_the_goal() -> None:
    frame = room(goal=(4, 4), render_mode="rgb_array").render()
    assert shows(frame, AGENT) == shows(frame, GOAL) == {(4, 4)}


def test_text_shows_agent_and_goal_where_they_are() -> None:
    env = room(size=3, goal=(2, 2), start=(0, 1), render_mode="ansi")
    assert env.render() == ". . G\n@ . .\n. . ."
    walk(env, RIGHT, RIGHT, UP)
    assert env.render() == ". . *\n. . .\n. . ."


def test_no_render_mode_is_no_picture() -> None:
    assert room().render() is None
    assert rooms(2).render() is None


def test_a_vector_environment_draws_what_its_rooms_draw() -> None:
    goals = [(0, 0), (4, 4), (8, 1)]
    envs = rooms(3, goal=goals, render_mode="rgb_array")
    envs.reset()
    envs.step(np.array([UP, NOOP, LEFT]))
    frames = envs.render()
    assert len(frames) == 3
    for frame, goal, action in zip(frames, goals, (UP, NOOP, LEFT), strict=True):
        env = room(goal=goal, render_mode="rgb_array")
        env.step(action)
        np.testing.assert_array_equal(frame, env.render())


# Refusals name the value, the limit and the way out


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"goal": (9, 0)}, r"goal is \(9, 0\).*\(x, y\).*0 to 8"),
        ({"goal": (0, -1)}, r"goal is \(0, -1\).*0 to 8"),
        ({"goal": (4, 4), "size": 3}, r"goal is \(4, 4\).*0 to 2"),
        ({"goal": 5}, r"goal is 5.*\(x, y\)"),
        ({"goal": (3.7, 5)}, r"goal is \(3\.7, 5\).*\(x, y\)"),
        ({"start": (0, 9)}, r"start is \(0, 9\).*0 to 8"),
        ({"start": [(0, 0), (1, 1), (2, 2)]}, r"start is \[.*\(x, y\)"),
        ({"start": "corner"}, r"start is 'corner'.*'center', 'random' or \(x, y\)"),
        ({"size": 0}, r"size is 0.*at least 1"),
        ({"size": [9, 9, 17]}, r"size is \[9, 9, 17\].*one whole number"),
        ({"horizon": 0}, r"horizon is 0.*at least 1"),
        ({"horizon": 2.5}, r"horizon is 2\.5.*one whole number"),
        ({"reward_once": [True, False, True]}, r"reward_once is .*True or False"),
        ({"terminate_on_goal": [True, False, True]}, r"terminate_on_goal is .*True or False"),
    ],
)
def test_impossible_rooms_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        room(**kwargs)
    with pytest.raises(ValueError, match=message):
        rooms(3, **kwargs)


def test_one_room_has_one_goal() -> None:
    with pytest.raises(ValueError, match=r"goal is \[\(1, 2\), \(3, 4\)\], but must be \(x, y\)"):
        room(goal=[(1, 2), (3, 4)])


def test_five_rooms_have_one_goal_or_five() -> None:
    with pytest.raises(ValueError, match=r"goal is \[\(1, 2\), \(3, 4\)\].*, or 5 of them"):
        rooms(5, goal=[(1, 2), (3, 4)])


def test_no_rooms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_envs is 0.*at least 1"):
        rooms(0)


@pytest.mark.parametrize("action", [-1, 5, 1.0])
def test_an_impossible_action_is_refused(action: float) -> None:
    with pytest.raises(ValueError, match=rf"action is {action}.*Discrete"):
        room().step(action)


@pytest.mark.parametrize("actions", [[0, -1, 0], [0, 0, 5], [0, 0], 3])
def test_impossible_actions_are_refused(actions: Any) -> None:
    envs = rooms(3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="3 integers from 0 to 4"):
        envs.step(np.array(actions))


@pytest.mark.parametrize("mask", [[0, 1, 0], [True, False]])
def test_a_reset_mask_of_another_kind_is_refused(mask: list[int]) -> None:
    # Read as indices, [0, 1, 0] would reset rooms 0 and 1.
    with pytest.raises(ValueError, match=r"reset_mask is .*3 values, True or False"):
        rooms(3).reset(options={"reset_mask": np.array(mask)})


def test_seeds_that_do_not_fit_the_rooms_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 seeds for 3 rows"):
        rooms(3).reset(seed=[1, 2])
