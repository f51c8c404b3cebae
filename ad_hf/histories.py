"""Learning histories: everything K learners experienced, from clumsy to skilled, in time order.

S = steps, E = episodes, N = histories. All are kept flat: history n owns a run of episodes, episode e a run
of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from ad_hf.sources import load_source, resolve_settings
from ad_hf.tasks import Task, make_vec


@dataclass(frozen=True)
class Histories:
    """N learning histories as flat arrays.

    Args:
        observation: (S, ...) what the action was taken on.
        action: (S, ...).
        reward: (S,) float32.
        final_observation: (E, ...) what the last action of the episode led to.
        terminated: (E,) bool.
        truncated: (E,) bool.
        episode_offsets: (E + 1,) episode e holds the steps `episode_offsets[e]` to `episode_offsets[e + 1]`.
        history_offsets: (N + 1,) the same for the episodes of history n.
        tasks: N, the task of each history.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    final_observation: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode_offsets: np.ndarray
    history_offsets: np.ndarray
    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        return len(self.history_offsets) - 1

    def __repr__(self) -> str:
        return f"Histories({len(self)} histories, {self.num_episodes} episodes, {len(self.action)} steps)"

    @property
    def num_episodes(self) -> int:
        """E, summed over histories."""
        return len(self.episode_offsets) - 1

    def episode_returns(self) -> np.ndarray:
        """(E,) float64: the sum of rewards of each episode."""
        totals = np.concatenate([[0.0], np.cumsum(self.reward, dtype=np.float64)])
        return np.diff(totals[self.episode_offsets])

    def return_matrix(self) -> np.ndarray:
        """(N, episodes) float64: returns by history and episode, cut to the shortest history."""
        shortest = int(np.diff(self.history_offsets).min())
        return self.episode_returns()[self.history_offsets[:-1, None] + np.arange(shortest)]


def concatenate(parts: Sequence[Histories]) -> Histories:
    """Histories one after another, as a copy.

    Raises:
        ValueError: if they hold different types or shapes.
    """
    flat = {}
    for name in ("observation", "action", "reward", "final_observation", "terminated", "truncated"):
        arrays = [getattr(part, name) for part in parts]
        kinds = sorted({f"{array.dtype}{list(array.shape[1:])}" for array in arrays})
        if len(kinds) > 1:
            raise ValueError(f"histories of one dataset hold different types of {name}: {', '.join(kinds)}")
        flat[name] = np.concatenate(arrays)
    steps = np.cumsum([0, *(len(part.action) for part in parts)])
    episodes = np.cumsum([0, *(part.num_episodes for part in parts)])
    return Histories(
        **flat,
        episode_offsets=np.concatenate(
            [[0], *(part.episode_offsets[1:] + first for part, first in zip(parts, steps, strict=False))]
        ),
        history_offsets=np.concatenate(
            [[0], *(part.history_offsets[1:] + first for part, first in zip(parts, episodes, strict=False))]
        ),
        tasks=tuple(task for part in parts for task in part.tasks),
    )


def without_first(histories: Histories, number: int) -> Histories:
    """All but the first histories, as views."""
    episode = histories.history_offsets[number]
    step = histories.episode_offsets[episode]
    return Histories(
        observation=histories.observation[step:],
        action=histories.action[step:],
        reward=histories.reward[step:],
        final_observation=histories.final_observation[episode:],
        terminated=histories.terminated[episode:],
        truncated=histories.truncated[episode:],
        episode_offsets=histories.episode_offsets[episode:] - step,
        history_offsets=histories.history_offsets[number:] - episode,
        tasks=histories.tasks[number:],
    )


