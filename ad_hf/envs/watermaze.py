"""Watermaze: find a platform hidden in a round pool by the pictures around it, then swim straight there.

K = pools in a vector environment, H = hypotheses. A pose is (x, y, heading): units from the centre of the
pool, and radians counter-clockwise from the x axis, float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from ad_hf.envs.lockstep import LockstepVectorEnv, SingleEnv, at_least_one
from ad_hf.envs.watermaze_view import APOTHEM, HEIGHT, NORMALS, PICTURES, WIDTH, outwards, render_poses
from ad_hf.tasks import Task, TaskFamily

FORWARD, BACK, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(8)
# What an action does: ahead, to the left, turn to the left.
MOTIONS = np.array(
    [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [1, 0, 1], [1, 0, -1]]
)
ARROWS = "↑↓←→↺↻↖↗"  # the actions, for the eye
SPEED, TURN = 320.0, np.radians(79.2)  # units and radians per second
PLAYER_RADIUS = 15.0
REACH = 64.0 + PLAYER_RADIUS  # from the centre of a platform to who touches it
PLATFORMS_WITHIN = 580.0  # units of the centre
RIM_START = 712.0  # units from the centre

GRID_STEP = 40.0  # between hypotheses
SLACK = GRID_STEP / 2**0.5 + 0.01  # no platform is farther from the nearest hypothesis, rounding included

MAP = 3 * HEIGHT  # pixels of the map's side in rgb_array pictures
OUTSIDE, WATER, PLATFORM, PLAYER = (24, 27, 38), (32, 84, 120), (246, 193, 80), (250, 250, 250)


def move(poses: np.ndarray, actions: np.ndarray, step_seconds: float) -> np.ndarray:
    """Poses (..., 3) after one step, which first turns, then swims straight on.

    Walls stop what goes into them and let pass what goes along them: who ends nearer to a wall than
    PLAYER_RADIUS is put back at a right angle to it.
    """
    ahead, left, turn = np.moveaxis(MOTIONS[actions] * step_seconds, -1, 0)
    headings = poses[..., 2] + TURN * turn
    cos, sin = np.cos(headings), np.sin(headings)
    moves = SPEED * np.stack([ahead * cos - left * sin, ahead * sin + left * cos], axis=-1)
    positions = poses[..., :2] + moves
    for _ in range(2):  # walls of a corner; steps of one second are too short to pass a third wall
        beyond = outwards(*np.moveaxis(positions, -1, 0)) - (APOTHEM - PLAYER_RADIUS)  # (..., walls)
        wall = beyond.argmax(axis=-1)
        positions -= np.maximum(beyond.max(axis=-1), 0)[..., None] * NORMALS.T[wall]
    headings = (headings + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([positions, headings[..., None]], axis=-1).astype(np.float32)


def passing_distances(starts: np.ndarray, ends: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How near the straight ways from `starts` to `ends` come to `points`; all (..., 2), broadcast."""
    (way_x, way_y), (x, y) = (np.moveaxis(vectors, -1, 0) for vectors in (ends - starts, points - starts))
    length = np.maximum(way_x**2 + way_y**2, 1e-9)  # squared; who stands still has a way too
    share = np.clip((x * way_x + y * way_y) / length, 0, 1)
    return np.hypot(x - share * way_x, y - share * way_y)


def swim_towards(poses: np.ndarray, targets: np.ndarray, reach: float, step_seconds: float) -> np.ndarray:
    """Actions (K,) that come within `reach` of `targets` (K, 2): at once, or so that the least way is left.

    The way left is that of someone who never turns, ahead plus aside. Looking one step ahead like this takes
    5.06 steps on average from the centre, and the optimum, by value iteration, 4.94.
    """
    after = move(np.broadcast_to(poses, (8, *poses.shape)), np.arange(8)[:, None], step_seconds)  # (8, K, 3)
    x, y = np.moveaxis(targets - after[..., :2], -1, 0)
    cos, sin = np.cos(after[..., 2]), np.sin(after[..., 2])
    left = np.abs(x * cos + y * sin) + np.abs(y * cos - x * sin)
    left[passing_distances(poses[:, :2], after[..., :2], targets) <= reach] = 0
    return left.argmin(axis=0)


