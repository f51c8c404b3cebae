"""Watermaze: its rules, and its success rates against a simulation.

The simulation is the test's own: `simulated_success` knows the rules and shares no line with the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.envs.watermaze import (
    BACK,
    FORWARD,
    FORWARD_LEFT,
    FORWARD_RIGHT,
    HYPOTHESES,
    LEFT,
    MAP,
    PLATFORM,
    PLAYER,
    RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    watermaze_family,
)
from ad_hf.sources.posterior_sampling import posterior_sampling
from ad_hf.tasks import make_vec

ENV_ID = "ad_hf/Watermaze-v0"
QUARTER = np.pi / 2
FAR = (-500, 0)  # a platform that is in nobody's way


def pool(pose: tuple[float, float, float] | None = None, **kwargs: Any) -> Any:
    """A single Watermaze without wrappers, reset, with the agent at this pose."""
    env = gym.make(ENV_ID, **kwargs).unwrapped
    env.reset(seed=0)
    if pose is not None:
        env.world.poses[0] = pose
    return env


def pools(num_envs: int, blank: bool = True, **kwargs: Any) -> Any:
    """A vector of Watermazes that are reset by hand, and seen by nobody who does not ask for it."""
    envs: Any = gym.make_vec(ENV_ID, num_envs=num_envs, autoreset_mode="Disabled", **kwargs).unwrapped
    envs.blank = blank
    return envs


def play(
    envs: Any, act: Callable[[], np.ndarray], num_episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths (K, E) of the first episodes of each row."""
    returns, lengths = np.zeros((2, envs.num_envs, num_episodes))
    rows, episodes = np.arange(envs.num_envs), np.zeros(envs.num_envs, dtype=int)
    envs.reset(seed=seed)
    while episodes.min() < num_episodes:
        _, reward, terminated, truncated, _ = envs.step(act())
        counts = episodes < num_episodes
        returns[rows[counts], episodes[counts]] += reward[counts]
        lengths[rows[counts], episodes[counts]] += 1
        done = terminated | truncated
        episodes += done
        if done.any():
            envs.reset(options={"reset_mask": done})
    return returns, lengths


# Success against simulation


def simulated_success(step_seconds: float, num_episodes: int, seed: int) -> float:
    """How often random actions reach the platform within 50 steps from the centre; points are complex."""
    rng = np.random.default_rng(seed)
    walls = np.exp(1j * np.arange(16) * np.pi / 8)  # their normals
    platform = 580 * rng.random(num_episodes) ** 0.5 * np.exp(2j * np.pi * rng.random(num_episodes))
    here, facing = np.zeros(num_episodes, dtype=complex), np.exp(2j * np.pi * rng.random(num_episodes))
    found = np.zeros(num_episodes, dtype=bool)
    turn = np.exp(1j * np.radians(79.2 * step_seconds))
    turns = np.array([1, 1, 1, 1, turn, 1 / turn, turn, 1 / turn])
    strides = 320 * step_seconds * np.array([1, -1, 1j, -1j, 0, 0, 1, 1])
    for _ in range(50):
        action = rng.integers(8, size=num_episodes)
        facing = facing * turns[action]
        there = here + strides[action] * facing
        # The walls that one is most beyond come first.
        for _ in range(3):
            beyond = (there[:, None] * walls.conj()).real - (760 - 15)
            worst = beyond.argmax(axis=1)
            there = there - np.maximum(beyond.max(axis=1), 0) * walls[worst]
        for share in np.linspace(0, 1, 17):
            found |= abs(here + share * (there - here) - platform) <= 64 + 15
        here = there
    return float(found.mean())


@pytest.mark.parametrize(("step_seconds", "published"), [(0.25, 0.18), (1.0, 0.47)])
def test_random_actions_succeed_as_often_as_in_a_simulation(step_seconds: float, published: float) -> None:
    rng = np.random.default_rng(0)
    envs = pools(500, step_seconds=step_seconds)
    returns = np.concatenate(
        [play(envs, lambda: rng.integers(8, size=500), num_episodes=4, seed=1000 * i)[0] for i in range(4)]
    )
    success, standard_error = returns.mean(), returns.mean(axis=1).std() / len(returns) ** 0.5
    simulated = simulated_success(step_seconds, 10_000, seed=1)
    assert abs(success - simulated) < 3 * standard_error
    assert simulated == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(
    ("kwargs", "mean_steps"),
    [
        ({}, 5.05),
        ({"start": "rim"}, 9.4),
        ({"step_seconds": 1.0}, 2.3),
        ({"start": "rim", "step_seconds": 1.0}, 3.7),
    ],
)
def test_who_knows_the_platform_always_reaches_it_soon(kwargs: dict[str, Any], mean_steps: float) -> None:
    platforms = HYPOTHESES[np.linalg.norm(HYPOTHESES, axis=1) <= 580]  # all over the disc
    envs = pools(len(platforms), platform=platforms, **kwargs)
    returns, lengths = play(envs, envs.optimal_actions, num_episodes=2, seed=0)
    assert (returns == 1).all()
    assert lengths.mean() == pytest.approx(mean_steps, rel=0.05)
    assert lengths.max() <= 20


