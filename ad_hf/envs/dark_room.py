"""Dark Room: find an invisible goal in a square room, then come back to it faster.

K = rooms in a vector environment. A position is (x, y); x grows to the right, y upwards, from (0, 0) at the
lower left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ad_hf.tasks import Task, TaskFamily, split_tasks

LEFT, RIGHT, UP, DOWN, NOOP = range(5)
MOVES = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]])
CELL = 32  # pixels of a cell's side in rgb_array frames
FLOOR, LINES, GOAL, AGENT = (24, 27, 38), (44, 49, 66), (246, 193, 80), (96, 196, 240)

Start = str | Sequence[int]


def move(positions: np.ndarray, actions: np.ndarray, size: int) -> np.ndarray:
    """Positions (..., 2) after one step; walls stop, they do not wrap."""
    return np.clip(positions + MOVES[actions], 0, size - 1)


def walk_towards(positions: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """The optimal policy: actions (...) that walk to `goals` (..., 2), the longer way first, then stay."""
    x, y = np.moveaxis(goals - positions, -1, 0)
    along_x = np.abs(x) >= np.abs(y)
    towards = [along_x & (x < 0), along_x & (x > 0), ~along_x & (y > 0), ~along_x & (y < 0)]
    return np.select(towards, [LEFT, RIGHT, UP, DOWN], NOOP)


class DarkRoomEnv(gym.Env):
    """A dark square room with an invisible goal (Laskin et al. 2022, section 4.1).

    The agent sees only where it is, so the goal has to be found by its reward and remembered across episodes.

    | | |
    |---|---|
    | Action space | `Discrete(5)`: 0 left, 1 right, 2 up, 3 down, 4 no-op; walls stop |
    | Observation space | `MultiDiscrete([size, size])`: x, y |
    | Reward | 1 on every step spent on the goal, else 0 |
    | Episode | truncated after `horizon` steps; no termination |
    | Start | the centre |
    | Optimal return | 16.543 on average over the 81 goals of the 9x9 room (13 to 20) |

    `ad_hf/DarkRoomHard-v0` is the 17x17 room that pays once per episode.

    Args:
        goal: (x, y) of the goal. None draws one at the first reset and at every reset with a seed.
        size: cells along each side.
        horizon: steps after which an episode is truncated.
        start: "center", "random" (uniform, drawn each episode) or an (x, y).
        reward_once: pay the goal once per episode instead of on every step spent there.
        terminate_on_goal: end the episode when the goal is reached.
        render_mode: None, "rgb_array" or "ansi".

    Raises:
        ValueError: if `goal` or `start` lies outside the room, or a size or horizon is below 1.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8, "action_symbols": "←→↑↓·"}  # noqa: RUF012

    def __init__(
        self,
        goal: Sequence[int] | None = None,
        size: int = 9,
        horizon: int = 20,
        start: Start = "center",
        reward_once: bool = False,
        terminate_on_goal: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.size, self.horizon = _at_least_one("size", size), _at_least_one("horizon", horizon)
        self.goal = None if goal is None else _cells("goal", goal, size, (2,))
        self.start = _start(start, size)
        self.reward_once = _flag("reward_once", reward_once)
        self.terminate_on_goal = _flag("terminate_on_goal", terminate_on_goal)
        self.render_mode = render_mode
        self.observation_space = spaces.MultiDiscrete([size, size])
        self.action_space = spaces.Discrete(5)
        self._draws_goal = goal is None
        self._position = np.zeros(2, dtype=np.int64)
        self._steps, self._paid = 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start an episode; see the class for when a seed draws a new goal."""
        super().reset(seed=seed)
        if self._draws_goal and (seed is not None or self.goal is None):
            self.goal = self.np_random.integers(self.size, size=2)
        start = self.np_random.integers(self.size, size=2) if self.start is None else self.start
        self._position = start.copy()
        self._steps, self._paid = 0, False
        return self._position.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move, and pay if the goal is where the move ends."""
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}, but Dark Room has the actions 0 to 4")
        self._position = move(self._position, np.asarray(action), self.size)
        self._steps += 1
        on_goal = bool((self._position == self.goal).all())
        reward = float(on_goal and not (self.reward_once and self._paid))
        self._paid |= on_goal
        terminated = self.terminate_on_goal and on_goal
        return self._position.copy(), reward, terminated, self._steps >= self.horizon, {}

    def optimal_action(self) -> int:
        """The action that the optimal policy, which knows the goal, takes now."""
        assert self.goal is not None, "reset the environment first: it draws the goal"
        return int(walk_towards(self._position, self.goal))

    def render(self) -> np.ndarray | str | None:
        """The room from above: an (H, W, 3) uint8 picture or a block of text, as `render_mode` says."""
        if self.render_mode == "rgb_array":
            return draw(self._position, self.goal, self.size)
        if self.render_mode == "ansi":
            return write(self._position, self.goal, self.size)
        return None


