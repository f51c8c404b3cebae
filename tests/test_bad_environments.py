"""Bad environments and arrays: what breaks its own promises is neither recorded nor acted on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ad_hf.histories import Recorder
from ad_hf.models import ADConfig, ADModel
from ad_hf.tasks import Task, TaskFamily, make_vec

K = 3  # environments
GRID = spaces.MultiDiscrete([9, 9])


class Promising(VectorEnv):
    """K environments that promise spaces, and return on every step whatever they are told to."""

    def __init__(
        self,
        space: spaces.Space = GRID,
        actions: spaces.Space = spaces.Discrete(5),  # noqa: B008
        **returned: Any,
    ) -> None:
        self.num_envs, self.returned = K, returned
        self.single_observation_space, self.single_action_space = space, actions
        self.observation_space, self.action_space = batch_space(space, K), batch_space(actions, K)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.first = np.zeros((K, *space.shape), dtype=space.dtype)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict]:
        return self.returned.get("first", self.first), {}

    def step(self, actions: np.ndarray) -> Any:
        never = np.zeros(K, dtype=bool)
        observation = self.returned.get("observation", self.first)
        return observation, self.returned.get("reward", np.zeros(K)), never, never, {}


def with_one(value: Any, kind: Any = np.int64) -> np.ndarray:
    """Observations of a grid of which one is another."""
    observation = np.zeros((K, 2), dtype=kind)
    observation[1, 0] = value
    return observation


VECTOR = spaces.Box(-1, 1, (2,), np.float32)
PICTURE = spaces.Box(0, 255, (32, 32, 3), np.uint8)
OF_GRID = "must be 3 values of MultiDiscrete([9 9])"
REWARDS = "must by 3 finite numbers"
# What an environment returns -> what the recorder says of it.
RECORDED: dict[str, tuple[dict[str, Any], str, str]] = {
    "reward NaN": ({"reward": np.array([0, np.nan, 0])}, "nan", REWARDS),
    "reward infinite": ({"reward": np.array([0, np.inf, 0])}, "inf", REWARDS),
    "reward too large for float32": ({"reward": np.array([0, 1e300, 0])}, "1.e+300", REWARDS),
    "one reward for all": ({"reward": np.array([1.0])}, "array([1.])", REWARDS),
    "a number for a reward": ({"reward": 1.0}, "1.0", REWARDS),
    "rewards in a column": ({"reward": np.ones((K, 1))}, "[1.]", REWARDS),
    "a cell outside": ({"observation": with_one(9)}, "9", OF_GRID),
    "a cell below 0": ({"observation": with_one(-1)}, "-1", OF_GRID),
    "a cell that would wrap around": ({"observation": with_one(256)}, "256", OF_GRID),
    "half a cell": ({"observation": with_one(0.5, np.float64)}, "0.5", OF_GRID),
    "no cell": ({"observation": with_one(np.nan, np.float64)}, "nan", OF_GRID),
    "cells of three": ({"observation": np.zeros((K, 3), np.int64)}, "[0, 0, 0]", OF_GRID),
    "one cell for all": ({"observation": np.zeros(2, np.int64)}, "array([0, 0])", OF_GRID),
    "a row less": ({"observation": np.zeros((K - 1, 2), np.int64)}, "[0, 0]", OF_GRID),
    "a first cell outside": ({"first": with_one(9)}, "9", OF_GRID),
    "a number too high": (
        {"space": spaces.Discrete(4), "observation": np.array([0, 4, 0])},
        "4",
        "must be 3 values of Discrete(4)",
    ),
    "a number too low": (
        {"space": spaces.Discrete(4, start=-2), "observation": np.array([0, -3, 0])},
        "-3",
        "must be 3 values of Discrete(4, start=-2)",
    ),
    "a vector of NaN": (
        {"space": VECTOR, "observation": with_one(np.nan, np.float32)},
        "nan",
        "values of Box(",
    ),
    "an infinite vector": (
        {"space": VECTOR, "observation": with_one(np.inf, np.float32)},
        "inf",
        "values of Box(",
    ),
    "a vector of three": (
        {"space": VECTOR, "observation": np.zeros((K, 3))},
        "[0., 0., 0.]",
        "values of Box(",
    ),
    "a picture from 0 to 1": (
        {"space": PICTURE, "observation": np.full((K, 32, 32, 3), 0.5)},
        "0.5",
        "values of Box(0, 255, (32, 32, 3), uint8)",
    ),
    "a picture too bright": (
        {"space": PICTURE, "observation": np.full((K, 32, 32, 3), 300)},
        "300",
        "values of Box(0, 255, (32, 32, 3), uint8)",
    ),
    "a picture too small": (
        {"space": PICTURE, "observation": np.zeros((K, 16, 32, 3), np.uint8)},
        "0",
        "values of Box(0, 255, (32, 32, 3), uint8)",
    ),
}
OF_ACTIONS = "must be 3 values of Discrete(5)"
ACTIONS: dict[str, Any] = {
    "too high": np.array([0, 5, 0]),
    "too low": np.array([0, -1, 0]),
    "halves": np.array([0, 0.5, 0]),
    "NaN": np.array([0, np.nan, 0]),
    "one for all": np.array([0]),
    "a number": 0,
    "columns": np.zeros((K, 1), dtype=np.int64),
}


def told(function: Callable[[], Any]) -> str:
    """What the ValueError says."""
    with pytest.raises(ValueError, match=r".") as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize("promise", RECORDED)
def test_what_breaks_a_promise_is_not_recorded(promise: str) -> None:
    returned, said, way_out = RECORDED[promise]
    envs = Recorder(Promising(**returned))

    def play() -> None:
        envs.reset()
        envs.step(np.zeros(K, dtype=np.int64))

    line = told(play)
    assert said in line
    assert way_out in line


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_that_are_none_are_neither_recorded_nor_taken(kind: str) -> None:
    envs = Recorder(Promising())
    envs.reset()
    assert OF_ACTIONS in told(lambda: envs.step(ACTIONS[kind]))
    ours = make_vec([Task("ad_hf/DarkRoom-v0", {"goal": [1, 1]})] * K)
    ours.reset(seed=0)
    assert "actions must be 3 integers from 0 to 4" in told(lambda: ours.step(ACTIONS[kind]))


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Dict({"x": GRID}), spaces.Discrete(5)),
        (spaces.Text(3), spaces.Discrete(5)),
        (GRID, spaces.MultiBinary(2)),
    ],
)
def test_spaces_that_histories_cannot_hold_are_named(space: spaces.Space, actions: spaces.Space) -> None:
    envs = Promising()
    envs.single_observation_space, envs.single_action_space = space, actions
    line = told(lambda: Recorder(envs))
    assert "histories hold Discrete, MultiDiscrete and Box spaces, not " in line
    assert str(actions if space is GRID else space) in line


class Broken(gym.Env):
    """Raises where it is told to."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, where: str) -> None:
        self.where = where

    def reset(self, **kwargs: Any) -> tuple[int, dict]:
        if self.where == "reset":
            raise OverflowError("the user's own")
        return 0, {}

    def step(self, action: int) -> Any:
        raise OverflowError("the user's own")