# The rules


@pytest.mark.parametrize("step_seconds", [0.25, 1.0])
@pytest.mark.parametrize("heading", [0, 1, -2.5])
@pytest.mark.parametrize(
    ("action", "ahead", "left", "turn"),
    [
        (FORWARD, 1, 0, 0),
        (BACK, -1, 0, 0),
        (LEFT, 0, 1, 0),
        (RIGHT, 0, -1, 0),
        (TURN_LEFT, 0, 0, 1),
        (TURN_RIGHT, 0, 0, -1),
        (FORWARD_LEFT, 1, 0, 1),
        (FORWARD_RIGHT, 1, 0, -1),
    ],
)
def test_an_action_turns_then_moves(
    action: int, ahead: int, left: int, turn: int, heading: float, step_seconds: float
) -> None:
    env = pool((20, 30, heading), step_seconds=step_seconds, platform=FAR)
    env.step(action)
    x, y, now_facing = env.world.recorded()[0].astype(float)
    facing = heading + turn * np.radians(79.2) * step_seconds  # counter-clockwise is left
    moved = (ahead + 1j * left) * 320 * step_seconds * np.exp(1j * facing)
    assert (x - 20, y - 30) == pytest.approx((moved.real, moved.imag), abs=1e-3)
    assert np.exp(1j * now_facing) == pytest.approx(np.exp(1j * facing), abs=1e-6)


def test_a_heading_stays_between_minus_pi_and_pi() -> None:
    env = pool((0, 0, 3.1), platform=FAR)
    headings = []
    for action in [TURN_LEFT] * 20 + [TURN_RIGHT] * 25:
        env.step(action)
        assert env.world.recorded_space.contains(env.world.recorded()[0])
        headings.append(env.world.recorded()[0, 2])
    turns = np.diff(np.unwrap(headings))
    np.testing.assert_allclose(np.abs(turns), np.radians(19.8), atol=1e-5)


def beyond_wall(positions: np.ndarray) -> np.ndarray:
    """How much farther than 745 points (..., 2) lie from the centre, towards the nearest wall's middle."""
    angle = np.arctan2(positions[..., 1], positions[..., 0])
    from_middle = (angle + np.pi / 16) % (np.pi / 8) - np.pi / 16
    return np.hypot(positions[..., 0], positions[..., 1]) * np.cos(from_middle) - 745


@pytest.mark.parametrize("step_seconds", [0.25, 1.0])
def test_nobody_leaves_the_pool(step_seconds: float) -> None:
    envs = pools(300, step_seconds=step_seconds, platform=FAR, horizon=200, start="rim")
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    nearest = -np.inf
    for step in range(100):
        # Straight on for a while, so that walls and corners are met from all sides.
        actions = np.where(step % 10 < 3, rng.integers(8, size=300), rng.integers(4))
        _, _, terminated, _, _ = envs.step(actions)
        nearest = max(nearest, beyond_wall(envs.recorded()[:, :2].astype(float)).max())
        assert nearest < 1e-3
        if terminated.any():
            envs.reset(options={"reset_mask": terminated})
    assert nearest > -1e-3, "no wall was met: the test has lost its point"


def test_a_wall_stops_what_goes_into_it_and_lets_pass_what_goes_along() -> None:
    env = pool((700, -20, 0), platform=FAR)
    env.step(FORWARD)
    assert env.world.recorded()[0, :2].tolist() == [745, -20]
    env.world.poses[0] = (700, -20, np.pi / 4)
    env.step(FORWARD)
    assert env.world.recorded()[0, :2] == pytest.approx([745, -20 + 80 * 2**-0.5], abs=1e-3)


