"""Sources against references that are not ours: Stable-Baselines3's learners, and optima known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ad_hf.histories import collect
from ad_hf.tasks import Task, load_task_family

pytestmark = pytest.mark.slow

# 6 of the 81 goals, spread over the room, and their exact optimum: 20 - max(distance - 1, 0) steps are paid.
GOALS = [[x, y] for x in range(9) for y in range(9)][10::14]
OPTIMUM = np.mean([20 - max(abs(x - 4) + abs(y - 4) - 1, 0) for x, y in GOALS])


def final_returns(returns: np.ndarray) -> np.ndarray:
    """The mean of the last tenth of returns (..., episodes)."""
    return returns[..., -(returns.shape[-1] // 10) :].mean(axis=-1)


# Each row: our source, its counterpart, episodes, and the settings of the counterpart. They are our defaults
# under their names there; `net_arch` is one hidden layer for the policy and one for the values.
LAYER = {"net_arch": [64], "activation_fn": torch.nn.Tanh}
COUNTERPARTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "a2c": (
        "A2C",
        200,
        {
            "learning_rate": 3e-3,  # there of the values too: they share one optimizer; ours learn at 1e-2
            "gamma": 0.9,
            "gae_lambda": 0.95,
            "n_steps": 10,
            "ent_coef": 0.02,
            "vf_coef": 1.0,
            "max_grad_norm": 0.5,
            "policy_kwargs": {**LAYER, "optimizer_class": torch.optim.Adam},
        },
    ),
    "dqn": (
        "DQN",
        300,
        {
            "learning_rate": 1e-3,
            "gamma": 0.9,
            "exploration_fraction": 0.5,  # from 1, linearly
            "exploration_final_eps": 0.01,
            "train_freq": 8,
            "target_update_interval": 8,
            "tau": 0.05,
            "batch_size": 64,  # steps, each on its own; ours are 8 sequences of 8
            "buffer_size": 5000,
            "learning_starts": 64,  # as many as a batch
            "max_grad_norm": 10.0,
            "policy_kwargs": LAYER,
        },
    ),
}


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_learners_end_where_those_of_stable_baselines3_end(name: str) -> None:
    import stable_baselines3  # costs a second that fast tests need not pay

    counterpart, num_episodes, settings = COUNTERPARTS[name]
    tasks = [Task("ad_hf/DarkRoom-v0", {"goal": goal}) for goal in GOALS]
    theirs = []
    for seed, task in enumerate(tasks):
        algorithm = getattr(stable_baselines3, counterpart)
        learner = algorithm("MlpPolicy", task.make(), seed=seed, device="cpu", **settings)
        learner.learn(20 * num_episodes)
        theirs.append(learner.get_env().envs[0].get_episode_rewards())
    reference = final_returns(np.array(theirs)).mean()
    # Eight learners of ours per goal: one in 80 explores without meeting the goal, there as here, and that
    # would cost all its return.
    ours = final_returns(collect(tasks * 8, name, num_episodes).return_matrix()).mean()
    assert reference > 0.9 * OPTIMUM
    assert ours > reference - 0.03 * OPTIMUM


def test_q_learning_that_remembers_rewards_masters_key_to_door() -> None:
    # Key and door pay 1 each. Who does not remember the key looks for it where it was.
    tasks = load_task_family("dark-key-to-door")["train"][:50]
    settings = {"initial_value": 0.1, "exploration": 0.9}
    remembers, forgets = (
        collect(tasks, "q-learning", 300, settings={**settings, "remember_rewards": number}).return_matrix()
        for number in (2, 0)
    )
    assert remembers[:, :5].mean() < 0.4  # a random policy earns 0.251
    assert final_returns(remembers).mean() > 1.98
    assert final_returns(forgets).mean() < 1.5


def test_q_learning_that_remembers_rewards_masters_the_room_that_pays_once() -> None:
    tasks = load_task_family("dark-room-hard")["test"]
    settings = {"initial_value": 1.0, "epsilon_start": 0.5, "learning_rate": 0.9, "remember_rewards": 1}
    returns = collect(tasks, "q-learning", 1000, settings=settings).return_matrix()
    assert returns[:, :5].mean() < 0.2  # a random policy earns 0.037
    assert final_returns(returns).mean() > 0.97
