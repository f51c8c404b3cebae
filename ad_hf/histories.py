"""Learning histories: everything K learners experienced, from clumsy to skilled, in time order.

S = steps, E = episodes, N = histories. All are kept flat: history n owns a run of episodes, episode e a run
of steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from ad_hf.envs.lockstep import LockstepVectorEnv
from ad_hf.sources import load_source, resolve_settings
from ad_hf.tasks import Task, make_vec

STEPS = ("observation", "action", "reward", "expert_action")  # the arrays (S, ...)
EPISODES = ("final_observation", "terminated", "truncated")  # the arrays (E, ...)


@dataclass(frozen=True)
class Histories:
    """N learning histories as flat arrays.

    Args:
        observation: (S, ...) what the action was taken on, as recorded; `observations` is what was seen.
        action: (S, ...).
        reward: (S,) float32.
        final_observation: (E, ...) what the last action of the episode led to.
        terminated: (E,) bool.
        truncated: (E,) bool.
        episode_offsets: (E + 1,) episode e holds the steps `episode_offsets[e]` to `episode_offsets[e + 1]`.
        history_offsets: (N + 1,) the same for the episodes of history n.
        tasks: N, the task of each history.
        expert_action: (S, ...) what the optimal policy would have done; None where that was not recorded.
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
    expert_action: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.history_offsets) - 1

    def __repr__(self) -> str:
        return f"Histories({len(self)} histories, {self.num_episodes} episodes, {len(self.action)} steps)"

    @property
    def num_episodes(self) -> int:
        """E, summed over histories."""
        return len(self.episode_offsets) - 1

    @functools.cached_property
    def shortest_episode(self) -> int:
        """The steps of the shortest episode."""
        return int(np.diff(self.episode_offsets).min())

    @functools.cached_property
    def begins(self) -> np.ndarray:
        """(S,) bool: whether a step is an episode's first."""
        begins = np.zeros(len(self.action), dtype=bool)
        begins[self.episode_offsets[:-1]] = True
        return begins

    def episode_returns(self) -> np.ndarray:
        """(E,) float64: the sum of rewards of each episode."""
        return np.add.reduceat(self.reward, self.episode_offsets[:-1], dtype=np.float64)

    def return_matrix(self) -> np.ndarray:
        """(N, episodes) float64: returns by history and episode, cut to the shortest history."""
        shortest = int(np.diff(self.history_offsets).min())
        return self.episode_returns()[self.history_offsets[:-1, None] + np.arange(shortest)]


def concatenate(parts: Sequence[Histories]) -> Histories:
    """Histories one after another, as a copy.

    Raises:
        ValueError: if they hold different types or shapes.
    """
    flat: dict[str, Any] = {}
    for name in (*STEPS, *EPISODES):
        arrays = [getattr(part, name) for part in parts]
        kinds = sorted({"none" if a is None else f"{a.dtype}{list(a.shape[1:])}" for a in arrays})
        if len(kinds) > 1:
            raise ValueError(f"histories of one dataset hold different types of {name}: {', '.join(kinds)}")
        flat[name] = None if arrays[0] is None else np.concatenate(arrays)
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


def pick(histories: Histories, steps: Any, episodes: Any) -> dict[str, np.ndarray | None]:
    """Some steps and episodes of all flat arrays, as arguments of `Histories`; slices give views."""
    arrays = {name: (getattr(histories, name), steps) for name in STEPS}
    arrays |= {name: (getattr(histories, name), episodes) for name in EPISODES}
    return {name: None if values is None else values[which] for name, (values, which) in arrays.items()}


def without_first(histories: Histories, number: int) -> Histories:
    """All but the first histories, as views."""
    episode = histories.history_offsets[number]
    step = histories.episode_offsets[episode]
    kept: dict[str, Any] = pick(histories, slice(step, None), slice(episode, None))
    return Histories(
        **kept,
        episode_offsets=histories.episode_offsets[episode:] - step,
        history_offsets=histories.history_offsets[number:] - episode,
        tasks=histories.tasks[number:],
    )


def observations(histories: Histories, steps: np.ndarray) -> np.ndarray:
    """What was seen on these steps, (..., observation): pictures, where poses are recorded."""
    return seen(histories, histories.observation.take(steps, axis=0))


def seen(histories: Histories, recorded: np.ndarray) -> np.ndarray:
    """What was seen where this was recorded."""
    observe = _observer(histories.tasks[0])
    return recorded if observe is None else observe(recorded)


