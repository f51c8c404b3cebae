"""DQN and the networks of learners in lockstep: returns, memory, exploration, and what learners are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ad_hf.histories import Histories, Recorder, collect
from ad_hf.sources import load_source
from ad_hf.sources.dqn import draw_sequences, lambda_returns
from ad_hf.sources.networks import (
    WAVES,
    apply_network,
    clip_gradients,
    features,
    fourier,
    make_network,
)
from ad_hf.tasks import Task, load_task_family, make_vec

POSES = spaces.Box(*np.array([[-760, -760, -np.pi], [760, 760, np.pi]], dtype=np.float32))


def room_tasks(size: int, **params: Any) -> list[Task]:
    return [
        Task("ad_hf/DarkRoom-v0", {"goal": [x, y], "size": size, **params})
        for x in range(size)
        for y in range(size)
    ]


# Returns


def tensors(*rows: Sequence[float]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def test_with_lambda_0_a_return_is_one_reward_and_the_value_of_what_follows() -> None:
    rewards, values, ones = tensors([1, 2, 3], [10, 20, 30], [1, 1, 1])
    returns = lambda_returns(rewards, values, ones, ones, 0.5, 0.0)
    assert returns.tolist() == [6, 12, 18]


def test_with_lambda_1_a_return_is_all_rewards_and_the_last_value() -> None:
    rewards, values, ones = tensors([1, 2, 3], [10, 20, 30], [1, 1, 1])
    returns = lambda_returns(rewards, values, ones, ones, 0.5, 1.0)
    assert returns.tolist() == [1 + 1 + 0.75 + 3.75, 2 + 1.5 + 7.5, 3 + 15]


def test_nothing_follows_a_terminated_step_and_its_value_follows_a_truncated_one() -> None:
    rewards, values, ones = tensors([1, 2, 3], [10, 20, 30], [1, 1, 1])
    (ends,) = tensors([1, 0, 1])
    terminated = lambda_returns(rewards, values, ends, ends, 0.5, 1.0)
    truncated = lambda_returns(rewards, values, ones, ends, 0.5, 1.0)
    assert terminated.tolist() == [1 + 1, 2, 3 + 15]
    assert truncated.tolist() == [1 + 1 + 5, 2 + 10, 3 + 15]


@pytest.mark.parametrize("q_lambda", [0.3, 0.75])
def test_a_lambda_return_mixes_the_returns_of_all_lengths(q_lambda: float) -> None:
    # Its other definition (Sutton and Barto, second edition, eq. 12.3): n steps weigh (1 - l) * l^(n-1), and
    # the longest return has all weight that is left.
    rng = np.random.default_rng(0)
    N, discount = 12, 0.9
    rewards, values = rng.normal(size=(2, 4, N))
    terminated = rng.random((4, N)) < 0.15
    done = terminated | (rng.random((4, N)) < 0.15)
    expected = np.zeros((4, N))
    for row, t in np.ndindex(4, N):
        weight, total = 1.0, 0.0
        for n in range(1, N - t + 1):
            last = t + n - 1
            total += discount ** (n - 1) * rewards[row, last]
            follows = 0.0 if terminated[row, last] else discount**n * values[row, last]
            if done[row, last] or last == N - 1:
                expected[row, t] += weight * (total + follows)
                break
            expected[row, t] += weight * (1 - q_lambda) * (total + follows)
            weight *= q_lambda
    columns = tensors(rewards, values, ~terminated, ~done)
    np.testing.assert_allclose(lambda_returns(*columns, discount, q_lambda), expected)


# Memory


@pytest.mark.parametrize("num_steps", [5, 6, 9, 10, 11, 57])
def test_sequences_are_all_runs_of_steps_that_are_still_held(num_steps: int) -> None:
    places = draw_sequences(num_steps, 10, (3, 400, 5), np.random.default_rng(0))
    steps = np.zeros(10, dtype=int)  # which step lies where
    for step in range(num_steps):
        steps[step % 10] = step
    drawn = steps[places]
    oldest = max(num_steps - 10, 0)
    expected = [list(range(first, first + 5)) for first in range(oldest, num_steps - 4)]
    for learner in drawn:
        assert np.unique(learner, axis=0).tolist() == expected


def test_learners_draw_sequences_of_their_own() -> None:
    first, second = draw_sequences(1000, 1000, (2, 8, 5), np.random.default_rng(0))
    assert (first != second).any()


def final_return(histories: Histories) -> float:
    returns = histories.return_matrix()
    return returns[:, -returns.shape[1] // 10 :].mean()


def test_a_memory_that_overflows_many_times_suffices() -> None:
    tasks = room_tasks(3, horizon=8)
    optimum = collect(tasks, "noise", 1, settings={"epsilon_start": 0.0}).return_matrix().mean()
    histories = collect(tasks, "dqn", 60, settings={"memory_steps": 20, "update_steps": 2})
    assert final_return(histories) > 0.95 * optimum


def test_a_sequence_longer_than_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sequence_steps is 8, but memory_steps is 7: lower sequence_steps"):
        collect(room_tasks(3)[:1], "dqn", 1, settings={"memory_steps": 7})
    collect(room_tasks(3)[:1], "dqn", 1, settings={"memory_steps": 8})


# Exploration and learning


def test_exploration_fades_over_its_share_of_the_episodes() -> None:
    # In a room of one cell a learner that never learns has one greedy action, and keeps it.
    settings = {"learning_rate": 0.0, "epsilon_end": 0.0, "exploration": 0.5}
    actions = collect(room_tasks(1) * 50, "dqn", 40, settings=settings).action.reshape(50, 40, 20)
    explores = (actions != actions[:, -1:, -1:]).mean(axis=(0, 2))  # (40,) the share of other actions
    epsilon = np.maximum(1 - np.arange(40) / 20, 0)
    np.testing.assert_allclose(explores, 0.8 * epsilon, atol=0.06)  # one of five is the greedy one
    assert (explores[20:] == 0).all()


def test_values_spread_by_the_target_network() -> None:
    # One that stays at 0 lets a reward be seen from no farther away than a sequence is long.
    tasks = room_tasks(7, horizon=12, reward_once=True, start="random")[::6]
    settings = {"sequence_steps": 2, "update_steps": 4}
    learns, stays = (
        final_return(collect(tasks, "dqn", 100, settings={**settings, "target_rate": rate}))
        for rate in (0.05, 0.0)
    )
    assert learns > 0.75
    assert stays < 0.5


class Ferry(gym.Env):
    """One step from one of two shores, drawn each episode: shore 0 pays, and the action is where to go."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.shore = int(self.np_random.integers(2))
        return self.shore, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        return int(action), float(self.shore == 0), False, True, {}


