"""Advantage actor-critic (A2C; Mnih et al. 2016, arXiv 1602.01783), K learners in lockstep.

Every weight has a leading axis of K, so one batched matrix product serves all learners, and no gradient of
one reaches another. K = learners, N = steps of a rollout, F = observation features, H = hidden units,
A = actions.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ad_hf.sources import restart


def a2c(
    envs: VectorEnv,
    num_episodes: int,
    seed: int,
    learning_rate: float = 3e-3,
    discount: float = 0.9,
    gae_lambda: float = 0.95,
    rollout_steps: int = 10,
    entropy_coefficient: float = 0.02,
    value_learning_rate: float = 1e-2,
    hidden_size: int = 64,
    max_grad_norm: float = 0.5,
) -> None:
    """Learn a policy and a value function, each a network of its own.

    A shared trunk learns less here: with networks this small the value loss bends the policy's features.

    Args:
        envs: K environments with Discrete actions and any observation that flattens, autoreset `DISABLED`.
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
    F = spaces.flatdim(envs.single_observation_space)
    policy, value = _network(K, F, hidden_size, A, generator), _network(K, F, hidden_size, 1, generator)
    optimizer = torch.optim.Adam(
        [{"params": policy, "lr": learning_rate}, {"params": value, "lr": value_learning_rate}], fused=True
    )
    observation = envs.reset(seed=seed)[0]
    episodes = np.zeros(K, dtype=np.int64)
    while episodes.min() < num_episodes:
        rollout = []
        for _ in range(rollout_steps):
            features = _flatten(envs.single_observation_space, observation)
            with torch.no_grad():
                probabilities = _apply(policy, features[:, None])[:, 0].softmax(-1)  # (K, A)
            action = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            next_observation, reward, terminated, truncated, _ = envs.step(action.numpy())
            done = terminated | truncated
            next_features = _flatten(envs.single_observation_space, next_observation)
            paid = torch.from_numpy(reward).float()
            rollout.append((features, action, paid, next_features, terminated, done))
            episodes += done
            observation = restart(envs, next_observation, done)
        columns = list(zip(*rollout, strict=True))
        features, actions, rewards, next_features = (torch.stack(column, 1) for column in columns[:4])
        # (K, N): a terminated step has no next value, an episode's last step no next advantage
        continues, same_episode = (
            1 - torch.from_numpy(np.stack(column, 1)).float() for column in columns[4:]
        )
        values = _apply(value, features)[..., 0]  # (K, N)
        with torch.no_grad():
            next_values = _apply(value, next_features)[..., 0]
            errors = rewards + discount * continues * next_values - values
            advantages = torch.zeros_like(errors)
            following = torch.zeros(K)
            for t in reversed(range(rollout_steps)):
                following = errors[:, t] + discount * gae_lambda * same_episode[:, t] * following
                advantages[:, t] = following
        log_probabilities = _apply(policy, features).log_softmax(-1)  # (K, N, A)
        chosen = log_probabilities.gather(-1, actions[..., None])[..., 0]
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        value_loss = (values - (values + advantages).detach()).square()
        # Summed over learners, averaged over a learner's steps: no step depends on how many others there are.
        loss = (-chosen * advantages - entropy_coefficient * entropy + value_loss).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        _clip(policy, max_grad_norm)
        _clip(value, max_grad_norm)
        optimizer.step()


def _network(
    K: int, inputs: int, hidden: int, outputs: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """K networks with one hidden layer of tanh units: weights and biases with a leading axis of K."""
    first = torch.randn(K, inputs, hidden, generator=generator) * (2 / inputs) ** 0.5
    last = torch.randn(K, hidden, outputs, generator=generator) * 0.01
    weights = [first, torch.zeros(K, 1, hidden), last, torch.zeros(K, 1, outputs)]
    return [weight.requires_grad_() for weight in weights]


def _apply(network: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Outputs (K, N, ...) of K networks for features (K, N, F)."""
    first, first_bias, last, last_bias = network
    return torch.baddbmm(last_bias, torch.baddbmm(first_bias, features, first).tanh(), last)


def _clip(network: list[torch.Tensor], max_norm: float) -> None:
    """Scale each learner's gradient down to `max_norm`, learner by learner."""
    gradients = [weight.grad for weight in network if weight.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)  # (K,)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale[:, None, None])


def _flatten(space: spaces.Space, observation: np.ndarray) -> torch.Tensor:
    """Observations (K, ...) as features (K, F): one-hot for discrete components, flat floats for boxes."""
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        columns = np.cumsum([0, *space.nvec[:-1]]) + observation - space.start
        features = np.zeros((len(observation), int(space.nvec.sum())), dtype=np.float32)
        np.put_along_axis(features, columns, 1, axis=1)
        return torch.from_numpy(features)
    if isinstance(space, spaces.Discrete):
        return torch.from_numpy(np.eye(space.n, dtype=np.float32)[observation - space.start])
    return torch.from_numpy(np.asarray(observation, dtype=np.float32).reshape(len(observation), -1))
