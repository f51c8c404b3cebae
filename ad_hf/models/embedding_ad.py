"""Tokenisation: how transitions become the vectors that the decoder reads.

B = windows or environments, L = transitions, A = actions, D = width.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from .configuration_ad import BOX, DISCRETE, ADConfig

PICTURES_AT_ONCE = 256  # on a CPU twice as fast as thousands, whose features would take gigabytes


class DiscreteEmbedding(nn.Module):
    """Embeds Discrete and MultiDiscrete observations: a row for every value of every component, summed.

    A grid's cells share the rows of their column and their line, so what is learnt about trained goals
    carries over to held-out ones: on Dark Room a row per cell instead ends about 1.5 below (13.5 against 15.5
    at episode 40).
    """

    def __init__(self, space: dict, hidden_size: int) -> None:
        super().__init__()
        sizes = [space["n"]] if space["type"] == DISCRETE else list(space["nvec"])
        self.first_row: torch.Tensor
        self.rows = nn.Embedding(sum(sizes), hidden_size)
        self.register_buffer("first_row", torch.tensor([0, *itertools.accumulate(sizes[:-1])]))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Vectors (B, L, D) of integer observations (B, L) or (B, L, components)."""
        observation = observation.long()
        if observation.ndim == 2:
            observation = observation[..., None]
        return self.rows(observation + self.first_row).sum(dim=-2)


class VectorEmbedding(nn.Module):
    """Embeds Box observations that are no pictures, flat and as they are: scale them to about 1."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, hidden_size)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Vectors (B, L, D) of observations (B, L, ...)."""
        return self.project(observation.flatten(2).to(self.project.weight.dtype))


class PictureEmbedding(nn.Module):
    """Embeds pictures by two convolutions, from 8 x 8 pixels on, and a layer over all places.

    No pooling: where in the picture something stands is what tells where the agent is. On Watermaze twice the
    channels and a third convolution locate it no better, at two thirds of the speed.
    """

    def __init__(self, shape: tuple[int, ...], hidden_size: int) -> None:
        super().__init__()
        height, width, colours = shape
        self.first = nn.Conv2d(colours, 16, kernel_size=8, stride=4)
        self.second = nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1)
        places = math.prod(((size - 8) // 4 + 1) // 2 for size in (height, width))
        self.project = nn.Linear(32 * places, hidden_size)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Vectors (B, L, D) of pictures (B, L, H, W, colours) uint8."""
        vectors = [self._look(pictures) for pictures in observation.flatten(0, 1).split(PICTURES_AT_ONCE)]
        return torch.cat(vectors).unflatten(0, observation.shape[:2])

    def _look(self, pictures: torch.Tensor) -> torch.Tensor:
        """Vectors (N, D) of pictures (N, H, W, colours)."""
        pictures = pictures.permute(0, 3, 1, 2)  # stored by pixel, as convolutions like it
        device, weight, bias = pictures.device.type, self.first.weight, self.first.bias
        assert bias is not None
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        # From -.5 to .5, by way of the weights: to touch every pixel again takes as long as the convolution.
        weight, bias = weight / 255, bias - weight.sum(dim=(1, 2, 3)) / 2
        features = nn.functional.conv2d(pictures.to(dtype), weight, bias, self.first.stride)
        return self.project(self.second(features.relu()).relu().flatten(1))


def observation_embedding(config: ADConfig) -> nn.Module:
    """The embedding of the observations of a configuration's space."""
    hidden_size = config.decoder.hidden_size
    if config.sees_pictures:
        return PictureEmbedding(config.observation_shape, hidden_size)
    if config.observation_space["type"] == BOX:
        return VectorEmbedding(math.prod(config.observation_shape), hidden_size)
    return DiscreteEmbedding(config.observation_space, hidden_size)


class ADEmbedding(nn.Module):
    """Turns L transitions into L or 3 L tokens.

    Token t holds the previous action, the previous reward, whether an episode starts here, and observation t,
    and the decoder predicts action t on it. The first transition of a context has no predecessor: its
    previous action is the extra index A and its previous reward 0. With three tokens per transition the
    previous action, the previous reward and the observation stand one after another, and the action is
    predicted on the third.
    """

    def __init__(self, config: ADConfig) -> None:
        super().__init__()
        hidden_size = config.decoder.hidden_size
        self.tokens_per_transition = config.tokens_per_transition
        self.observation = observation_embedding(config)
        self.action = nn.Embedding(config.num_actions + 1, hidden_size)
        self.reward = nn.Linear(1, hidden_size)
        self.episode_start = nn.Embedding(2, hidden_size)

    def forward(
        self,
        observation: torch.Tensor,
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        episode_start: torch.Tensor,
        token_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens (B, L * tokens_per_transition, D).

        Args:
            observation: (B, L, ...).
            previous_action: (B, L) integers from 0 to A; A where there is none.
            previous_reward: (B, L); 0 where there is none.
            episode_start: (B, L) bool, true on the first transition of an episode.
            token_mask: (B, L) bool; true transitions are hidden from the decoder (Laskin et al. 2022, section
                3.3).
        """
        seen = self.observation(observation) + self.episode_start(episode_start.long())
        action = self.action(previous_action.long())
        reward = self.reward(previous_reward[..., None].to(self.reward.weight.dtype))
        if self.tokens_per_transition == 1:
            tokens = (seen + action + reward)[:, :, None]
        else:
            tokens = torch.stack([action, reward, seen], dim=2)  # (B, L, 3, D)
        if token_mask is not None:
            tokens = tokens.masked_fill(token_mask[:, :, None, None], 0)
        return tokens.flatten(1, 2)