def test_what_an_episode_led_to_counts_and_not_where_the_next_one_begins() -> None:
    envs = Recorder(SyncVectorEnv([Ferry] * 8, autoreset_mode=AutoresetMode.DISABLED))
    load_source("dqn")(envs, 1000, 0, q_lambda=1.0)
    actions = envs.histories([Task("ferry", {})] * 8, 1000).action.reshape(8, 1000)
    assert (actions[:, -100:] == 0).mean() > 0.9


def test_gradients_clipped_to_nothing_teach_nothing() -> None:
    tasks = room_tasks(9)[::20]
    clipped, idle, learns = (
        collect(tasks, "dqn", 10, settings=settings).action
        for settings in ({"max_grad_norm": 0.0}, {"learning_rate": 0.0}, {})
    )
    np.testing.assert_array_equal(clipped, idle)
    assert (clipped != learns).any()


# Networks


def test_networks_in_lockstep_are_networks_side_by_side() -> None:
    K, F, H, A = 3, 5, 7, 2
    network = make_network(K, F, H, A, torch.Generator().manual_seed(0))
    network[1].data.normal_()
    network[3].data.normal_()
    inputs = torch.randn(K, 11, F)
    outputs = apply_network(network, inputs)
    for k in range(K):
        first, first_bias, last, last_bias = (weight[k] for weight in network)
        expected = torch.tanh(inputs[k] @ first + first_bias) @ last + last_bias
        torch.testing.assert_close(outputs[k], expected)


