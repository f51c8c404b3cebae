"""Dark Room: find an invisible goal in a square room, then come back to it faster.

K = rooms in a vector environment. A position is (x, y); x grows to the right, y upwards, from (0, 0) at the
lower left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from ad_hf.envs.lockstep import LockstepVectorEnv, SingleEnv, at_least_one, flag
from ad_hf.tasks import Task, TaskFamily, split_tasks

LEFT, RIGHT, UP, DOWN, NOOP = range(5)
MOVES = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]])
TOWARDS = np.array([DOWN, NOOP, UP, LEFT, NOOP, RIGHT])  # along y, along x
ARROWS = "←→↑↓·"  # the actions, for the eye
CELL = 32  # pixels of a cell's side in rgb_array frames
FLOOR, LINES, GOAL, AGENT = (24, 27, 38), (44, 49, 66), (246, 193, 80), (96, 196, 240)

Start = str | Sequence[int]


def move(positions: np.ndarray, actions: np.ndarray, size: int) -> np.ndarray:
    """Positions (..., 2) after one step; walls stop, they do not wrap."""
    return np.minimum(np.maximum(positions + MOVES.take(actions, axis=0), 0), size - 1)


def at(positions: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which positions (K, 2) are the places (K, 2); a tenth of the time of `all(axis=1)`."""
    same = positions == places
    return same[:, 0] & same[:, 1]