def in_disc(uniform: np.ndarray) -> np.ndarray:
    """Platforms (..., 2), uniform in their disc, from pairs (..., 2) uniform in [0, 1)."""
    radius, angle = PLATFORMS_WITHIN * np.sqrt(uniform[..., 0]), 2 * np.pi * uniform[..., 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _grid() -> np.ndarray:
    """Hypotheses (H, 2) float32: a square grid, so large that each platform has one within SLACK."""
    count = int((PLATFORMS_WITHIN + SLACK) // GRID_STEP)
    axis = GRID_STEP * np.arange(-count, count + 1, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    return points[np.hypot(points[..., 0], points[..., 1]) <= PLATFORMS_WITHIN + SLACK]


HYPOTHESES = _grid()


class WatermazeVectorEnv(LockstepVectorEnv):
    """K pools that move and are drawn in array operations.

    Args:
        num_envs: K.
        platform: (x, y) of the platform's centre, or K of them, at most 580 from the centre. None draws one,
            uniform in that disc, at the first reset and at every reset with a seed.
        start: "center", with a heading drawn each episode; "east", the centre with facing along x,
            always; or "rim", one of eight points there, drawn each episode, facing the centre.
        step_seconds: how long an action lasts, at most 1; all pools share it, and so they do the horizon.
        horizon: steps after which an episode is truncated.
        render_mode: None or "rgb_array" (a tuple of K frames).
        autoreset_mode: any of Gymnasium's three.

    Attributes:
        poses: (K, 3) float32.
        platforms: (K, 2).
        recorded_space: of what histories keep instead of a frame, one pose.
        blank: leave observations black, for who learns from the poses and has no use for pictures.

    Raises:
        ValueError: if a platform lies too far out, or there is no such start, duration or horizon.
    """

    def __init__(
        self,
        num_envs: int = 1,
        platform: Sequence[Any] | None = None,
        start: str = "center",
        step_seconds: float = 0.25,
        horizon: int = 50,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        frame = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        super().__init__(num_envs, frame, len(MOTIONS), horizon, render_mode, autoreset_mode)
        if start not in ("center", "east", "rim"):
            raise ValueError(f"start is {start!r}, but must be 'center', 'east' or 'rim'")
        if not isinstance(step_seconds, int | float) or not 0 < step_seconds <= 1:
            raise ValueError(
                f"step_seconds is {step_seconds!r}, but must be one number above 0 and at most 1: "
                "longer steps would jump across the pool"
            )
        self.start, self.step_seconds = start, float(step_seconds)
        self._draws_platform = platform is None
        self.platforms = np.zeros((num_envs, 2))
        if platform is not None:
            self.platforms[:] = _platforms(platform, num_envs)
        limits = np.array([APOTHEM, APOTHEM, np.pi], dtype=np.float32)
        self.recorded_space = spaces.Box(-limits, limits)
        self.blank = False
        self.poses = np.zeros((num_envs, 3), dtype=np.float32)
        self._before = self.poses  # where the last step began
        self._drawn = np.full((num_envs, 3), np.nan, dtype=np.float32)  # the poses that _frames show
        self._frames = np.zeros((num_envs, HEIGHT, WIDTH, 3), dtype=np.uint8)

    def _draw_tasks(self, rows: np.ndarray) -> None:
        if self._draws_platform:
            self.platforms[rows] = in_disc(np.stack([self.generators[row].random(2) for row in rows]))

    def _begin(self, rows: np.ndarray) -> None:
        for row in rows:
            if self.start == "east":
                self.poses[row] = 0, 0, 0
            elif self.start == "center":
                self.poses[row] = 0, 0, self.generators[row].uniform(-np.pi, np.pi)
            else:
                angle = self.generators[row].integers(8) * (np.pi / 4)
                self.poses[row] = RIM_START * np.cos(angle), RIM_START * np.sin(angle), angle - np.pi

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._before, self.poses = self.poses, move(self.poses, actions, self.step_seconds)
        reached = passing_distances(self._before[:, :2], self.poses[:, :2], self.platforms) <= REACH
        return reached.astype(np.float64), reached

    def _observe(self) -> np.ndarray:
        if self.blank:
            return np.broadcast_to(np.uint8(0), self._frames.shape)
        # A reset of few rows returns the frames of all: these are kept, and only who moved is drawn again.
        moved = (self.poses != self._drawn).any(axis=1)
        if moved.all():
            render_poses(self.poses, out=self._frames)
        else:
            self._frames[moved] = render_poses(self.poses[moved])
        self._drawn = self.poses.copy()
        return self._frames.copy()

    def recorded(self) -> np.ndarray:
        """What histories keep of the pools now: their poses, (K, 3) float32."""
        return self.poses.copy()

    def observe_recorded(self, poses: np.ndarray) -> np.ndarray:
        """The observations (..., 72, 96, 3) uint8 that were made at recorded `poses` (..., 3)."""
        return render_poses(poses)

    @property
    def num_hypotheses(self) -> int:
        """H: where a platform can be; hypothesis h stands for all within SLACK of `HYPOTHESES[h]`."""
        return len(HYPOTHESES)

    def optimal_actions(self, hypotheses: np.ndarray | None = None) -> np.ndarray:
        """The actions (K,) that reach the platforms soon, knowing them or believing `hypotheses` (K,).

        A belief is approached until all platforms that it stands for are touched.
        """
        if hypotheses is None:
            return swim_towards(self.poses, self.platforms, REACH, self.step_seconds)
        return swim_towards(self.poses, HYPOTHESES[hypotheses], REACH - SLACK, self.step_seconds)

    def consistent_hypotheses(self, rewards: np.ndarray) -> np.ndarray:
        """Which hypotheses agree with the `rewards` (K,) of the step just taken: (K, H) bool.

        Asked before the rows that ended are reset. A hypothesis goes when no platform that it stands for
        agrees, so the one nearest to the truth stays.
        """
        starts, ends = self._before[:, None, :2], self.poses[:, None, :2]
        distances = passing_distances(starts, ends, HYPOTHESES)  # (K, H)
        paid = np.asarray(rewards)[:, None] > 0
        return np.where(paid, distances <= REACH + SLACK, distances > REACH - SLACK)

    def picture(self, row: int) -> np.ndarray:
        """What the agent sees, enlarged, and beside it the pool from above: (MAP, 504, 3) uint8."""
        view = self.observe_recorded(self.poses[row]).repeat(3, axis=0).repeat(3, axis=1)
        return np.concatenate([view, draw_pool(self.poses[row], self.platforms[row])], axis=1)

    def text(self, row: int) -> str:
        """The pool from above: an arrow is the agent, `O` the platform, `@` the agent at its centre."""
        return write_pool(self.poses[row], self.platforms[row])


class WatermazeEnv(SingleEnv):
    """A round pool with a hidden platform, in the first person (Laskin et al. 2022, section 4.1).

    Morris' water maze with the geometry of the level in DeepMind Lab: 16 walls, 760 units from the centre,
    with pictures of our own on every other one, and a platform of radius 64 under water. The agent has to
    find it, to remember where it was between the pictures, and to be there sooner in later episodes.

    | | |
    |---|---|
    | Action space | `Discrete(8)`: 0 forward, 1 back, 2 left, 3 right (80 units each), 4 turn left, 5 turn \
right (19.8 degrees each), 6 turn left and then forward, 7 turn right and then forward; walls stop |
    | Observation space | `Box(0, 255, (72, 96, 3), uint8)`: the view ahead, 90 degrees wide |
    | Reward | 1 when the agent's way comes within 79 units of the platform's centre, else 0 |
    | Episode | terminated by the reward, truncated after `horizon` steps |
    | Start | the centre, with a heading drawn each episode |
    | Optimal return | 1, after 5 steps on average; a random policy earns 0.18 |

    The paper says neither how long an action lasts nor where one looks at first. With a fixed heading, as by
    `start="east"`, the way to a platform can also be learned with closed eyes. The arguments are those of
    `WatermazeVectorEnv`.
    """

    metadata: dict[str, Any] = {**SingleEnv.metadata, "action_symbols": ARROWS}  # noqa: RUF012
    vector = WatermazeVectorEnv


def draw_pool(pose: np.ndarray, platform: np.ndarray) -> np.ndarray:
    """The pool from above, (MAP, MAP, 3) uint8; walls have the mean colours of their pictures."""
    axis = ((np.arange(MAP) + 0.5) / MAP * 2 - 1) * (APOTHEM + 20)
    points = np.stack(np.meshgrid(axis, -axis), axis=-1)  # (MAP, MAP, 2); y grows upwards, rows downwards
    frame = np.full((MAP, MAP, 3), OUTSIDE, dtype=np.uint8)
    frame[(outwards(points[..., 0], points[..., 1]) < APOTHEM).all(axis=-1)] = WATER
    ahead = np.array([np.cos(pose[2]), np.sin(pose[2])])
    discs = [
        (platform, REACH - PLAYER_RADIUS, PLATFORM),
        (pose[:2], 40, PLAYER),
        (pose[:2] + 50 * ahead, 20, PLAYER),
    ]
    colours = PICTURES.mean(axis=(1, 2))
    discs += [(APOTHEM * NORMALS[:, 2 * i], 40, colour) for i, colour in enumerate(colours)]
    for centre, radius, colour in discs:
        frame[np.hypot(*np.moveaxis(points - centre, -1, 0)) < radius] = colour
    return frame


def write_pool(pose: np.ndarray, platform: np.ndarray) -> str:
    """The pool from above in 19 x 19 cells of 80 units; see `WatermazeVectorEnv.text`."""
    cell, count = 80.0, 19
    axis = (np.arange(count) - count // 2) * cell
    inside = (outwards(*np.meshgrid(axis, axis)) < APOTHEM).all(axis=-1)
    rows = np.where(inside, ".", " ").tolist()

    def place(position: np.ndarray) -> tuple[int, int]:
        column, row = np.round(position / cell).astype(int) + count // 2
        return row, column

    row, column = place(platform)
    rows[row][column] = "O"
    row, column = place(pose[:2])
    arrow = "→↗↑↖←↙↓↘"[round(float(pose[2]) / (np.pi / 4)) % 8]
    rows[row][column] = "@" if rows[row][column] == "O" else arrow
    return "\n".join(" ".join(line).rstrip() for line in reversed(rows))


def watermaze_family(
    num_train: int = 512, num_test: int = 64, seed: int = 0, start: str = "center", step_seconds: float = 0.25
) -> TaskFamily:
    """Platforms drawn uniformly in their disc, to one decimal.

    Args:
        num_train: platforms to train on; a larger number adds some, and changes neither these nor the test.
        num_test: platforms to test on.
        seed: of the draws.
        start: of all tasks, as in `WatermazeVectorEnv`, and so is the next.
        step_seconds: how long an action lasts.

    Raises:
        ValueError: if a number is below 1.
    """
    sizes = {"train": at_least_one("num_train", num_train), "test": at_least_one("num_test", num_test)}
    draws = {split: np.random.default_rng([seed, i]) for i, split in enumerate(sizes)}
    splits = {
        split: tuple(
            Task("ad_hf/Watermaze-v0", {"platform": platform, "start": start, "step_seconds": step_seconds})
            # Cut off, not rounded: a platform at the edge of the disc stays in it.
            for platform in (np.trunc(in_disc(draws[split].random((size, 2))) * 10) / 10).tolist()
        )
        for split, size in sizes.items()
    }
    options = {**{f"num_{split}": size for split, size in sizes.items()}, "seed": seed}
    return TaskFamily("watermaze", splits, {**options, "start": start, "step_seconds": step_seconds})


def _platforms(value: Sequence[Any], num_envs: int) -> np.ndarray:
    """Platforms (2,) or (K, 2) that lie within their disc."""
    platforms = np.asarray(value)
    fits = platforms.shape in ((2,), (num_envs, 2)) and platforms.dtype.kind in "iuf"
    if not fits or not (np.hypot(platforms[..., 0], platforms[..., 1]) <= PLATFORMS_WITHIN).all():
        several = f", or {num_envs} of them" if num_envs > 1 else ""
        raise ValueError(
            f"platform is {value!r}, but must be (x, y) at most {PLATFORMS_WITHIN:.0f} from the centre"
            f"{several}"
        )
    return platforms.astype(np.float64)
