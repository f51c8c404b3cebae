"""Worlds in lockstep: Gymnasium's vector contract, once for all environments here.

K = worlds in a vector environment. A world says in array operations how an episode begins and how a step
goes; seeds, masks, time limits and the three ways to restart an episode are the same for all of them. A
single environment is one row of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

MOST = 10_000_000  # worlds, steps, cells of a side or tasks


class LockstepVectorEnv(VectorEnv):
    """K worlds that move together; row i equals a single environment with its seed, step for step.

    A subclass implements `_draw_tasks`, `_begin`, `_advance` and `_observe`, and `picture` and `text` for the
    eye.

    Args:
        num_envs: K.
        observation_space: of one world.
        num_actions: A; actions are 0 to A - 1.
        horizon: steps after which an episode is truncated, or terminated in worlds that say so.
        render_mode: None or "rgb_array" (a tuple of K frames).
        autoreset_mode: any of Gymnasium's three.

    Attributes:
        generators: of each row, from its first reset on. What a world draws comes from its own.
        terminates_at_horizon: whether the horizon is the world's own end, with nothing behind it.

    Raises:
        ValueError: if a number is below 1.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012
    terminates_at_horizon: ClassVar[bool] = False

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space,
        num_actions: int,
        horizon: int,
        render_mode: str | None,
        autoreset_mode: str | AutoresetMode,
    ) -> None:
        self.num_envs, self.horizon = at_least_one("num_envs", num_envs), at_least_one("horizon", horizon)
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = observation_space
        self.single_action_space = spaces.Discrete(num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators: dict[int, np.random.Generator] = {}
        self._has_task = np.zeros(num_envs, dtype=bool)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=bool)

    def _draw_tasks(self, rows: np.ndarray) -> None:
        """Draw the tasks of these rows, where the constructor was given none; their generators are seeded."""

    def _begin(self, rows: np.ndarray) -> None:
        """Bring these rows to the start of an episode."""
        raise NotImplementedError

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move all rows by one step; rewards (K,) float64 and which have terminated, (K,) bool.

        Rows in `self._done` restart instead: what is returned for them is dropped, and their generators must
        stay where they are.
        """
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """What all rows see now, (K, ...), as an array of its own."""
        raise NotImplementedError

    @property
    def nothing_left(self) -> np.ndarray:
        """In which worlds no action can earn anything any more in this episode, (K,) bool."""
        return np.zeros(self.num_envs, dtype=bool)

    def picture(self, row: int) -> np.ndarray:
        """A world for the eye, (H, W, 3) uint8."""
        raise NotImplementedError

    def text(self, row: int) -> str:
        """The same as a block of text."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start an episode in every row, or in those of `options["reset_mask"]`, a (K,) bool array.

        A task that the constructor was not given is drawn at a row's first reset, and at every one with a
        seed.
        """
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask is {mask!r}, but must be {self.num_envs} values, True or False")
        draws = mask & ~self._has_task
        if seed is not None:
            draws |= self._seed(seed, mask)
        if draws.any():
            rows = np.flatnonzero(draws)
            for row in rows.tolist():
                if row not in self.generators:
                    self.generators[row] = np.random.default_rng()
            self._draw_tasks(rows)
            self._has_task |= draws
        self._restart(mask)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Move all rows by one step; `actions` is (K,)."""
        actions, last = np.asarray(actions), int(self.single_action_space.n) - 1  # type: ignore[attr-defined]
        fits = actions.shape == (self.num_envs,) and actions.dtype.kind in "iu"
        if not fits or actions.min() < 0 or actions.max() > last:
            raise ValueError(f"actions must be {self.num_envs} integers from 0 to {last}, got {actions!r}")
        begins = self._done
        if begins.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            rows = np.flatnonzero(begins).tolist()
            way_out = "reset them with options={'reset_mask': done} first"
            raise ValueError(f"the episodes of rows {rows} have ended: {way_out}")
        rewards, terminated = self._advance(actions)
        self._steps += 1
        truncated = self._steps >= self.horizon
        if self.terminates_at_horizon:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        if begins.any() and self.autoreset_mode == AutoresetMode.NEXT_STEP:
            # These rows ignore their action and start an episode instead.
            self._restart(begins)
            rewards[begins], terminated[begins], truncated[begins] = 0.0, False, False
        self._done = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            done, last_seen = self._done.copy(), self._observe()
            final = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(done):
                final[row] = last_seen[row].copy()
            infos = {"final_obs": final, "_final_obs": done, "final_info": {}, "_final_info": done}
            self._restart(done)
        return self._observe(), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """K pictures, each (H, W, 3) uint8."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(self.picture(row) for row in range(self.num_envs))

    def _restart(self, mask: np.ndarray) -> None:
        self._begin(np.flatnonzero(mask))
        self._steps[mask] = 0
        self._done = self._done & ~mask

    def _seed(self, seed: int | Sequence[int | None], mask: np.ndarray) -> np.ndarray:
        """Seed the rows of the mask as Gymnasium would; which ones were given a seed, (K,) bool."""
        if isinstance(seed, int | np.integer):
            seeds: list[int | None] = [int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"got {len(seeds)} seeds for {self.num_envs} rows: give one for all or one for each"
            )
        seeded = mask & np.array([number is not None for number in seeds])
        for row in np.flatnonzero(seeded).tolist():
            self.generators[row] = np.random.default_rng(seeds[row])
        return seeded


class SingleEnv(gym.Env):
    """One row of a `LockstepVectorEnv` as an environment of its own, with the same arguments.

    Args:
        render_mode: None, "rgb_array" or "ansi".
        params: arguments of the vector environment.

    Attributes:
        world: the vector environment of one row.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}  # noqa: RUF012
    vector: ClassVar[type[LockstepVectorEnv]]  # what it is a row of

    def __init__(self, render_mode: str | None = None, **params: Any) -> None:
        self.world: Any = self.vector(num_envs=1, autoreset_mode=AutoresetMode.DISABLED, **params)
        self.render_mode = render_mode
        self.observation_space = self.world.single_observation_space
        self.action_space = self.world.single_action_space
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start an episode; a task that the constructor was not given is drawn as in the vector."""
        super().reset(seed=seed)
        observation, info = self.world.reset(seed=seed)
        if seed is not None:
            self._np_random = self.world.generators[0]
        self._ended = False
        return observation[0], info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move by one step."""
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}, but must be one of {self.action_space}")
        if self._ended:
            raise ValueError("the episode has ended: call reset() first")
        observation, rewards, terminated, truncated, info = self.world.step(np.array([action]))
        self._ended = bool(terminated[0] | truncated[0])
        return observation[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def optimal_action(self) -> int:
        """The action that the optimal policy, which knows the task, takes now."""
        return int(self.world.optimal_actions()[0])

    def render(self) -> np.ndarray | str | None:
        """A picture (H, W, 3) uint8 or a block of text, as `render_mode` says."""
        views = {"rgb_array": self.world.picture, "ansi": self.world.text}
        return views[self.render_mode](0) if self.render_mode in views else None


def at_least_one(name: str, value: int) -> int:
    """A whole number above 0, and not so large that it can only be a mistake.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise ValueError(f"{name} is {value!r}, but must be one whole number, at least 1 and at most {MOST}")
    return int(value)


def flag(name: str, value: bool) -> bool:
    """A setting that is on or off.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(value, bool | np.bool):
        raise ValueError(f"{name} is {value!r}, but must be True or False, the same for all rows")
    return bool(value)