def walk_towards(positions: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """The optimal policy: actions (...) that walk to `goals` (..., 2), the longer way first, then stay."""
    x, y = np.moveaxis(goals - positions, -1, 0)
    along_x = np.abs(x) >= np.abs(y)
    towards = np.sign(np.where(along_x, x, y)) + 1  # 0, 1 or 2: back, stay, forth
    return TOWARDS.take(towards + 3 * along_x)


class DarkRoomVectorEnv(LockstepVectorEnv):
    """K dark rooms that move in one line of NumPy.

    Args:
        num_envs: K.
        goal: (x, y) of the goal, or K of them. None draws one at the first reset and at every reset with a
            seed.
        size: cells along each side; all rooms share it, and so they do the next four.
        horizon: steps after which an episode is truncated.
        start: "center", "random" (uniform, drawn each episode) or an (x, y).
        reward_once: pay the goal once per episode instead of on every step spent there.
        terminate_on_goal: end the episode when the goal is reached.
        render_mode: None or "rgb_array" (a tuple of K frames).
        autoreset_mode: any of Gymnasium's three.

    Raises:
        ValueError: if `goal` or `start` lies outside the room, or a size or horizon is below 1.
    """

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
        self.size = at_least_one("size", size)
        super().__init__(
            num_envs, spaces.MultiDiscrete([size, size]), 5, horizon, render_mode, autoreset_mode
        )
        self.start = start_cell(start, size)
        self.reward_once = flag("reward_once", reward_once)
        self.terminate_on_goal = flag("terminate_on_goal", terminate_on_goal)
        self._draws_goal = goal is None
        self.goals = np.zeros((num_envs, 2), dtype=np.int64)
        if goal is not None:
            self.goals[:] = cells("goal", goal, size, (2,), (num_envs, 2))
        self._positions = np.zeros((num_envs, 2), dtype=np.int64)
        self._paid = np.zeros(num_envs, dtype=bool)

    def _draw_tasks(self, rows: np.ndarray) -> None:
        if self._draws_goal:
            self.goals[rows] = [self.generators[row].integers(self.size, size=2) for row in rows]

    def _begin(self, rows: np.ndarray) -> None:
        self._positions[rows] = start_positions(self.start, self.size, self.generators, rows)
        self._paid[rows] = False

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._positions = move(self._positions, actions, self.size)
        on_goal = at(self._positions, self.goals)
        rewards = (on_goal & ~self.nothing_left).astype(np.float64)
        self._paid |= on_goal
        return rewards, on_goal & self.terminate_on_goal

    def _observe(self) -> np.ndarray:
        return self._positions.copy()

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
        silent = self.nothing_left & (rewards == 0)
        return np.where(rewards[:, None] > 0, here, ~here | silent[:, None])

    @property
    def nothing_left(self) -> np.ndarray:
        """Which rooms have paid and will not again, (K,) bool."""
        return self._paid & self.reward_once

    def picture(self, row: int) -> np.ndarray:
        """The room from above, (size * CELL, size * CELL, 3) uint8; the goal is lit for the viewer only."""
        return draw_room(self.size, [(self.goals[row], 2, GOAL), (self._positions[row], 8, AGENT)])

    def text(self, row: int) -> str:
        """The room from above: `@` the agent, `G` the goal, `*` the agent on the goal."""
        return write_room(self.size, self._positions[row], {"G": self.goals[row]})


class DarkRoomEnv(SingleEnv):
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

    `ad_hf/DarkRoomHard-v0` is the 17x17 room that pays once per episode. The arguments are those of
    `DarkRoomVectorEnv`.
    """

    metadata: dict[str, Any] = {**SingleEnv.metadata, "action_symbols": ARROWS}  # noqa: RUF012
    vector = DarkRoomVectorEnv


def draw_room(size: int, marks: Sequence[tuple[np.ndarray, int, Sequence[int]]]) -> np.ndarray:
    """A square room from above, (size * CELL, size * CELL, 3) uint8.

    Args:
        size: cells along each side.
        marks: cells to fill, as position, margin in pixels and colour; later ones lie on top.
    """
    frame = np.full((size * CELL, size * CELL, 3), FLOOR, dtype=np.uint8)
    frame[::CELL], frame[:, ::CELL] = LINES, LINES
    for cell, margin, colour in marks:
        left, top = cell[0] * CELL, (size - 1 - cell[1]) * CELL
        frame[top + margin + 1 : top + CELL - margin, left + margin + 1 : left + CELL - margin] = colour
    return frame


def write_room(size: int, position: np.ndarray, marks: Mapping[str, np.ndarray]) -> str:
    """A square room from above: `@` the agent, letters what lies in it, `*` the agent on one of these."""
    rows = [["."] * size for _ in range(size)]
    for letter, (x, y) in marks.items():
        rows[y][x] = letter
    x, y = position
    rows[y][x] = "@" if rows[y][x] == "." else "*"
    return "\n".join(" ".join(row) for row in reversed(rows))


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


def cells(name: str, value: Sequence[Any], size: int, *shapes: tuple[int, ...]) -> np.ndarray:
    """Cells (..., 2) of a square room.

    Args:
        name: of the argument, for messages.
        value: what it was given.
        size: cells along each side.
        shapes: those allowed, (2,) first.

    Raises:
        ValueError: if it is something else, or lies outside.
    """
    found = np.asarray(value)
    if found.shape not in shapes or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= size:
        several = "".join(f", or {shape[0]} of them" for shape in shapes[1:])
        raise ValueError(f"{name} is {value!r}, but must be (x, y) with both from 0 to {size - 1}{several}")
    return found.astype(np.int64)


def start_cell(start: Start, size: int) -> np.ndarray | None:
    """The fixed starting cell, or None where it is drawn.

    Raises:
        ValueError: if it is neither "center" nor "random" nor a cell of the room.
    """
    if isinstance(start, str):
        if start not in ("center", "random"):
            raise ValueError(f"start is {start!r}, but must be 'center', 'random' or (x, y)")
        return None if start == "random" else np.full(2, size // 2)
    return cells("start", start, size, (2,))


def start_positions(
    start: np.ndarray | None, size: int, generators: Mapping[int, np.random.Generator], rows: np.ndarray
) -> np.ndarray:
    """Where the episodes of these rows start, (rows, 2): as fixed, or each drawn by its own generator."""
    if start is not None:
        return np.broadcast_to(start, (len(rows), 2))
    return np.reshape([generators[row].integers(size, size=2) for row in rows], (-1, 2))