@functools.cache
def _observer(task: Task) -> Callable[[np.ndarray], np.ndarray] | None:
    """How what is recorded in a task's environment becomes what is seen there; None where it is the same.

    Where it is the same no environment is made: the tasks of a dataset are whatever its author wrote.
    """
    world: Any = gym.registry[task.env_id].vector_entry_point if task.env_id in gym.registry else None
    world = load_env_creator(world) if isinstance(world, str) else world
    envs: Any = make_vec([task]).unwrapped if hasattr(world, "observe_recorded") else None
    return None if envs is None else envs.observe_recorded


class _Column:
    """How K values of a space are kept: as small as they can be, once it is sure that they are of the space.

    Bounds of real numbers are not enforced; their environments often overstep them by rounding.

    Args:
        name: what they are, for messages.
        space: of one of them.
        num_envs: K.
        trusted: they need not be looked at.
    """

    def __init__(self, name: str, space: spaces.Space, num_envs: int, trusted: bool) -> None:
        self.name, self.space, self.dtype, self.trusted = name, space, smallest_dtype(space), trusted
        self.shape = (num_envs, *(space.shape or ()))
        if isinstance(space, spaces.Box):
            self.low, self.high = space.low, space.high
        else:
            sizes = getattr(space, "nvec", getattr(space, "n", None))
            self.low, self.high = space.start, space.start + sizes - 1  # type: ignore[attr-defined]

    def take(self, values: Any) -> np.ndarray:
        """A copy of `values` (K, ...)."""
        if self.trusted:
            return np.array(values, dtype=self.dtype, order="C")
        values = np.asarray(values)
        if self.dtype.kind == "f":
            kept = np.array(values, dtype=self.dtype, order="C")
            fits = kept.shape == self.shape and bool(np.isfinite(kept).all())
        else:
            fits = values.shape == self.shape and (
                (values.dtype == self.dtype and isinstance(self.space, spaces.Box))
                or bool(((values >= self.low) & (values <= self.high) & (values == np.trunc(values))).all())
            )
            kept = np.array(values, dtype=self.dtype, order="C") if fits else values
        if not fits:
            raise ValueError(f"{self.name} is {values!r}, but must be {self.shape[0]} values of {self.space}")
        return kept