def test_the_platform_ends_the_episode_with_one() -> None:
    env = pool((0, 0, 0), platform=(200, 0))
    assert env.step(FORWARD)[1:4] == (0, False, False)
    assert env.step(FORWARD)[1:4] == (1, True, False)


@pytest.mark.parametrize(("aside", "reward"), [(78.9, 1), (79.1, 0), (-78.9, 1), (-79.1, 0)])
@pytest.mark.parametrize("action", [FORWARD, BACK])
def test_the_platform_is_reached_on_the_way_within_64_and_the_players_15(
    action: int, aside: float, reward: int
) -> None:
    ahead = 160 if action == FORWARD else -160
    env = pool((0, 0, 0), platform=(ahead, aside), step_seconds=1.0)
    assert env.step(action)[1] == reward  # from 160 before to 160 behind it


def test_what_is_behind_the_end_of_the_way_is_not_reached() -> None:
    assert pool((0, 0, 0), platform=(80 + 78.9, 0)).step(FORWARD)[1] == 1
    assert pool((0, 0, 0), platform=(80 + 79.1, 0)).step(FORWARD)[1] == 0
    assert pool((0, 0, 0), platform=(-79.1, 0)).step(FORWARD)[1] == 0


def test_who_begins_on_the_platform_is_paid_for_the_first_step() -> None:
    assert pool((0, 0, 0), platform=(50, 0)).step(TURN_LEFT)[1:4] == (1, True, False)


@pytest.mark.parametrize("horizon", [1, 3, 50])
def test_an_episode_is_truncated_at_its_horizon_and_not_before(horizon: int) -> None:
    env = pool(platform=FAR, horizon=horizon)
    for _ in range(2):
        ends = [env.step(TURN_LEFT)[2:4] for _ in range(horizon)]
        assert ends == [(False, False)] * (horizon - 1) + [(False, True)]
        env.reset()


def test_an_episode_can_end_by_platform_and_horizon_at_once() -> None:
    assert pool((0, 0, 0), platform=(120, 0), horizon=1).step(FORWARD)[1:4] == (1, True, True)


# Starts and platforms


def test_an_episode_can_start_at_the_centre_facing_east() -> None:
    env = gym.make("ad_hf/Watermaze-v0", start="east").unwrapped
    for seed in range(3):
        env.reset(seed=seed)
        assert env.world.recorded().tolist() == [[0, 0, 0]]  # type: ignore[attr-defined]


def test_an_episode_starts_at_the_centre_with_any_heading() -> None:
    envs = pools(500)
    envs.reset(seed=0)
    first = envs.recorded()
    envs.reset()
    poses = np.concatenate([first, envs.recorded()])
    assert (poses[:, :2] == 0).all()
    counts, _ = np.histogram(poses[:, 2], bins=20, range=(-np.pi, np.pi))
    chi_square = ((counts - 50) ** 2 / 50).sum()
    assert abs(chi_square - 19) < 3 * (2 * 19) ** 0.5  # 19 degrees of freedom
    assert (poses[:500, 2] != poses[500:, 2]).all()


def test_an_episode_starts_at_one_of_eight_points_of_the_rim_that_faces_the_centre() -> None:
    envs = pools(400, start="rim")
    envs.reset(seed=0)
    poses = envs.recorded().astype(float)
    np.testing.assert_allclose(np.hypot(poses[:, 0], poses[:, 1]), 712, atol=1e-3)
    to_centre = -(poses[:, 0] + 1j * poses[:, 1]) / 712
    np.testing.assert_allclose(np.exp(1j * poses[:, 2]), to_centre, atol=1e-5)
    eighths = np.angle(to_centre) / (np.pi / 4)
    np.testing.assert_allclose(eighths, np.round(eighths), atol=1e-5)
    assert (np.bincount(np.round(eighths).astype(int) % 8, minlength=8) > 25).all()


def test_platforms_are_drawn_uniformly_in_a_disc_of_580() -> None:
    envs = pools(600)
    envs.reset(seed=0)
    radius, angle = np.hypot(*envs.platforms.T), np.arctan2(envs.platforms[:, 1], envs.platforms[:, 0])
    assert radius.max() <= 580
    for uniform in ((radius / 580) ** 2, (angle + np.pi) / (2 * np.pi)):
        gaps = np.abs(np.sort(uniform) - (np.arange(600) + 0.5) / 600)
        assert gaps.max() < 1.63 / 600**0.5  # Kolmogorov and Smirnov, 1 %