class Recorder(VectorWrapper):
    """Keeps every step that an algorithm takes in a vector environment, whichever autoreset mode it has.

    With `NEXT_STEP` the step after an episode's end is a reset in disguise: its action was ignored, and it is
    not recorded. With `SAME_STEP` the observation after an episode's end is the next episode's, so the last
    one is taken from `infos["final_obs"]`. An episode that a reset cuts short is not recorded either.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._observation: np.ndarray | None = None
        self._ended = np.zeros(env.num_envs, dtype=bool)
        self._steps: list[tuple[Any, ...]] = []
        self._dtype = smallest_dtype(env.single_observation_space), smallest_dtype(env.single_action_space)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Reset the rows of `options["reset_mask"]`, or all."""
        rows = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        observation, infos = self.env.reset(seed=seed, options=options)
        self._observation = np.array(observation, dtype=self._dtype[0])
        self._ended &= ~rows
        self._forget_unfinished(rows)
        return observation, infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Step and record."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        led_to = seen = np.array(observation, dtype=self._dtype[0])
        done = terminated | truncated
        if self._mode == AutoresetMode.SAME_STEP and done.any():
            led_to = seen.copy()
            led_to[done] = np.stack(infos["final_obs"][done])
        real = ~self._ended if self._mode == AutoresetMode.NEXT_STEP else np.ones(self.num_envs, dtype=bool)
        action = np.array(actions, dtype=self._dtype[1])
        self._steps.append((self._observation, action, reward, led_to, terminated, truncated, real))
        self._observation, self._ended = seen, done
        return observation, reward, terminated, truncated, infos

    def _forget_unfinished(self, rows: np.ndarray) -> None:
        """Mark the steps since the last episode's end as not real in the `rows` (K,) that are being reset."""
        for *_, terminated, truncated, real in reversed(self._steps):
            rows &= ~(terminated | truncated)
            if not rows.any():
                return
            real &= ~rows

    def histories(self, tasks: Sequence[Task], num_episodes: int | None = None) -> Histories:
        """What has been recorded: the whole episodes of every row, or its first `num_episodes`.

        Args:
            tasks: the task of each row.
            num_episodes: episodes to keep of each row.

        Raises:
            ValueError: if a row has finished fewer episodes than asked for, or none, or `tasks` are not K.
        """
        if len(tasks) != self.num_envs:
            raise ValueError(f"got {len(tasks)} tasks for {self.num_envs} rows: give one for each")
        columns = (np.stack(column, 1) for column in zip(*self._steps, strict=True))
        observation, action, reward, led_to, terminated, truncated, real = columns
        done = (terminated | truncated) & real  # (K, steps)
        counts = done.sum(axis=1)
        keep = counts if num_episodes is None else np.full_like(counts, num_episodes)
        if (counts < np.maximum(keep, 1)).any():
            asked = f"{num_episodes or 1} were asked for: ask for fewer or run longer"
            raise ValueError(f"a row finished {counts.min()} episodes, but {asked}")
        kept = real & (np.cumsum(done, axis=1) - done < keep[:, None])
        ends = done & kept
        lengths = np.diff(np.flatnonzero(ends[kept]), prepend=-1)
        return Histories(
            observation=observation[kept],
            action=action[kept],
            reward=reward[kept].astype(np.float32),
            final_observation=led_to[ends],
            terminated=terminated[ends],
            truncated=truncated[ends],
            episode_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            history_offsets=np.concatenate([[0], np.cumsum(keep)]),
            tasks=tuple(tasks),
        )


def collect(
    tasks: Sequence[Task],
    source: str,
    num_episodes: int,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Histories:
    """Run one learner per task in lockstep and keep its whole learning history.

    Args:
        tasks: one per learner; a task may occur several times.
        source: a name in `ad_hf.sources.SOURCES`.
        num_episodes: episodes per history.
        seed: of the environments and the learners.
        settings: of the source, where they differ from its defaults.

    Raises:
        ValueError: if there is no such source or setting, or the source cannot learn in that environment.
    """
    resolved = resolve_settings(source, settings or {})
    envs = Recorder(make_vec(tasks))
    load_source(source)(envs, num_episodes, seed, **resolved)
    return envs.histories(tasks, num_episodes)


def smallest_dtype(space: spaces.Space) -> np.dtype:
    """The smallest type that holds every value of a space; floats stay at most float32."""
    if isinstance(space, spaces.Discrete):
        return _smallest_integer(int(space.start), int(space.start + space.n - 1))
    if isinstance(space, spaces.MultiDiscrete):
        return _smallest_integer(int(space.start.min()), int((space.start + space.nvec - 1).max()))
    if isinstance(space, spaces.Box):
        return np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)
    raise ValueError(f"histories hold Discrete, MultiDiscrete and Box spaces, not {space}")


def _smallest_integer(low: int, high: int) -> np.dtype:
    # A signed type that holds -1 - high also holds high.
    return np.min_scalar_type(high if low >= 0 else min(low, -1 - high))