class Recorder(VectorWrapper):
    """Keeps every step that an algorithm takes in a vector environment, whichever autoreset mode it has.

    With `NEXT_STEP` the step after an episode's end is a reset in disguise: its action was ignored, and it is
    not recorded. With `SAME_STEP` the observation after an episode's end is the next episode's, so the last
    one is taken from `infos["final_obs"]`. An episode that a reset cuts short is not recorded either.

    An environment may record less than it shows, for what it shows to be made again from that: a pose instead
    of a picture. It has a `recorded_space`, `recorded()`, the K poses now, and `observe_recorded(poses)`.

    Args:
        env: K environments.
        expert_actions: record what the optimal policy would have done as well; the environment has to have
            `optimal_actions()`.

    Raises:
        ValueError: if the environment does not know its optimal policy, or records poses and has the
            autoreset mode `SAME_STEP`, in which an episode's last pose is gone.
    """

    def __init__(self, env: VectorEnv, expert_actions: bool = False) -> None:
        super().__init__(env)
        world: Any = env.unwrapped
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._recorded = getattr(world, "recorded", None)
        if self._recorded is not None and self._mode == AutoresetMode.SAME_STEP:
            raise ValueError(f"{world} cannot be recorded with SAME_STEP: choose another autoreset mode")
        if expert_actions and not hasattr(world, "optimal_actions"):
            raise ValueError(
                f"expert actions need an environment with optimal_actions(), and {world} has none"
            )
        self._optimal_actions = world.optimal_actions if expert_actions else None
        self._observation: np.ndarray | None = None
        self._steps: list[tuple[Any, ...]] = []  # observation, action, reward, expert action of all rows
        # Of rows that ended together: which, from and up to which step, and their final observations,
        # terminated and truncated.
        self._episodes: list[tuple[np.ndarray, ...]] = []
        self._began = np.zeros(env.num_envs, dtype=np.int64)  # the first step of each row's episode
        observed = env.single_observation_space if self._recorded is None else world.recorded_space
        # Our own worlds are tested to keep to their spaces: to look at each step again costs a tenth.
        ours = isinstance(env, LockstepVectorEnv)
        self._kept_observation = _Column("observation", observed, env.num_envs, ours)
        self._kept_action = _Column("action", env.single_action_space, env.num_envs, ours)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Reset the rows of `options["reset_mask"]`, or all."""
        rows = (options or {}).get("reset_mask", slice(None))  # Gymnasium's own environments take it out
        observation, infos = self.env.reset(seed=seed, options=options)
        self._observation = self._to_record(observation)
        self._began[rows] = len(self._steps)
        return observation, infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Step and record.

        Raises:
            ValueError: if the environment returns what is not of its spaces, or rewards by no number.
        """
        expert = None if self._optimal_actions is None else self._kept_action.take(self._optimal_actions())
        action = self._kept_action.take(actions)
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        earned = np.array(reward, dtype=np.float32)
        if earned.shape != (self.num_envs,) or not np.isfinite(earned).all():
            raise ValueError(
                f"{self.env.unwrapped} rewards by {reward!r}, but must by {self.num_envs} finite numbers"
            )
        self._steps.append((self._observation, action, earned, expert))
        self._observation = self._to_record(observation)
        # Where a row restarts by itself in the next step, that step is not part of an episode.
        now, idle = len(self._steps), self._mode == AutoresetMode.NEXT_STEP
        rows = np.flatnonzero((terminated | truncated) & (self._began < now))
        if len(rows):
            led_to = self._observation[rows]
            if self._mode == AutoresetMode.SAME_STEP:
                led_to = np.stack(infos["final_obs"][rows]).astype(led_to.dtype)
            spans = self._began[rows], np.full(len(rows), now)
            self._episodes.append((rows, *spans, led_to, terminated[rows], truncated[rows]))
            self._began[rows] = now + idle
        return observation, reward, terminated, truncated, infos

    def _to_record(self, observation: np.ndarray) -> np.ndarray:
        return self._kept_observation.take(observation if self._recorded is None else self._recorded())

    def histories(self, tasks: Sequence[Task], num_episodes: int | None = None) -> Histories:
        """What has been recorded: the whole episodes of every row, or its first `num_episodes`.

        Args:
            tasks: the task of each row.
            num_episodes: episodes to keep of each row.

        Raises:
            ValueError: if a row has finished fewer episodes than asked for, or none, or `tasks` are not K.
        """
        K, T = self.num_envs, len(self._steps)
        if len(tasks) != K:
            raise ValueError(f"got {len(tasks)} tasks for {K} rows: give one for each")
        ended = [np.concatenate(column) for column in zip(*self._episodes, strict=True)]
        counts = np.bincount(ended[0], minlength=K) if ended else np.zeros(K, dtype=np.int64)
        keep = counts if num_episodes is None else np.full(K, num_episodes)
        if (counts < np.maximum(keep, 1)).any():
            asked = f"{num_episodes or 1} were asked for: ask for fewer or run longer"
            raise ValueError(f"a row finished {counts.min()} episodes, but {asked}")
        in_order = np.argsort(ended[0], kind="stable")
        in_order = in_order[runs(np.cumsum(counts) - counts, keep)]  # by row, then as they ended
        row, first, end, final_observation, terminated, truncated = (column[in_order] for column in ended)
        lengths = end - first
        every = lengths.sum() == K * T  # each step belongs to an episode that is kept
        steps = slice(None) if every else runs(row * T + first, lengths)
        columns: Any = (
            None if column[0] is None else _by_row(column)[steps] for column in zip(*self._steps, strict=True)
        )
        observation, action, reward, expert = columns
        return Histories(
            observation=observation,
            action=action,
            reward=reward,
            final_observation=final_observation,
            terminated=terminated,
            truncated=truncated,
            episode_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            history_offsets=np.concatenate([[0], np.cumsum(keep)]),
            tasks=tuple(tasks),
            expert_action=expert,
        )


def _by_row(column: Sequence[np.ndarray]) -> np.ndarray:
    """T arrays (K, ...) as one array (K * T, ...): the steps of the first row, then those of the second."""
    shape, dtype = column[0].shape, column[0].dtype
    # Moved as items of bytes, whatever is in them: NumPy would loop over components one step at a time.
    size = dtype.itemsize * math.prod(shape[1:])
    items = [values.reshape(len(values), -1).view(f"V{size}") for values in column]
    return np.concatenate(items, axis=1).reshape(-1).view(dtype).reshape(-1, *shape[1:])


def runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices start, start + 1, ... of runs of given lengths, one run after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def collect(
    tasks: Sequence[Task],
    source: str,
    num_episodes: int,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    expert_actions: bool = False,
) -> Histories:
    """Run one learner per task in lockstep and keep its whole learning history.

    Args:
        tasks: one per learner; a task may occur several times.
        source: a name in `ad_hf.sources.SOURCES`.
        num_episodes: episodes per history.
        seed: of the environments and the learners.
        settings: of the source, where they differ from its defaults.
        expert_actions: record what the optimal policy would have done as well.

    Raises:
        ValueError: if there is no such source or setting, the source cannot learn in that environment, or the
            environment does not know its optimal policy where that is to be recorded.
    """
    resolved = resolve_settings(source, settings or {})
    envs = Recorder(make_vec(tasks), expert_actions)
    world: Any = envs.unwrapped
    if hasattr(world, "recorded"):
        world.blank = True  # sources learn from the poses, and nothing else is recorded
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
