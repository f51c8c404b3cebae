"""Noise annealing: the optimal policy behind noise that fades, a learning history without a learner.

After Zisman et al. 2024 (AD-eps, arXiv 2312.12275). Held at 1 the noise makes a random agent, held at 0 the
optimum: the two lines that every learning curve is read against. Where it ends above 0, the demonstrator is
a suboptimal one, which is how AD-eps makes them too. K = environments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ad_hf.sources import PositiveShare, Share, restart


def noise(
    envs: VectorEnv,
    num_episodes: int,
    seed: int,
    epsilon_start: Share = 1.0,
    epsilon_end: Share = 0.0,
    annealing: PositiveShare = 1.0,
) -> None:
    """Act optimally, but at random with a probability that moves linearly from episode to episode.

    AD-eps moves it from step to step: within an episode, by one part in `num_episodes` of the way.

    Args:
        envs: K environments with an `optimal_actions()` method, autoreset `DISABLED`.
        num_episodes: episodes per row.
        seed: of the environments and the noise.
        epsilon_start: probability of a random action, uniform over all actions, in the first episode.
        epsilon_end: the same in the last episode. A history ends at half of the optimal return with 0.426 in
            Dark Room, 0.588 in Dark Room Hard and 0.830 in Dark Key-to-Door.
        annealing: the share of the episodes over which the probability moves; the others keep `epsilon_end`.
            AD-eps takes 0.9.

    Raises:
        ValueError: if the environment does not know its optimal policy, or its actions are not Discrete.
    """
    world: Any = envs.unwrapped
    if not hasattr(world, "optimal_actions"):
        raise ValueError(
            f"the noise source needs an environment with optimal_actions(), and {world} has none"
        )
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(f"the noise source needs a Discrete action space, got {envs.single_action_space}")
    rng = np.random.default_rng(seed)
    observation, _ = envs.reset(seed=seed)
    episode = np.zeros(envs.num_envs, dtype=np.int64)
    last_move = max(round(annealing * num_episodes) - 1, 1)  # the first episode at `epsilon_end`
    while episode.min() < num_episodes:
        progress = np.minimum(episode / last_move, 1.0)
        random_actions = rng.integers(envs.single_action_space.n, size=envs.num_envs)
        is_random = rng.random(envs.num_envs) < epsilon_start + (epsilon_end - epsilon_start) * progress
        action = np.where(is_random, random_actions, world.optimal_actions())
        observation, _, terminated, truncated, _ = envs.step(action)
        done = terminated | truncated
        episode += done
        restart(envs, observation, done)
