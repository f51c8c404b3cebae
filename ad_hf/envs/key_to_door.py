"""Dark Key-to-Door: find an invisible key, then an invisible door, and remember both.

K = rooms in a vector environment, C = cells of a room, H = tasks a room can have. Positions, moves and
drawings are those of Dark Room. Cell (x, y) has the number x * size + y, and the task with its key in cell k
and its door in cell d has the number k * C + d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from ad_hf.envs.dark_room import (
    AGENT,
    ARROWS,
    Start,
    at,
    cells,
    draw_room,
    move,
    start_cell,
    start_positions,
    walk_towards,
    write_room,
)
from ad_hf.envs.lockstep import LockstepVectorEnv, SingleEnv, at_least_one, flag
from ad_hf.tasks import Task, TaskFamily, split_tasks

KEY, DOOR = (246, 193, 80), (196, 96, 72)


class DarkKeyToDoorVectorEnv(LockstepVectorEnv):
    """K rooms with a key and a door that move in one line of NumPy.

    Args:
        num_envs: K.
        key: (x, y) of the key, or K of them. None draws one at the first reset and at every reset with a
            seed.
        door: the same of the door; it may lie where the key does.
        size: cells along each side; all rooms share it, and so they do the next four.
        horizon: steps after which an episode is truncated.
        start: "random" (uniform, drawn each episode), "center" or an (x, y).
        terminate_at_door: end the episode when the door is opened.
        door_pays_every_step: pay on every step spent at the door with the key instead of once per episode.
        render_mode: None or "rgb_array" (a tuple of K frames).
        autoreset_mode: any of Gymnasium's three.

    Attributes:
        keys: (K, 2), where the keys lie when an episode begins.
        doors: (K, 2).

    Raises:
        ValueError: if `key`, `door` or `start` lies outside the room, or a size or horizon is below 1.
    """

    def __init__(
        self,
        num_envs: int = 1,
        key: Sequence[Any] | None = None,
        door: Sequence[Any] | None = None,
        size: int = 9,
        horizon: int = 50,
        start: Start = "random",
        terminate_at_door: bool = False,
        door_pays_every_step: bool = False,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.size = at_least_one("size", size)
        super().__init__(
            num_envs, spaces.MultiDiscrete([size, size]), 5, horizon, render_mode, autoreset_mode
        )
        self.start = start_cell(start, size)
        self.terminate_at_door = flag("terminate_at_door", terminate_at_door)
        self.door_pays_every_step = flag("door_pays_every_step", door_pays_every_step)
        self.keys, self.doors = np.zeros((2, num_envs, 2), dtype=np.int64)
        self._drawn = []
        for name, given, places in (("key", key, self.keys), ("door", door, self.doors)):
            if given is None:
                self._drawn.append(places)
            else:
                places[:] = cells(name, given, size, (2,), (num_envs, 2))
        self._positions = np.zeros((num_envs, 2), dtype=np.int64)
        # With the key now, with the key before the last step, and whether the door has been opened.
        self._has_key, self._had_key, self._opened = np.zeros((3, num_envs), dtype=bool)

    def _draw_tasks(self, rows: np.ndarray) -> None:
        for row in rows:
            for places in self._drawn:
                places[row] = self.generators[row].integers(self.size, size=2)

    def _begin(self, rows: np.ndarray) -> None:
        self._positions[rows] = start_positions(self.start, self.size, self.generators, rows)
        self._has_key[rows] = self._had_key[rows] = self._opened[rows] = False

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._positions = move(self._positions, actions, self.size)
        takes = at(self._positions, self.keys) & ~self._has_key
        at_door = at(self._positions, self.doors) & self._has_key
        pays = at_door & ~self.nothing_left
        self._had_key = self._has_key
        self._has_key = self._has_key | takes
        self._opened = self._opened | at_door
        return (takes | pays).astype(np.float64), at_door & self.terminate_at_door

    def _observe(self) -> np.ndarray:
        return self._positions.copy()

    @property
    def num_hypotheses(self) -> int:
        """H = C * C: the pairs of a key's and a door's cell."""
        return self.size**4

    def optimal_actions(self, hypotheses: np.ndarray | None = None) -> np.ndarray:
        """The actions (K,) of the optimal policy now, knowing the tasks or believing `hypotheses` (K,).

        It walks to the key, then to the door, and stays there.
        """
        keys, doors = self.keys, self.doors
        if hypotheses is not None:
            keys, doors = (
                np.stack(np.divmod(cell, self.size), axis=1) for cell in np.divmod(hypotheses, self.size**2)
            )
        return walk_towards(self._positions, np.where(self._has_key[:, None], doors, keys))

    @property
    def nothing_left(self) -> np.ndarray:
        """In which rooms the door is open and pays no more, (K,) bool."""
        return self._opened & (not self.door_pays_every_step)

    def consistent_hypotheses(self, rewards: np.ndarray) -> np.ndarray:
        """Which tasks agree with the `rewards` (K,) of the step just taken: (K, H) bool.

        Asked before the rooms that ended are reset. Until the key is taken a step tells something about the
        key alone, with the key about the door alone, and once the door is open nothing that is not known.
        """
        here = np.arange(self.size**2) == (self._positions @ [self.size, 1])[:, None]  # (K, C)
        agrees = here == (rewards > 0)[:, None]  # what was looked for lies here if and only if it paid
        silent = self._opened & (rewards == 0)
        key = agrees | self._had_key[:, None]
        door = agrees | ~self._had_key[:, None] | silent[:, None]
        return (key[:, :, None] & door[:, None, :]).reshape(self.num_envs, -1)

    def picture(self, row: int) -> np.ndarray:
        """The room from above, (size * CELL, size * CELL, 3) uint8; key and door are lit for the viewer only.

        A key that has been taken is gone.
        """
        key = [] if self._has_key[row] else [(self.keys[row], 6, KEY)]
        return draw_room(self.size, [(self.doors[row], 2, DOOR), *key, (self._positions[row], 10, AGENT)])

    def text(self, row: int) -> str:
        """The room from above: `@` the agent, `K` the key until it is taken, `D` the door.

        `*` is the agent on one of them.
        """
        key = {} if self._has_key[row] else {"K": self.keys[row]}
        return write_room(self.size, self._positions[row], {"D": self.doors[row], **key})


class DarkKeyToDoorEnv(SingleEnv):
    """A dark square room with an invisible key and an invisible door (Laskin et al. 2022, section 4.1).

    The agent sees only where it is: neither key nor door, nor whether it carries the key.

    | | |
    |---|---|
    | Action space | `Discrete(5)`: 0 left, 1 right, 2 up, 3 down, 4 no-op; walls stop |
    | Observation space | `MultiDiscrete([size, size])`: x, y |
    | Reward | 1 for the step that takes the key, 1 for the first later step that ends at the door, else 0 |
    | Episode | truncated after `horizon` steps; no termination |
    | Start | uniform over the cells, drawn each episode |
    | Optimal return | 2.0 in all 6561 tasks of the 9x9 room |
    | Random return | 0.2513 on average over these tasks |

    A step pays at most 1: where key and door share a cell, which the paper leaves open, the door is opened by
    the next step that ends there. Then no blind walk earns more than (50 + 1225 / 81) / 81 = 0.804 in a first
    episode.

    Others play variants, which are options here: Zisman et al. 2024 (arXiv 2312.12275 and its code)
    `horizon=40` and `terminate_at_door=True` or `door_pays_every_step=True`, Schmied et al. 2024
    (arXiv 2410.07071) a fixed `start` in larger rooms. The arguments are those of `DarkKeyToDoorVectorEnv`.
    """

    metadata: dict[str, Any] = {**SingleEnv.metadata, "action_symbols": ARROWS}  # noqa: RUF012
    vector = DarkKeyToDoorVectorEnv


def dark_key_to_door_family(
    num_train: int = 2000,
    num_test: int = 256,
    fold: int | None = None,
    seed: int = 0,
    horizon: int = 50,
    terminate_at_door: bool = False,
) -> TaskFamily:
    """Of the 6561 tasks of the 9x9 room, 2000 to train on (Laskin et al. 2022) and 256 others to test.

    Args:
        num_train: training tasks. A smaller number takes some of those that a larger one takes.
        num_test: test tasks, where `fold` is None.
        fold: None, or 0 to 4 to hold out one of five parts instead: over the five every task is tested once.
        seed: of the split or the folds.
        horizon: of all tasks, as in `DarkKeyToDoorVectorEnv`, and so is the next.
        terminate_at_door: whether an episode ends there.

    Raises:
        ValueError: if there are not so many tasks, there is no such fold, or an option has no such value.
    """
    variant = {
        "horizon": at_least_one("horizon", horizon),
        "terminate_at_door": flag("terminate_at_door", terminate_at_door),
    }
    changed = {} if variant == {"horizon": 50, "terminate_at_door": False} else variant
    places = [[x, y] for x in range(9) for y in range(9)]
    tasks = [
        Task("ad_hf/DarkKeyToDoor-v0", {"key": key, "door": door, **changed})
        for key in places
        for door in places
    ]
    options = {"num_train": num_train, "num_test": num_test, "fold": fold, "seed": seed, **changed}
    return TaskFamily(
        "dark-key-to-door", split_tasks(tasks, num_test, seed, fold, num_train=num_train), options
    )