def test_a_drawn_platform_stays_until_a_seed_draws_another() -> None:
    env = pool()
    platforms = []
    for seed in (1, None, 2, None, 1):
        env.reset(seed=seed)
        platforms.append(tuple(env.world.platforms[0]))
    first, second = platforms[0], platforms[2]
    assert platforms == [first, first, second, second, first]
    assert first != second


def test_each_row_has_its_platform() -> None:
    platforms = [(0, 100), (-250.5, 3), (580, 0)]
    envs = pools(3, platform=platforms)
    envs.reset(seed=5)
    np.testing.assert_array_equal(envs.platforms, platforms)


# What is recorded


def test_frames_are_those_of_the_recorded_poses() -> None:
    envs, single = pools(6, blank=False, horizon=9), gym.make(ENV_ID, horizon=9)
    rng = np.random.default_rng(0)
    observation, _ = envs.reset(seed=0)
    seen, _ = single.reset(seed=0)
    history = []
    for step in range(60):
        poses = envs.recorded()
        assert poses.dtype == np.float32
        assert all(map(envs.recorded_space.contains, poses))
        np.testing.assert_array_equal(observation, envs.observe_recorded(poses))
        np.testing.assert_array_equal(seen, observation[0])
        history.append((poses, observation))
        actions = rng.integers(8, size=6) if step % 20 < 10 else np.zeros(6, dtype=int)  # up to the walls too
        observation, _, terminated, truncated, _ = envs.step(actions)
        seen, _, _, _, _ = single.step(actions[0])
        done = terminated | truncated
        if done.any():
            observation, _ = envs.reset(options={"reset_mask": done})
        if done[0]:
            seen, _ = single.reset()
    poses, frames = (np.stack(parts) for parts in zip(*history, strict=True))  # (60, 6, ...), nothing changed
    np.testing.assert_array_equal(envs.observe_recorded(poses), frames)


def test_blank_observations_are_black_and_change_nothing_else() -> None:
    blank, seen = pools(3, blank=True, start="rim"), pools(3, blank=False, start="rim")
    for envs in (blank, seen):
        envs.reset(seed=0)
    for action in range(8):
        observation, *others = blank.step(np.full(3, action))
        assert observation.shape == (3, 72, 96, 3)
        assert observation.dtype == np.uint8
        assert not observation.any()
        np.testing.assert_equal(others, list(seen.step(np.full(3, action))[1:]))
        np.testing.assert_array_equal(blank.recorded(), seen.recorded())


def test_what_was_recorded_does_not_change_afterwards() -> None:
    envs = pools(2)
    envs.reset(seed=0)
    recorded = []
    for _ in range(3):
        recorded.append(envs.recorded())
        envs.step(np.array([FORWARD, LEFT]))
        recorded.append(envs.recorded())
        envs.reset()
    assert len({poses.tobytes() for poses in recorded}) == 6
    assert all((poses[:, :2] == 0).all() for poses in recorded[::2])


# What the environment knows about its task


def test_every_platform_has_a_hypothesis_near_it() -> None:
    rng = np.random.default_rng(0)
    radius, angle = 580 * rng.random(5000) ** 0.5, rng.uniform(0, 2 * np.pi, 5000)
    radius[:500] = 580
    platforms = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    distances = np.linalg.norm(platforms[:, None] - HYPOTHESES, axis=-1).min(axis=1)
    assert distances.max() <= 20 * 2**0.5 + 1e-6
    assert pools(1).num_hypotheses == len(HYPOTHESES) < 800


@pytest.mark.parametrize("step_seconds", [0.25, 1.0])
def test_the_hypothesis_nearest_to_the_truth_is_never_refuted_and_many_others_are(
    step_seconds: float,
) -> None:
    envs = pools(100, step_seconds=step_seconds)
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    truth = np.linalg.norm(envs.platforms[:, None] - HYPOTHESES, axis=-1).argmin(axis=1)
    possible = np.ones((100, envs.num_hypotheses), dtype=bool)
    found = np.zeros(100, dtype=bool)
    for step in range(200):
        act = envs.optimal_actions() if step % 50 < 10 else rng.integers(8, size=100)
        _, reward, terminated, truncated, _ = envs.step(act)
        possible &= envs.consistent_hypotheses(reward)
        assert possible[np.arange(100), truth].all()
        found |= reward > 0
        if (terminated | truncated).any():
            envs.reset(options={"reset_mask": terminated | truncated})
    assert found.all()
    assert np.median(possible.sum(axis=1)) < 12
    spread = np.linalg.norm(envs.platforms[:, None] - HYPOTHESES, axis=-1)
    assert np.where(possible, spread, 0).max() < 79 * 2 + 29  # both on a platform that the agent has touched


