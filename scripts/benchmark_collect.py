"""What learning histories cost: transitions per second from a learner to Parquet on disk.

Tabular Q-learning in Dark Room, on both cores, learnt, recorded and written by `ad-hf collect --num-proc 2`,
against a learner per environment in plain Python and Stable-Baselines3's DQN, which only learn; the limit is
to write such histories without learning. A2C on one core against Stable-Baselines3's with 1 and with 16
environments, which learn a policy together. Before that, final returns are compared: ours must reach theirs,
less 3 % of the optimum.

    pip install -e ".[test]"  # brings stable-baselines3
    python scripts/benchmark_collect.py
"""

from __future__ import annotations

from benchmarking import Row, finish, interleaved, parser  # isort: skip  # before NumPy and torch

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.env_util import make_vec_env

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.collection import CollectSettings, Shard, collect_dataset, write_shard
from ad_hf.histories import collect
from ad_hf.tasks import Task, load_task_family

# Twelve of the 81 goals, spread over the room, and what an optimal policy earns on them.
GOALS = [[x, y] for x in range(9) for y in range(9)][3::7]
TASKS = [Task("ad_hf/DarkRoom-v0", {"goal": goal}) for goal in GOALS]
OPTIMUM = np.mean([20 - max(abs(x - 4) + abs(y - 4) - 1, 0) for x, y in GOALS])
HORIZON = 20  # steps of an episode

# Our defaults under their names there; as a single layer for the policy and another for the values.
A2C_SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "gamma": 0.9,
    "gae_lambda": 0.95,
    "n_steps": 10,
    "ent_coef": 0.02,
    "vf_coef": 1.0,
    "max_grad_norm": 0.5,
    "policy_kwargs": {
        "net_arch": [64],
        "activation_fn": torch.nn.Tanh,
        "optimizer_class": torch.optim.Adam,
    },
    "device": "cpu",
}


def main() -> None:
    """Check, measure, print."""
    command_line = parser(__doc__)
    command_line.add_argument("--learners-per-task", type=int, default=48, help="of Q-learning")
    command_line.add_argument("--repeats", type=int, default=3)
    arguments = command_line.parse_args()
    torch.set_num_threads(1)
    finish(
        [*tabular(arguments.learners_per_task, arguments.repeats), *actor_critic(arguments.repeats)],
        arguments,
    )


def tabular(learners_per_task: int, repeats: int) -> list[Row]:
    """Q-learning, on both cores."""
    ours = final_return(collect(TASKS * 8, "q-learning", 300).return_matrix())
    plain = final_return(np.array([python_q_learning(task, 300, seed) for seed, task in enumerate(TASKS)]))
    print(f"q-learning, 300 episodes: ours {ours:.2f}, plain Python {plain:.2f}, optimum {OPTIMUM:.2f}")
    assert abs(ours - plain) < 0.03 * OPTIMUM
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "ours": lambda: collect_to_disk(Path(folder), learners_per_task),
            "write": writer(Path(folder)),
            "plain Python": lambda: HORIZON * len(python_q_learning(TASKS[0], 20, 0)),
            "SB3 DQN": learn(DQN("MlpPolicy", TASKS[0].make(), device="cpu"), 2000),
        }
        measured = interleaved(sides, repeats, time.perf_counter)
    limit = ("write only, two cores", 2 * measured["write"])
    return [
        Row(
            "collect, q-learning, two cores", "transitions/s", measured["ours"], (side, measured[side]), limit
        )
        for side in ("plain Python", "SB3 DQN")
    ]


def actor_critic(repeats: int) -> list[Row]:
    """A2C, on one core."""
    theirs, tasks = {1: [], 16: []}, TASKS[::3]
    for seed, task in enumerate(tasks):
        for num_envs, returns in theirs.items():
            envs = make_vec_env(task.make, num_envs, seed=seed)
            A2C("MlpPolicy", envs, seed=seed, **A2C_SETTINGS).learn(HORIZON * 200 * num_envs)
            returns.append(np.mean([env.get_episode_rewards()[180:200] for env in envs.envs]))
    ours = final_return(collect(tasks * 24, "a2c", 400).return_matrix())
    both = ", ".join(f"{np.mean(returns):.2f} with {n}" for n, returns in theirs.items())
    print(f"A2C: ours {ours:.2f} after 400 episodes, SB3 {both} environments after 200 in each")
    assert ours > max(map(np.mean, theirs.values())) - 0.03 * OPTIMUM
    sides = {
        "ours": lambda: len(collect(TASKS * 40, "a2c", 20).action),
        **{
            f"SB3 A2C, {n} environment{'s' * (n > 1)}": learn(
                A2C("MlpPolicy", make_vec_env(TASKS[0].make, n), **A2C_SETTINGS), 1000 * n
            )
            for n in theirs
        },
    }
    measured = interleaved(sides, repeats)
    ours = measured.pop("ours")
    return [Row("collect, A2C, one core", "transitions/s", ours, reference) for reference in measured.items()]


def final_return(returns: np.ndarray) -> float:
    """The mean of the last tenth of returns (..., episodes)."""
    return float(returns[..., -(returns.shape[-1] // 10) :].mean())


def python_q_learning(task: Task, num_episodes: int, seed: int) -> list[float]:
    """Returns of the same learner with the same defaults, one environment at a time and step by step."""
    env, rng = gym.wrappers.TimeLimit(task.make(), HORIZON), np.random.default_rng(seed)
    table, returns = np.zeros((9, 9, 5)), []
    for episode in range(num_episodes):
        epsilon = 1 - 0.98 * min(episode / (0.6 * num_episodes), 1)
        (x, y), _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            values = table[x, y]
            best = np.flatnonzero(values == values.max())
            action = int(rng.integers(5) if rng.random() < epsilon else rng.choice(best))
            (x, y), reward, terminated, truncated, _ = env.step(action)
            target = reward + 0.9 * (not terminated) * table[x, y].max()
            values[action] += 0.5 * (target - values[action])
            total, done = total + reward, terminated or truncated
        returns.append(total)
    return returns


def collect_to_disk(folder: Path, learners_per_task: int) -> int:
    """Learn all tasks of Dark Room and write their histories; returns the transitions."""
    family = load_task_family("dark-room")
    settings = CollectSettings(learners_per_task=learners_per_task, lockstep=1024)
    target = folder / str(time.perf_counter_ns())
    collect_dataset(target, family, settings, num_proc=2)
    return sum(map(len, family.splits.values())) * learners_per_task * settings.num_episodes * HORIZON


def writer(folder: Path) -> Callable[[], int]:
    """Write the histories of a shard, which have been learnt before."""
    histories = collect(TASKS * 8, "q-learning", 600)
    shard = Shard(
        folder / "shard.parquet", tuple(range(len(histories))), histories.tasks, (0,) * len(histories)
    )

    def write() -> int:
        write_shard(shard, histories, 0)
        return len(histories.action)

    return write


def learn(algorithm: Any, steps: int) -> Callable[[], int]:
    """Go on learning for a number of environment steps."""

    def go_on() -> int:
        before = algorithm.num_timesteps
        algorithm.learn(steps, reset_num_timesteps=False)
        return algorithm.num_timesteps - before

    return go_on


if __name__ == "__main__":
    main()
