"""Networks of K learners in lockstep, and what they are shown.

Every weight has a leading axis of K, so one batched matrix product serves all learners, and no gradient of
one reaches another. K = learners, N = inputs of one learner, F = features, H = hidden units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

WAVES = 4  # of each component of a pose; with 2 or 8, learners swim a quarter farther to learn Watermaze


def features(envs: VectorEnv, observation: np.ndarray) -> torch.Tensor:
    """The `observation` (K, ...) that `envs` have just returned, as features (K, F).

    Where the world shows pictures but records poses, the features are those of the poses: what is in sight
    depends on nothing else.

    Args:
        envs: K environments with any observation that flattens, or with `recorded()`, the poses (K, P) now,
            and `recorded_space`, a Box with bounds.
        observation: of their last step or reset; a reset of some rows has to come after this call.
    """
    world: Any = envs.unwrapped
    if hasattr(world, "recorded"):
        return fourier(world.recorded_space, world.recorded())
    return flatten(envs.single_observation_space, observation)


def flatten(space: spaces.Space, observation: np.ndarray) -> torch.Tensor:
    """Observations (K, ...) as features (K, F): one-hot for discrete components, flat floats for boxes."""
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        columns = np.cumsum([0, *space.nvec[:-1]]) + observation - space.start
        one_hot = np.zeros((len(observation), int(space.nvec.sum())), dtype=np.float32)
        np.put_along_axis(one_hot, columns, 1, axis=1)
        return torch.from_numpy(one_hot)
    if isinstance(space, spaces.Discrete):
        return torch.from_numpy(np.eye(space.n, dtype=np.float32)[observation - space.start])
    return torch.from_numpy(np.asarray(observation, dtype=np.float32).reshape(len(observation), -1))


def fourier(space: spaces.Box, points: np.ndarray) -> torch.Tensor:
    """Points (K, P) of a bounded space as 2 * WAVES features of each component, for functions that vary fast.

    After Tancik et al. 2020 (arXiv 2006.10739). The first wave is half a period long from bound to bound, so
    no two values look alike; of an angle's full turn, every second wave is periodic.
    """
    shares = (points - space.low) / (space.high - space.low)  # (K, P), from 0 to 1
    angles = np.pi * shares[..., None] * np.arange(1, WAVES + 1)  # (K, P, WAVES)
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    return torch.from_numpy(waves.reshape(len(points), -1))


def make_network(
    K: int, inputs: int, hidden: int, outputs: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """K networks with one hidden layer of tanh units: weights and biases with a leading axis of K.

    Args:
        K: the number of networks.
        inputs: F, features.
        hidden: H, hidden units.
        outputs: of each network; close to 0 at first.
        generator: the only source of randomness here.
    """
    first = torch.randn(K, inputs, hidden, generator=generator) * (2 / inputs) ** 0.5
    last = torch.randn(K, hidden, outputs, generator=generator) * 0.01
    weights = [first, torch.zeros(K, 1, hidden), last, torch.zeros(K, 1, outputs)]
    return [weight.requires_grad_() for weight in weights]


def apply_network(network: list[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Outputs (K, N, ...) of K networks for features (K, N, F)."""
    first, first_bias, last, last_bias = network
    return torch.baddbmm(last_bias, torch.baddbmm(first_bias, inputs, first).tanh(), last)


def clip_gradients(network: list[torch.Tensor], max_norm: float) -> None:
    """Scale each learner's gradient down to `max_norm`, learner by learner."""
    gradients = [weight.grad for weight in network if weight.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)  # (K,)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale[:, None, None])