@pytest.mark.parametrize("where", ["reset", "step"])
def test_what_an_environment_raises_reaches_its_author_as_it_is(where: str) -> None:
    envs = Recorder(gym.vector.SyncVectorEnv([lambda: Broken(where)] * 2))
    model = small_model(
        observation_space={"type": "Discrete", "n": 2}, action_space={"type": "Discrete", "n": 2}
    )
    with pytest.raises(OverflowError, match="the user's own"):
        model.generate(envs, num_episodes=1)


# The model


def small_model(**changes: Any) -> ADModel:
    torch.manual_seed(0)
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    return ADModel(ADConfig(context_length=10, decoder=decoder, **changes)).eval()


SEES = "sees whole numbers from 0 up to, not including, [9, 9]"
SHAPE = "but must have (3, 2)"
FLAGS = "must be (3,) values, True or False"
NUMBERS = "must be (3,) finite numbers"
NOTHING = np.zeros((K, 2), dtype=np.int64)
# Arguments of `act` -> what is said of them.
ACTED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an observation for all": ({"observation": NOTHING[0]}, "shape (2,)", SHAPE),
    "a row for all": ({"observation": NOTHING[:1]}, "shape (1, 2)", SHAPE),
    "three components": ({"observation": np.zeros((K, 3))}, "shape (3, 3)", SHAPE),
    "a time axis": ({"observation": NOTHING[:, None]}, "shape (3, 1, 2)", SHAPE),
    "a cell outside": ({"observation": with_one(9)}, "from 0 to 9", SEES),
    "a cell below 0": ({"observation": with_one(-1)}, "from -1 to 0", SEES),
    "half a cell": ({"observation": with_one(0.5, np.float64)}, "from 0.0 to 0.5", SEES),
    "NaN": ({"observation": with_one(np.nan, np.float64)}, "nan", SEES),
    "one reward": ({"reward": [1.0]}, "[1.0]", NUMBERS),
    "a reward": ({"reward": 1.0}, "1.0", NUMBERS),
    "rewards in a column": ({"reward": np.ones((K, 1))}, "[1.0]", NUMBERS),
    "reward NaN": ({"reward": [0.0, np.nan, 0.0]}, "nan", NUMBERS),
    "reward infinite": ({"reward": [0.0, np.inf, 0.0]}, "inf", NUMBERS),
    "one beginning": ({"episode_start": [True]}, "(1,)", FLAGS),
    "beginnings of numbers": ({"episode_start": [1.0, 0.0, 0.0]}, "torch.float32", FLAGS),
    "one that rests": ({"active": torch.tensor([False])}, "(1,)", FLAGS),
    "resting by numbers": ({"active": torch.tensor([1, 0, 1])}, "torch.int64", FLAGS),
}