def test_new_networks_differ_and_prefer_no_output() -> None:
    network = make_network(4, 18, 64, 5, torch.Generator().manual_seed(0))
    assert len(np.unique(network[0].detach().numpy().reshape(4, -1), axis=0)) == 4
    assert apply_network(network, torch.eye(18).expand(4, 18, 18)).abs().max() < 0.2


def test_gradients_are_clipped_learner_by_learner() -> None:
    network = make_network(2, 3, 4, 1, torch.Generator().manual_seed(0))
    for weight in network:
        weight.grad = torch.ones_like(weight)
        weight.grad[1] *= 0.01
    size = sum(weight[0].numel() for weight in network)  # so the norms are its root and 1 % of that
    clip_gradients(network, 0.5)
    norms = torch.stack([weight.grad.flatten(1).norm(dim=1) for weight in network]).norm(dim=0)
    np.testing.assert_allclose(norms, [0.5, 0.01 * size**0.5], rtol=1e-5)


# What learners are shown


def test_a_wave_is_half_a_period_long_and_the_next_ones_are_its_harmonics() -> None:
    low, middle, high = POSES.low, (POSES.low + POSES.high) / 2, POSES.high
    waves = fourier(POSES, np.stack([low, middle, high])).reshape(3, 3, WAVES, 2)  # point, component, wave
    turns = np.array([0, 0.25, 0.5])[:, None, None] * np.arange(1, WAVES + 1)
    expected = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=-1)
    np.testing.assert_allclose(waves, np.broadcast_to(expected, waves.shape), atol=1e-5)


def test_no_two_values_of_a_component_look_alike() -> None:
    xs = np.linspace(-760, 760, 200, dtype=np.float32)
    seen = fourier(POSES, np.stack([xs, xs * 0, xs * 0], axis=1))
    nearest = torch.cdist(seen, seen).fill_diagonal_(torch.inf).min(dim=1).values
    assert nearest.min() > 0.03


def test_a_world_that_records_poses_shows_them_to_learners() -> None:
    tasks = load_task_family("watermaze")["train"][:3]
    envs = Recorder(make_vec(tasks))
    observation, _ = envs.reset(seed=0)
    poses = envs.unwrapped.recorded()
    assert features(envs, observation).equal(fourier(POSES, poses))
    observation, *_ = envs.step(np.zeros(3, dtype=int))
    assert features(envs, observation).equal(fourier(POSES, envs.unwrapped.recorded()))
    assert (envs.unwrapped.recorded() != poses).any()


@pytest.mark.parametrize("name", ["dqn", "a2c"])
def test_a_learner_that_is_shown_poses_does_not_look_at_pictures(name: str) -> None:
    tasks = load_task_family("watermaze")["train"][:3]
    actions = []
    for blank in (True, False):
        envs = Recorder(make_vec(tasks))
        envs.unwrapped.blank = blank
        load_source(name)(envs, 2, 0)
        actions.append(envs.histories(tasks, 2).action)
    np.testing.assert_array_equal(*actions)


@pytest.mark.slow
def test_a_hidden_platform_is_found_from_anywhere() -> None:
    tasks = load_task_family("watermaze")["train"][:8]
    returns = collect(tasks, "dqn", 500).return_matrix()
    assert returns[:, :20].mean() < 0.3  # a random policy earns 0.18
    assert returns[:, -50:].mean() > 0.95  # over two seeds 0.99, and 0.96 where it is lowest
    assert returns[:, -50:].mean(axis=1).min() > 0.8
