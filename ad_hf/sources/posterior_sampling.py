"""Posterior sampling (PSRL; Osband et al. 2013, arXiv 1306.0940) over the tasks an environment can be.

The strongest explorer there is to compare with, or to distil: it knows every rule of the environment except
which task it is in. K = environments, H = hypotheses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from ad_hf.sources import restart


def posterior_sampling(envs: VectorEnv, num_episodes: int, seed: int) -> None:
    """Believe one hypothesis per episode, drawn from those not yet refuted, and act optimally for it.

    A reward where the hypothesis expected none ends the search at once: from then on one hypothesis is left.

    Args:
        envs: K environments with `num_hypotheses`, `optimal_actions(hypotheses)` and
            `consistent_hypotheses(rewards)`, autoreset `DISABLED`.
        num_episodes: episodes per row.
        seed: of the environments and the draws.

    Raises:
        ValueError: if the environment does not say which hypotheses it has.
    """
    world: Any = envs.unwrapped
    if not hasattr(world, "consistent_hypotheses"):
        needed = "an environment with consistent_hypotheses()"
        raise ValueError(f"posterior sampling needs {needed}, and {world} has none")
    rng = np.random.default_rng(seed)
    possible: np.ndarray = np.ones((envs.num_envs, world.num_hypotheses), dtype=bool)

    def draw() -> np.ndarray:
        return (possible * rng.random(possible.shape)).argmax(axis=1)  # (K,), uniform over what is possible

    observation, _ = envs.reset(seed=seed)
    believed = draw()
    episodes = np.zeros(envs.num_envs, dtype=np.int64)
    while episodes.min() < num_episodes:
        observation, reward, terminated, truncated, _ = envs.step(world.optimal_actions(believed))
        done = terminated | truncated
        possible &= world.consistent_hypotheses(reward)
        changes = done | (reward > 0)
        if changes.any():
            believed = np.where(changes, draw(), believed)
        episodes += done
        restart(envs, observation, done)