@pytest.mark.parametrize("kind", ACTED)
def test_what_does_not_fit_is_not_acted_on(kind: str) -> None:
    arguments, said, way_out = ACTED[kind]
    model = small_model()
    context = model.start(K)
    line = told(lambda: model.act(context, **{"observation": NOTHING, **arguments}))
    assert said in line
    assert way_out in line
    assert context.length == 0  # nothing of it is remembered


def prompt(**changes: Any) -> dict[str, torch.Tensor]:
    whole = {
        "observation": torch.zeros(1, 4, 2, dtype=torch.long),
        "action": torch.zeros(1, 4, dtype=torch.long),
        "reward": torch.zeros(1, 4),
        "episode_start": torch.tensor([[True, False, False, False]]),
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


PROMPTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no rewards": (prompt(reward=None), "lacks reward", "give observation, action, reward, episode_start"),
    "no rows": (prompt(action=torch.zeros(4, dtype=torch.long)), "(4,)", "each transition of each row"),
    "no transitions": (prompt(action=torch.zeros(1, 0, dtype=torch.long)), "(1, 0)", "each transition"),
    "actions of halves": (prompt(action=torch.full((1, 4), 0.5)), "torch.float32", "must be whole numbers"),
    "an action too high": (prompt(action=torch.full((1, 4), 5)), "from 5 to 5", "acts by 0 to 4"),
    "an action too low": (prompt(action=torch.full((1, 4), -1)), "from -1 to -1", "acts by 0 to 4"),
    "two rows": (prompt(action=torch.zeros(2, 4, dtype=torch.long)), "has 2 rows", "give 1 or 3"),
    "a reward less": (prompt(reward=torch.zeros(1, 3)), "[[0.0, 0.0, 0.0]]", "must be (1, 4) finite numbers"),
    "reward NaN": (prompt(reward=torch.full((1, 4), torch.nan)), "nan", "must be (1, 4) finite numbers"),
    "an observation less": (
        prompt(observation=torch.zeros(1, 3, 2)),
        "shape (1, 3, 2)",
        "must have (1, 4, 2)",
    ),
    "a cell outside": (prompt(observation=torch.full((1, 4, 2), 9)), "from 9 to 9", SEES),
    "beginnings of numbers": (prompt(episode_start=torch.zeros(1, 4)), "torch.float32", "True or False"),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_prompt_that_does_not_fit_is_refused(kind: str) -> None:
    wrong, said, way_out = PROMPTS[kind]
    line = told(lambda: small_model().generate(Promising(), prompt=wrong, num_episodes=1))
    assert said in line
    assert way_out in line


# Environments and settings that `generate` is given -> what is said of them.
PLAYED: dict[str, tuple[VectorEnv, dict[str, Any], str, str]] = {
    "continuous actions": (
        Promising(actions=VECTOR),
        {},
        "'type': 'Box'",
        "made for {'type': 'Discrete', 'n': 5}",
    ),
    "more actions": (
        Promising(actions=spaces.Discrete(6)),
        {},
        "'n': 6",
        "made for {'type': 'Discrete', 'n': 5}",
    ),
    "actions from 1": (Promising(actions=spaces.Discrete(5, start=1)), {}, "start=1", "that count from 0"),
    "another room": (Promising(spaces.MultiDiscrete([9, 8])), {}, "[9, 8]", "'nvec': [9, 9]"),
    "a cell outside": (Promising(first=with_one(9)), {}, "from 0 to 9", SEES),
    "a row less": (Promising(first=NOTHING[1:]), {}, "shape (2, 2)", SHAPE),
    "reward NaN": (Promising(reward=np.array([0, np.nan, 0])), {}, "nan", NUMBERS),
    "rewards in a column": (Promising(reward=np.ones((K, 1))), {}, "[1.0]", NUMBERS),
    "no episodes": (Promising(), {"num_episodes": 0}, "num_episodes is 0", "at least 1"),
    "a short context": (Promising(), {"context_length": 1}, "context_length is 1", "takes 2 to 10"),
    "a long context": (Promising(), {"context_length": 11}, "context_length is 11", "takes 2 to 10"),
    "a setting": (Promising(), {"num_epsiodes": 3}, "no setting 'num_epsiodes'", "generate"),
    "temperature 0": (Promising(), {"temperature": 0.0}, "temperature is 0.0", "do_sample=False"),
    "temperature NaN": (Promising(), {"temperature": float("nan")}, "temperature is nan", "do_sample=False"),
    "a seed": (Promising(), {"seed": -1}, "seed is -1", "must be from 0 to"),
}


@pytest.mark.parametrize("kind", PLAYED)
def test_what_the_model_was_not_made_for_is_not_played(kind: str) -> None:
    envs, settings, said, way_out = PLAYED[kind]
    line = told(lambda: small_model().generate(envs, **{"num_episodes": 1, **settings}))
    assert said in line
    assert way_out in line


@pytest.mark.parametrize("num_envs", [0, -1])
def test_a_context_is_of_somebody(num_envs: int) -> None:
    assert f"num_envs is {num_envs}, but must be at least 1" in told(lambda: small_model().start(num_envs))


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": ()}, "split 'train' of task family 'mine' has no tasks"),
        (
            {name: (Task("Mine-v0", {"goal": 1}),) for name in ("train", "test")},
            "a task that is trained on cannot be a test",
        ),
    ],
)
def test_a_family_without_held_out_tasks_is_refused(splits: Any, said: str) -> None:
    assert said in told(lambda: TaskFamily("mine", splits))
