"""Sources: the reinforcement-learning algorithms whose learning histories are distilled.

A source is one function `source(envs, num_episodes, seed, **settings)` that runs K learners in lockstep, one
per row of a Gymnasium vector environment with autoreset `DISABLED`, until each has finished `num_episodes`
episodes. It returns nothing: `ad_hf.histories.Recorder` around the environments keeps everything that
happened.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv

SOURCES: dict[str, str] = {  # name -> "module:function"
    "q-learning": "ad_hf.sources.q_learning:q_learning",
    "a2c": "ad_hf.sources.a2c:a2c",
    "dqn": "ad_hf.sources.dqn:dqn",
    "ucb": "ad_hf.sources.bandits:ucb",
    "thompson": "ad_hf.sources.bandits:thompson",
    "epsilon-greedy": "ad_hf.sources.bandits:epsilon_greedy",
    "noise": "ad_hf.sources.noise:noise",
    "posterior-sampling": "ad_hf.sources.posterior_sampling:posterior_sampling",
}


class Source(Protocol):
    """The signature of every source."""

    def __call__(self, envs: VectorEnv, num_episodes: int, seed: int, **settings: Any) -> None:
        """Learn in every row of `envs` until each has finished `num_episodes` episodes."""


def load_source(name: str) -> Source:
    """The source function of that name.

    Raises:
        ValueError: if there is no such source.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: choose one of {sorted(SOURCES)}")
    module, function = SOURCES[name].split(":")
    return getattr(importlib.import_module(module), function)


def resolve_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a source with their values: its defaults, overridden by `settings`.

    Raises:
        ValueError: if the source has no such setting.
    """
    parameters = list(inspect.signature(load_source(name)).parameters.values())[3:]
    known = {parameter.name: parameter.default for parameter in parameters}
    for key in settings:
        if key not in known:
            raise ValueError(f"source {name!r} has no setting {key!r}: choose one of {sorted(known)}")
    return known | dict(settings)


def restart(envs: VectorEnv, observation: np.ndarray, done: np.ndarray) -> np.ndarray:
    """The observations to act on next: those of new episodes in the `done` rows (K,), the same elsewhere."""
    if not done.any():
        return observation
    return envs.reset(options={"reset_mask": done})[0]
