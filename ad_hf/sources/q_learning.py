"""Tabular Q-learning (Watkins 1989), K learners in lockstep.

K = learners, S = states, A = actions. A state is the index of a discrete observation, along with the number
of rewards so far in the episode where that is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ad_hf.sources import PositiveShare, Share, Within, restart


def q_learning(
    envs: VectorEnv,
    num_episodes: int,
    seed: int,
    learning_rate: Share = 0.5,
    discount: Share = 0.9,
    epsilon_start: Share = 1.0,
    epsilon_end: Share = 0.02,
    exploration: PositiveShare = 0.6,
    initial_value: Annotated[float, Within(-1e6, 1e6)] = 0.0,
    remember_rewards: Annotated[int, Within(0, 100)] = 0,
) -> None:
    """Learn with epsilon-greedy exploration that fades; ties are broken at random.

    Args:
        envs: K environments with discrete observations and actions, autoreset `DISABLED`.
        num_episodes: episodes per learner.
        seed: of the environments and the exploration.
        learning_rate: step size of the update.
        discount: per environment step; a truncated episode is bootstrapped, a terminated one is not.
        epsilon_start: probability of a random action in the first episode.
        epsilon_end: the same once exploration has ended.
        exploration: the share of the episodes over which epsilon falls, linearly.
        initial_value: of every entry of the table; above 0 it makes the learner try everything once.
        remember_rewards: the highest number of rewards, of the episode so far, that a state tells apart.
            Where a place pays once, position alone does not say what is still to be had: Key-to-Door, with
            two rewards, needs 2 and the room that pays once needs 1.

    Raises:
        ValueError: if observations or actions are not discrete.
    """
    num_states, state_of = _discrete_states(envs.single_observation_space)
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(f"tabular Q-learning needs a Discrete action space, got {envs.single_action_space}")
    K, A = envs.num_envs, int(envs.single_action_space.n)
    rng = np.random.default_rng(seed)
    memories = remember_rewards + 1
    # One row for each state of each learner. Here `take` costs a fifth of indexing, and `argmax` of `max`.
    table = np.full((K * num_states * memories, A), initial_value, dtype=np.float32)
    entries = table.reshape(-1)
    first_row = np.arange(K) * (num_states * memories)
    learners = np.arange(0, K * A, A)  # where in the values (K, A) of a step those of each learner begin
    num_paid = np.zeros(K, dtype=np.int64)

    def row_of(observation: np.ndarray) -> np.ndarray:  # (K,)
        return first_row + state_of(observation) * memories + num_paid

    row = row_of(envs.reset(seed=seed)[0])
    episode = np.zeros(K, dtype=np.int64)
    epsilon = np.full(K, epsilon_start)
    while episode.min() < num_episodes:
        values = table.take(row, axis=0)  # (K, A)
        # A tiny random number per entry breaks ties; an explorer's numbers are large enough to decide alone.
        scale = np.where(rng.random(K) < epsilon, 1e6, 1e-6)
        action = (values + rng.random((K, A), dtype=np.float32) * scale[:, None]).argmax(axis=1)
        observation, reward, terminated, truncated, _ = envs.step(action)
        num_paid = np.minimum(num_paid + (reward != 0), remember_rewards)
        next_row = row_of(observation)
        next_values = table.take(next_row, axis=0)
        best = next_values.take(learners + next_values.argmax(axis=1))
        target = reward + discount * ~terminated * best
        old = values.take(learners + action)
        entries[row * A + action] = old + learning_rate * (target - old)
        row, done = next_row, terminated | truncated
        if done.any():
            episode += done
            progress = np.minimum(episode / (exploration * num_episodes), 1)
            epsilon = epsilon_start + (epsilon_end - epsilon_start) * progress
            num_paid[done] = 0
            row = row_of(restart(envs, observation, done))


def _discrete_states(space: spaces.Space) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """The number of states of a discrete space, and the function from observations to states (K,)."""
    if isinstance(space, spaces.Discrete):
        return int(space.n), lambda observation: observation - space.start
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        start, sizes = space.start.tolist(), space.nvec.tolist()

        def state_of(observation: np.ndarray) -> np.ndarray:
            state = observation[:, 0] - start[0]
            for component in range(1, len(sizes)):
                state = state * sizes[component] + (observation[:, component] - start[component])
            return state

        return math.prod(sizes), state_of
    raise ValueError(f"tabular Q-learning needs Discrete or MultiDiscrete observations, got {space}")
