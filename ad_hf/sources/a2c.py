"""Advantage actor-critic (A2C; Mnih et al. 2016, arXiv 1602.01783), K learners in lockstep.

K = learners, N = steps of a rollout, F = features of an observation, H = hidden units, A = actions.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ad_hf.sources import Count, Share, Weight, restart
from ad_hf.sources.networks import apply_network, clip_gradients, features, make_network


def a2c(
    envs: VectorEnv,
    num_episodes: int,
    seed: int,
    learning_rate: Share = 3e-3,
    discount: Share = 0.9,
    gae_lambda: Share = 0.95,
    rollout_steps: Count = 10,
    entropy_coefficient: Weight = 0.02,
    value_learning_rate: Share = 1e-2,
    hidden_size: Count = 64,
    max_grad_norm: Weight = 0.5,
) -> None:
    """Learn a policy and a value function, each a network of its own.

    A shared trunk learns less here: with networks this small the value loss bends the policy's features.

    Args:
        envs: K environments with Discrete actions and observations that `features` takes, autoreset
            `DISABLED`.
        num_episodes: episodes per learner.
        seed: of the environments, the weights and the actions.
        learning_rate: of the policy (Adam).
        discount: per environment step; a truncated episode is bootstrapped, a terminated one is not.
        gae_lambda: of generalised advantage estimation.
        rollout_steps: N, environment steps between two updates.
        entropy_coefficient: weight of the policy's entropy, in nats.
        value_learning_rate: of the value function (Adam).
        hidden_size: H, of the one hidden layer.
        max_grad_norm: each learner's policy gradient is clipped to this norm, and so is its value gradient.

    Raises:
        ValueError: if the actions are not Discrete.
    """
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(f"A2C here needs a Discrete action space, got {envs.single_action_space}")
    K, A = envs.num_envs, int(envs.single_action_space.n)
    generator = torch.Generator().manual_seed(seed)
    seen = features(envs, envs.reset(seed=seed)[0])  # (K, F)
    F = seen.shape[1]
    policy = make_network(K, F, hidden_size, A, generator)
    value = make_network(K, F, hidden_size, 1, generator)
    optimizer = torch.optim.Adam(
        [{"params": policy, "lr": learning_rate}, {"params": value, "lr": value_learning_rate}], fused=True
    )
    episodes = np.zeros(K, dtype=np.int64)
    while episodes.min() < num_episodes:
        rollout = []
        for _ in range(rollout_steps):
            with torch.no_grad():
                probabilities = apply_network(policy, seen[:, None])[:, 0].softmax(-1)  # (K, A)
            action = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            observation, reward, terminated, truncated, _ = envs.step(action.numpy())
            done = terminated | truncated
            next_seen = features(envs, observation)
            paid = torch.from_numpy(reward).float()
            rollout.append((seen, action, paid, next_seen, terminated, done))
            episodes += done
            seen = features(envs, restart(envs, observation, done)) if done.any() else next_seen
        columns = list(zip(*rollout, strict=True))
        inputs, actions, rewards, next_inputs = (torch.stack(column, 1) for column in columns[:4])
        # (K, N): a terminated step has no next value, an episode's last step no next advantage
        continues, same_episode = (
            1 - torch.from_numpy(np.stack(column, 1)).float() for column in columns[4:]
        )
        values = apply_network(value, inputs)[..., 0]  # (K, N)
        with torch.no_grad():
            next_values = apply_network(value, next_inputs)[..., 0]
            errors = rewards + discount * continues * next_values - values
            advantages = torch.zeros_like(errors)
            following = torch.zeros(K)
            for t in reversed(range(rollout_steps)):
                following = errors[:, t] + discount * gae_lambda * same_episode[:, t] * following
                advantages[:, t] = following
        log_probabilities = apply_network(policy, inputs).log_softmax(-1)  # (K, N, A)
        chosen = log_probabilities.gather(-1, actions[..., None])[..., 0]
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        value_loss = (values - (values + advantages).detach()).square()
        # Summed over learners, averaged over a learner's steps: no step depends on how many others there are.
        loss = (-chosen * advantages - entropy_coefficient * entropy + value_loss).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(policy, max_grad_norm)
        clip_gradients(value, max_grad_norm)
        optimizer.step()