class DarkRoomVectorEnv(VectorEnv):
    """K dark rooms that move in one line of NumPy; row i equals a `DarkRoomEnv` with its seed, step for step.

    Args:
        num_envs: K.
        goal: one (x, y), or K of them. None draws them as `DarkRoomEnv` does.
        size: as in `DarkRoomEnv`, and so are the next four; all K rooms share them.
        horizon: steps after which an episode is truncated.
        start: "center", "random" or an (x, y).
        reward_once: pay the goal once per episode.
        terminate_on_goal: end the episode when the goal is reached.
        render_mode: None or "rgb_array" (a tuple of K frames).
        autoreset_mode: any of Gymnasium's three.

    Raises:
        ValueError: as `DarkRoomEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        goal: Sequence[Any] | None = None,
        size: int = 9,
        horizon: int = 20,
        start: Start = "center",
        reward_once: bool = False,
        terminate_on_goal: bool = False,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.num_envs = _at_least_one("num_envs", num_envs)
        self.size, self.horizon = _at_least_one("size", size), _at_least_one("horizon", horizon)
        self.start = _start(start, size)
        self.reward_once = _flag("reward_once", reward_once)
        self.terminate_on_goal = _flag("terminate_on_goal", terminate_on_goal)
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = spaces.MultiDiscrete([self.size, self.size])
        self.single_action_space = spaces.Discrete(5)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._draws_goal = goal is None
        self.goals = np.full((num_envs, 2), -1)  # (-1, -1) is a goal not drawn yet
        if goal is not None:
            self.goals[:] = _cells("goal", goal, size, (2,), (num_envs, 2))
        self._positions = np.zeros((num_envs, 2), dtype=np.int64)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._paid = np.zeros(num_envs, dtype=bool)
        self._done = np.zeros(num_envs, dtype=bool)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start an episode in every room, or in those of `options["reset_mask"]`, a (K,) bool array."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask is {mask!r}, but must be {self.num_envs} values, True or False")
        if seed is not None or (mask & (self.goals[:, 0] < 0)).any():
            self._seed(seed, mask)
        self._restart(mask)
        return self._positions.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Move all rooms by one step; `actions` is (K,)."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() > NOOP:
            raise ValueError(f"actions must be {self.num_envs} integers from 0 to 4, got {actions!r}")
        begins = self._done
        if begins.any():
            if self.autoreset_mode == AutoresetMode.DISABLED:
                rooms = np.flatnonzero(begins).tolist()
                way_out = "reset them with options={'reset_mask': done} first"
                raise ValueError(f"rooms {rooms} have ended: {way_out}")
            if self.autoreset_mode == AutoresetMode.NEXT_STEP:
                return self._step_and_begin(actions, begins.copy())
        return self._step(actions)

    def _step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        self._positions = move(self._positions, actions, self.size)
        self._steps += 1
        on_goal = (self._positions == self.goals).all(axis=1)
        rewards = (on_goal & ~self._paid if self.reward_once else on_goal).astype(np.float64)
        self._paid |= on_goal
        terminated = on_goal if self.terminate_on_goal else np.zeros(self.num_envs, dtype=bool)
        truncated = self._steps >= self.horizon
        self._done = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            done = self._done.copy()
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(done):
                final[i] = self._positions[i].copy()
            infos = {"final_obs": final, "_final_obs": done, "final_info": {}, "_final_info": done}
            self._restart(done)
        return self._positions.copy(), rewards, terminated, truncated, infos

    def _step_and_begin(self, actions: np.ndarray, begins: np.ndarray) -> tuple:
        """A step in which the rooms `begins` ignore their action and start an episode instead."""
        _, rewards, terminated, truncated, infos = self._step(actions)
        self._restart(begins)
        rewards[begins], terminated[begins], truncated[begins] = 0.0, False, False
        return self._positions.copy(), rewards, terminated, truncated, infos

    @property
    def num_hypotheses(self) -> int:
        """H: the goals a room can have; hypothesis h is the cell (h // size, h % size)."""
        return self.size**2

    def optimal_actions(self, hypotheses: np.ndarray | None = None) -> np.ndarray:
        """The actions (K,) of the optimal policy now, knowing the goals or believing `hypotheses` (K,)."""
        goals = self.goals if hypotheses is None else np.stack(np.divmod(hypotheses, self.size), axis=1)
        return walk_towards(self._positions, goals)

    def consistent_hypotheses(self, rewards: np.ndarray) -> np.ndarray:
        """Which goals agree with the `rewards` (K,) of the step just taken: (K, H) bool.

        Asked before the rooms that ended are reset. A room that has already paid once says nothing by a 0.
        """
        here = np.arange(self.size**2) == (self._positions @ [self.size, 1])[:, None]  # (K, H)
        silent = (self._paid if self.reward_once else np.zeros_like(self._paid)) & (rewards == 0)
        return np.where(rewards[:, None] > 0, here, ~here | silent[:, None])

    def render(self) -> tuple[np.ndarray, ...] | None:
        """K pictures of the rooms from above, each (H, W, 3) uint8."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(draw(p, g, self.size) for p, g in zip(self._positions, self.goals, strict=True))

    def _restart(self, mask: np.ndarray) -> None:
        if self.start is None:
            draws = [self._generators[i].integers(self.size, size=2) for i in np.flatnonzero(mask)]
            self._positions[mask] = np.reshape(draws, (-1, 2))
        else:
            self._positions[mask] = self.start
        self._steps[mask], self._paid[mask], self._done[mask] = 0, False, False

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        """Seed the rooms of the mask as Gymnasium would, and draw their goals as `DarkRoomEnv` does."""
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"got {len(seeds)} seeds for {self.num_envs} rooms: give one for all or one for each"
            )
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._generators[i] = np.random.default_rng(seeds[i])
            if self._draws_goal and (seeds[i] is not None or self.goals[i, 0] < 0):
                self.goals[i] = self._generators[i].integers(self.size, size=2)


def draw(position: np.ndarray, goal: np.ndarray | None, size: int) -> np.ndarray:
    """The room from above, (size * CELL, size * CELL, 3) uint8; the goal is lit for the viewer only."""
    frame = np.full((size * CELL, size * CELL, 3), FLOOR, dtype=np.uint8)
    frame[::CELL], frame[:, ::CELL] = LINES, LINES

    def fill(cell: np.ndarray, margin: int, colour: tuple[int, int, int]) -> None:
        left, top = cell[0] * CELL, (size - 1 - cell[1]) * CELL
        frame[top + margin + 1 : top + CELL - margin, left + margin + 1 : left + CELL - margin] = colour

    if goal is not None:
        fill(goal, 2, GOAL)
    fill(position, 8, AGENT)
    return frame


def write(position: np.ndarray, goal: np.ndarray | None, size: int) -> str:
    """The room from above as text: `@` the agent, `G` the goal, `*` the agent on the goal."""
    cells = [["."] * size for _ in range(size)]
    if goal is not None:
        cells[goal[1]][goal[0]] = "G"
    x, y = position
    cells[y][x] = "*" if cells[y][x] == "G" else "@"
    return "\n".join(" ".join(row) for row in reversed(cells))


def dark_room_family(fold: int | None = None, seed: int = 0) -> TaskFamily:
    """The 81 goals of the 9x9 room: 65 to train on and 16 to test, or one of five folds.

    Args:
        fold: None for the 65/16 split, or 0 to 4: over the five folds every goal is tested once.
        seed: of the split or the folds.
    """
    return _goal_family("dark-room", "ad_hf/DarkRoom-v0", 9, 16, fold, seed)


def dark_room_hard_family(fold: int | None = None, seed: int = 0) -> TaskFamily:
    """The 289 goals of the 17x17 room that pays once: 231 to train on and 58 to test, or one of five folds.

    Args:
        fold: as in `dark_room_family`.
        seed: of the split or the folds.
    """
    return _goal_family("dark-room-hard", "ad_hf/DarkRoomHard-v0", 17, 58, fold, seed)


def _goal_family(name: str, env_id: str, size: int, num_test: int, fold: int | None, seed: int) -> TaskFamily:
    tasks = [Task(env_id, {"goal": [x, y]}) for x in range(size) for y in range(size)]
    return TaskFamily(name, split_tasks(tasks, num_test, seed, fold), {"fold": fold, "seed": seed})


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, but must be one whole number, at least 1")
    return int(value)


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool | np.bool):
        raise ValueError(f"{name} is {value!r}, but must be True or False, the same for all rooms")
    return bool(value)


def _cells(name: str, value: Sequence[Any], size: int, *shapes: tuple[int, ...]) -> np.ndarray:
    cells = np.asarray(value)
    if cells.shape not in shapes or cells.dtype.kind not in "iu" or cells.min() < 0 or cells.max() >= size:
        several = "".join(f", or {shape[0]} of them" for shape in shapes[1:])
        raise ValueError(f"{name} is {value!r}, but must be (x, y) with both from 0 to {size - 1}{several}")
    return cells.astype(np.int64)


def _start(start: Start, size: int) -> np.ndarray | None:
    """The fixed starting cell, or None where it is drawn."""
    if isinstance(start, str):
        if start not in ("center", "random"):
            raise ValueError(f"start is {start!r}, but must be 'center', 'random' or (x, y)")
        return None if start == "random" else np.full(2, size // 2)
    return _cells("start", start, size, (2,))