def test_a_hypothesis_stays_as_long_as_one_platform_that_it_stands_for_agrees() -> None:
    envs = pools(1, platform=FAR)
    envs.reset(seed=0)
    envs.poses[0] = (10, 5, 0)
    envs.step(np.array([FORWARD]))  # from (10, 5) to (90, 5)
    rng = np.random.default_rng(0)
    around = rng.uniform(-20, 20, size=(400, 2))  # of a hypothesis: those to which it is the nearest
    candidates = HYPOTHESES[:, None] + around  # (H, 400, 2)
    nearest_on_way = np.clip(candidates[..., 0], 10, 90)
    touched = np.hypot(candidates[..., 0] - nearest_on_way, candidates[..., 1] - 5) <= 79
    unpaid, paid = (envs.consistent_hypotheses(np.array([reward]))[0] for reward in (0.0, 1.0))
    assert unpaid[~touched.all(axis=1)].all()
    assert paid[touched.any(axis=1)].all()
    assert 2 < (~unpaid).sum() < paid.sum() < 40
    over_it = np.flatnonzero((HYPOTHESES == (40, 0)).all(axis=1))
    assert not unpaid[over_it].any()


def test_optimal_actions_go_where_a_belief_is() -> None:
    envs = pools(len(HYPOTHESES), platform=FAR)
    envs.reset(seed=0)
    beliefs, nearest = np.arange(len(HYPOTHESES)), np.full(len(HYPOTHESES), np.inf)
    for _ in range(15):
        before = envs.recorded()[:, :2].astype(float)
        _, _, terminated, _, _ = envs.step(envs.optimal_actions(beliefs))
        for share in np.linspace(0, 1, 9):
            there = before + share * (envs.recorded()[:, :2] - before)
            nearest = np.minimum(nearest, np.linalg.norm(there - HYPOTHESES, axis=1))
        if terminated.any():  # FAR was on the way
            nearest[terminated] = 0
            envs.reset(options={"reset_mask": terminated})
    assert nearest.max() < 79 - 20 * 2**0.5 + 1


def test_posterior_sampling_reaches_the_platform_sooner_and_sooner() -> None:
    class Watched(gym.vector.VectorWrapper):
        """Remembers the rewards and ends of every step."""

        steps: list[tuple[np.ndarray, np.ndarray]] = []  # noqa: RUF012

        def step(self, actions: np.ndarray) -> tuple:
            result = self.env.step(actions)
            self.steps.append((result[1], result[2] | result[3]))
            return result

    envs = Watched(pools(60))
    posterior_sampling(envs, num_episodes=40, seed=0)
    rewards, done = (np.stack(parts) for parts in zip(*envs.steps, strict=True))  # (steps, K)
    ends = [np.flatnonzero(column)[:40] for column in done.T]
    success = np.array([rewards[end, row] for row, end in enumerate(ends)])  # (K, E)
    lengths = np.array([np.diff(end, prepend=-1) for end in ends])
    curve = success.reshape(60, 4, 10).mean(axis=(0, 2))
    assert (np.diff(curve) > 0).all()
    assert curve[0] < 0.4 < 0.8 < curve[-1]
    assert lengths[:, -10:].mean() < 15 < 35 < lengths[:, :10].mean()


# Pictures


def test_a_picture_shows_the_view_and_agent_and_platform_from_above() -> None:
    env = pool((300, -400, 0), platform=(-200, 350), render_mode="rgb_array")
    picture = env.render()
    view, above = picture[:, :288], picture[:, 288:]
    np.testing.assert_array_equal(view[::3, ::3], env.world.observe_recorded(env.world.recorded()[0]))
    assert above.shape == (MAP, MAP, 3)

    def middle(colour: tuple[int, int, int]) -> tuple[float, float]:
        row, column = np.argwhere((above == colour).all(axis=-1)).mean(axis=0)
        return ((column + 0.5) / MAP * 2 - 1) * 780, -((row + 0.5) / MAP * 2 - 1) * 780

    assert middle(PLATFORM) == pytest.approx((-200, 350), abs=8)
    assert middle(PLAYER) == pytest.approx((300, -400), abs=25)  # with a nose
    assert middle(PLAYER)[0] > 300


