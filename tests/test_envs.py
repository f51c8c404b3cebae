"""Environments: every registered one keeps Gymnasium's contracts, alone and as a vector."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ad_hf.envs

ENV_IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("ad_hf/"))

# More settings under which an environment has to keep the contracts; one without an entry is tested as it is.
# The room of 3x3 makes episodes that end at the goal ragged.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "ad_hf/DarkRoom-v0": [
        {"goal": (4, 5)},
        {"start": "random"},
        {"start": (0, 8), "horizon": 3},
        {"size": 3, "terminate_on_goal": True},
        {"size": 3, "terminate_on_goal": True, "start": "random", "horizon": 7},
        {"size": 3, "reward_once": True, "start": "random"},
    ],
    "ad_hf/DarkRoomHard-v0": [{"size": 3, "start": "random", "horizon": 5}],
    "ad_hf/DarkKeyToDoor-v0": [
        {"key": (4, 5), "door": (4, 5), "start": "center", "horizon": 40},
        {"size": 3, "terminate_at_door": True, "horizon": 30},
        {"size": 3, "door_pays_every_step": True, "start": (0, 2), "horizon": 7},
    ],
    "ad_hf/AdversarialBandit-v0": [{"means": [0.2, 0.9, 0.5]}, {"horizon": 7}],
    "ad_hf/Watermaze-v0": [{"platform": (100.0, 0.0), "start": "rim"}, {"step_seconds": 1.0, "horizon": 9}],
}
CASES = [
    pytest.param(env_id, kwargs, id=f"{env_id.removeprefix('ad_hf/')}-{kwargs}")
    for env_id in ENV_IDS
    for kwargs in [{}, *VARIANTS.get(env_id, [])]
]
NATIVE = [case for case in CASES if gym.spec(str(case.values[0])).vector_entry_point]

NUM_ROOMS = 5


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal values, types and keys; object arrays (`final_obs`) hold arrays and are compared as lists."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, np.ndarray) and theirs.dtype != object:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, tuple | list | np.ndarray):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        assert ours == theirs


# Contracts of every registered environment


def test_registering_twice_changes_nothing() -> None:
    before = dict(gym.registry)
    ad_hf.envs.register_environments()
    assert gym.registry == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("env_id", "kwargs"), CASES)
def test_gymnasiums_checker_has_nothing_to_say(env_id: str, kwargs: dict[str, Any]) -> None:
    check_env(gym.make(env_id, **kwargs).unwrapped)


@pytest.mark.parametrize(("env_id", "kwargs"), CASES)
def test_a_spec_survives_its_json(env_id: str, kwargs: dict[str, Any]) -> None:
    env = gym.make(env_id, **kwargs)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    env.action_space.seed(0)
    assert_same(again.reset(seed=7), env.reset(seed=7))
    for _ in range(30):
        action = env.action_space.sample()
        ours, theirs = again.step(action), env.step(action)
        assert_same(ours, theirs)
        if theirs[2] or theirs[3]:
            assert_same(again.reset(), env.reset())


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("env_id", "kwargs"), NATIVE)
def test_a_native_vector_environment_equals_single_environments(
    env_id: str, kwargs: dict[str, Any], mode: AutoresetMode
) -> None:
    native = gym.make_vec(env_id, num_envs=NUM_ROOMS, autoreset_mode=mode, **kwargs)
    single = SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * NUM_ROOMS, autoreset_mode=mode)
    assert native.metadata["autoreset_mode"] == single.metadata["autoreset_mode"] == mode
    for space in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(native, space) == getattr(single, space)
    both: list[Any] = [native, single]
    rng = np.random.default_rng(0)
    num_ended = np.zeros(NUM_ROOMS, dtype=int)
    assert_same(*(envs.reset(seed=10) for envs in both))
    for step in range(120):
        if step == 50:  # some rooms in the middle of an episode, one of them with a seed
            mask = np.arange(NUM_ROOMS) < 3
            seeds = [None, 8, None, 9, None]
            assert_same(*(envs.reset(seed=seeds, options={"reset_mask": mask.copy()}) for envs in both))
        if step == 80:
            assert_same(*(envs.reset() for envs in both))
        actions = rng.integers(native.single_action_space.n, size=NUM_ROOMS)  # type: ignore[attr-defined]
        ours, theirs = (envs.step(actions) for envs in both)
        assert_same(ours, theirs)
        done = ours[2] | ours[3]
        num_ended += done
        if mode == AutoresetMode.DISABLED and done.any():
            assert_same(*(envs.reset(options={"reset_mask": done.copy()}) for envs in both))
    assert (num_ended > 0).all()
    if kwargs.get("terminate_on_goal") or kwargs.get("terminate_at_door"):
        assert len(set(num_ended)) > 1, "no ragged episodes: the test has lost its point"


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("env_id", "kwargs"), NATIVE)
def test_what_was_returned_does_not_change_afterwards(
    env_id: str, kwargs: dict[str, Any], mode: AutoresetMode
) -> None:
    envs = gym.make_vec(env_id, num_envs=NUM_ROOMS, autoreset_mode=mode, **kwargs)
    envs.action_space.seed(0)
    returned, copies = [], []

    def keep(values: tuple) -> tuple:
        returned.append(values)
        copies.append(deepcopy(values))
        return values

    keep(envs.reset(seed=0))
    for _ in range(60):
        _, _, terminated, truncated, _ = keep(envs.step(envs.action_space.sample()))
        done = terminated | truncated
        if mode == AutoresetMode.DISABLED and done.any():
            keep(envs.reset(options={"reset_mask": done}))
    assert_same(returned, copies)


@pytest.mark.parametrize(("env_id", "kwargs"), NATIVE)
def test_an_ended_room_is_not_stepped_when_autoreset_is_disabled(env_id: str, kwargs: dict[str, Any]) -> None:
    envs = gym.make_vec(env_id, num_envs=NUM_ROOMS, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    done = np.zeros(NUM_ROOMS, dtype=bool)
    while not done.any():
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        done = terminated | truncated
    with pytest.raises(ValueError, match=rf"\[{np.flatnonzero(done)[0]}.*have ended.*reset_mask"):
        envs.step(envs.action_space.sample())
    envs.reset(options={"reset_mask": done})
    envs.step(envs.action_space.sample())


@pytest.mark.parametrize(("env_id", "kwargs"), CASES)
@pytest.mark.parametrize("render_mode", ["rgb_array", "ansi"])
def test_every_environment_can_be_looked_at(env_id: str, kwargs: dict[str, Any], render_mode: str) -> None:
    env = gym.make(env_id, render_mode=render_mode, **kwargs)
    env.reset(seed=0)
    picture = env.render()
    if render_mode == "ansi":
        assert isinstance(picture, str)
        assert len(picture.splitlines()) > 1
    else:
        assert isinstance(picture, np.ndarray)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.std() > 0


@pytest.mark.parametrize(("env_id", "kwargs"), CASES)
def test_an_ended_episode_is_not_stepped(env_id: str, kwargs: dict[str, Any]) -> None:
    env = gym.make(env_id, **kwargs)
    env.reset(seed=0)
    env.action_space.seed(0)
    ended = False
    while not ended:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated or truncated
    with pytest.raises(ValueError, match="has ended: call reset"):
        env.step(env.action_space.sample())
    env.reset()
    env.step(env.action_space.sample())
