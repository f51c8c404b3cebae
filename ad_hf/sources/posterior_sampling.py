"""Posterior sampling (PSRL; Osband et al. 2013, arXiv 1306.0940) over the tasks an environment can be.

A strong explorer to compare with, or to distil: it knows every rule of the environment except which task it
is in, and takes all that is possible for equally likely. K = environments, H = hypotheses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from ad_hf.sources import restart


def posterior_sampling(
    envs: VectorEnv, num_episodes: int, seed: int, resample: str = "episode", afterwards: str = "stay"
) -> None:
    """Believe one hypothesis at a time, drawn from those not yet refuted, and act optimally for it.

    A reward where the hypothesis expected none ends the search at once: it refutes all that expected none.

    Args:
        envs: K environments with `num_hypotheses`, `optimal_actions(hypotheses)` and
            `consistent_hypotheses(rewards)`, autoreset `DISABLED`.
        num_episodes: episodes per row.
        seed: of the environments and the draws.
        resample: when a belief is drawn anew: "episode", as PSRL does, in every episode, and when rewarded;
            "refuted" as soon as it is refuted, so that no step is spent on what is known to be wrong.
        afterwards: what to do in an episode that can pay no more, in environments that say so by
            `nothing_left`: "stay" optimal for the belief; or "wander", all actions alike. What is distilled
            from the former may take where it stood still for where it was paid, and stand there for good.

    Raises:
        ValueError: if the environment does not say which hypotheses it has, or a setting is something else.
    """
    for name, value, choices in (
        ("resample", resample, ("episode", "refuted")),
        ("afterwards", afterwards, ("stay", "wander")),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, but must be {choices[0]!r} or {choices[1]!r}")
    world: Any = envs.unwrapped
    for needed in ["consistent_hypotheses()"] + ["nothing_left"] * (afterwards == "wander"):
        if not hasattr(world, needed.removesuffix("()")):
            raise ValueError(f"posterior sampling needs an environment with {needed}, and {world} has none")
    rng, wandering = (np.random.default_rng(key) for key in (seed, (seed, 1)))
    K = envs.num_envs
    rows = np.arange(K)
    possible: np.ndarray = np.ones((K, world.num_hypotheses), dtype=bool)
    envs.reset(seed=seed)
    believed = rng.integers(world.num_hypotheses, size=K)
    episodes = np.zeros(K, dtype=np.int64)
    while episodes.min() < num_episodes:
        action = world.optimal_actions(believed)
        if afterwards == "wander":
            anything = wandering.integers(world.single_action_space.n, size=K)
            action = np.where(world.nothing_left, anything, action)
        observation, reward, terminated, truncated, _ = envs.step(action)
        done = terminated | truncated
        possible &= world.consistent_hypotheses(reward)
        changes = done | (reward > 0) if resample == "episode" else ~possible[rows, believed]
        luck = rng.random(K)  # for all rows, so that none depends on how often others draw
        believed[changes] = _pick(possible[changes], luck[changes])
        episodes += done
        restart(envs, observation, done)


def _pick(possible: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """One of the possible hypotheses of each row of (R, H), all alike; `luck` (R,) is uniform in [0, 1)."""
    hypotheses = np.nonzero(possible)[1]  # those of the first row, then those of the second, ...
    counts = possible.sum(axis=1)
    return hypotheses[np.cumsum(counts) - counts + (luck * counts).astype(np.int64)]