def test_text_shows_agent_and_platform_where_they_are() -> None:
    env = pool((0, 0, QUARTER), platform=(160, 80), render_mode="ansi")
    rows = [line.split(" ") for line in env.render().splitlines()]
    assert len(rows) == 19
    assert (rows[9].index("↑"), rows[8].index("O")) == (9, 11)
    env.world.poses[0] = (160, 80, 0)
    assert "@" in env.render()
    assert "O" not in env.render()


@pytest.mark.parametrize(("heading", "arrow"), [*zip(np.arange(-4, 4) * np.pi / 4, "←↙↓↘→↗↑↖", strict=True)])
def test_text_shows_where_the_agent_looks(heading: float, arrow: str) -> None:
    assert arrow in pool((0, 0, heading), platform=FAR, render_mode="ansi").render()


def test_actions_have_eight_symbols() -> None:
    assert len(set(gym.make(ENV_ID).metadata["action_symbols"])) == 8


# The family


def test_a_family_is_platforms_all_over_the_disc() -> None:
    family = watermaze_family()
    assert (len(family["train"]), len(family["test"])) == (512, 64)
    platforms = np.array([task.params["platform"] for task in family["train"]])
    radius = np.hypot(*platforms.T)
    assert radius.max() <= 580
    assert (radius < 290).mean() == pytest.approx(0.25, abs=0.06)
    np.testing.assert_array_equal(platforms, np.round(platforms, 1))


def test_a_platform_at_the_edge_stays_in_the_disc() -> None:
    # With seed 2 there is one whose nearest point with one decimal lies outside.
    platforms = [task.params["platform"] for task in watermaze_family(seed=2)["train"]]
    assert np.hypot(*np.transpose(platforms)).max() <= 580


def test_more_training_tasks_leave_the_others_and_the_test_as_they_are() -> None:
    small, large = watermaze_family(num_train=10), watermaze_family(num_train=20)
    assert small["train"] == large["train"][:10]
    assert small["test"] == large["test"]
    assert small["test"][:5] == watermaze_family(num_train=10, num_test=5)["test"]


def test_the_tasks_of_a_family_are_environments() -> None:
    family = watermaze_family(num_train=3, num_test=1, seed=2, start="rim", step_seconds=1.0)
    assert watermaze_family(**family.options) == family
    envs: Any = make_vec(family["train"]).unwrapped
    envs.reset(seed=0)
    assert (envs.start, envs.step_seconds) == ("rim", 1.0)
    np.testing.assert_array_equal(envs.platforms, [task.params["platform"] for task in family["train"]])
    assert family["test"][0].make().unwrapped.world.platforms.tolist() == [
        family["test"][0].params["platform"]
    ]


# Refusals name the value, the limit and the way out


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"platform": (500, 300)}, r"platform is \(500, 300\).*at most 580 from the centre"),
        ({"platform": (np.nan, 0)}, r"platform is \(nan, 0\).*\(x, y\)"),
        ({"platform": 5}, r"platform is 5.*\(x, y\)"),
        ({"platform": (1, 2, 3)}, r"platform is \(1, 2, 3\).*\(x, y\)"),
        ({"platform": ("1", "2")}, r"platform is \('1', '2'\).*\(x, y\)"),
        ({"start": "corner"}, r"start is 'corner'.*'center', 'east' or 'rim'"),
        ({"step_seconds": 0}, r"step_seconds is 0.*above 0 and at most 1"),
        ({"step_seconds": 1.5}, r"step_seconds is 1\.5.*at most 1"),
        ({"step_seconds": [0.25, 1.0, 1.0]}, r"step_seconds is \[.*one number"),
        ({"horizon": 0}, r"horizon is 0.*at least 1"),
    ],
)
def test_impossible_pools_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool(**kwargs)
    with pytest.raises(ValueError, match=message):
        pools(3, **kwargs)


def test_five_pools_have_one_platform_or_five() -> None:
    with pytest.raises(ValueError, match=r"platform is \[\(1, 2\), \(3, 4\)\].*, or 5 of them"):
        pools(5, platform=[(1, 2), (3, 4)])


@pytest.mark.parametrize("action", [-1, 8, 1.0])
def test_an_impossible_action_is_refused(action: float) -> None:
    with pytest.raises(ValueError, match=rf"action is {action}"):
        pool().step(action)
