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
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, get_type_hints

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


@dataclass(frozen=True)
class Within:
    """The numbers that a setting takes, noted on its type: from `least` to `most`, or from above `least`."""

    least: float
    most: float
    above: bool = False

    def check(self, name: str, value: Any, kind: type) -> None:
        """Refuse any other value of the setting `name`, whose type is `kind`.

        Raises:
            ValueError: if it is one.
        """
        is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        fits = is_number and self.least <= value <= self.most and not (self.above and value == self.least)
        if not fits:
            number = "a whole number" if kind is int else "a number"
            span = f"above {self.least:g} and at most" if self.above else f"from {self.least:g} to"
            raise ValueError(f"{name} is {value!r}, but must be {number} {span} {self.most:g}")


Share = Annotated[float, Within(0, 1)]
PositiveShare = Annotated[float, Within(0, 1, above=True)]
Weight = Annotated[float, Within(0, 1e6)]
Count = Annotated[int, Within(1, 10_000)]


class Source(Protocol):
    """The signature of every source; where the type of a setting notes what it may be, that is checked."""

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
        ValueError: if the source has no such setting, or a setting no such value.
    """
    source = load_source(name)
    parameters = list(inspect.signature(source).parameters.values())[3:]
    known = {parameter.name: parameter.default for parameter in parameters}
    types = get_type_hints(source, include_extras=True)
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"source {name!r} has no setting {key!r}: choose one of {sorted(known)}")
        for noted in getattr(types[key], "__metadata__", ()):
            noted.check(f"{key} of {name}", value, types[key].__origin__)
    return known | dict(settings)


def restart(envs: VectorEnv, observation: np.ndarray, done: np.ndarray) -> np.ndarray:
    """The observations to act on next: those of new episodes in the `done` rows (K,), the same elsewhere."""
    if not done.any():
        return observation
    return envs.reset(options={"reset_mask": done})[0]
