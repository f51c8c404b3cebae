"""The model of the benchmarks, its decoder as one would write it by hand, and the limit of both.

GPT-NeoX with squared ReLU, in plain functions on the weights of an `ADModel`, so both compute the same. B =
windows or environments, L = tokens, D = width, H = heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, layer_norm, linear, scaled_dot_product_attention
from transformers.utils.logging import set_verbosity_error

from ad_hf.models import ADConfig, ADModel

CONTEXT, WIDTH, LAYERS, HEADS, INNER = 80, 128, 4, 4, 512  # of the model: 0.8 M parameters
SIZE = 1024  # of the matrices whose product is the limit


def benchmark_model(context: int = CONTEXT, width: int = WIDTH, layers: int = LAYERS) -> ADModel:
    """The model, or one of another size with heads as wide; always with the same weights, for Dark Room."""
    set_verbosity_error()
    torch.manual_seed(0)
    decoder = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width * HEADS // WIDTH,
        "intermediate_size": width * INNER // WIDTH,
    }
    return ADModel(ADConfig(context_length=context, decoder=decoder))


class HandWrittenDecoder(nn.Module):
    """The forward pass of an `ADModel` without transformers.

    Args:
        model: of one token per transition and the default decoder; its weights are used, not copied.
        attention: "matmul", two batched matrix products as ours, or "sdpa", PyTorch's fused kernel.
    """

    def __init__(self, model: ADModel, attention: str = "matmul") -> None:
        super().__init__()
        config = model.config.decoder
        self.model, self.attention, self.num_heads = model, attention, config.num_attention_heads
        frequencies = model.decoder.rotary_emb.inv_freq
        angles = torch.arange(model.config.context_length)[:, None] * frequencies.repeat(2)
        self.cos, self.sin = angles.cos(), angles.sin()  # (W, rotary dimensions)
        self.rotary = len(angles[0])
        W = model.config.context_length
        self.causal = torch.full((W, W), torch.finfo(torch.float32).min).triu(1)

    def embed(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Tokens (B, L, D)."""
        parts = self.model.embedding
        places = batch["observation"].long() + parts.observation.first_row
        tokens = parts.observation.rows(places).sum(dim=-2) + parts.action(batch["previous_action"].long())
        reward = parts.reward(batch["previous_reward"][..., None].to(tokens.dtype))
        return tokens + reward + parts.episode_start(batch["episode_start"].long())

    def rotate(self, states: torch.Tensor, first: int) -> torch.Tensor:
        """Rotary positions `first` to `first` + L on states (B, H, L, D / H)."""
        turned, rest = states[..., : self.rotary], states[..., self.rotary :]
        last = first + states.shape[2]
        cos, sin = self.cos[first:last].to(states.dtype), self.sin[first:last].to(states.dtype)
        low, high = turned.chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([-high, low], dim=-1) * sin, rest], dim=-1)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(B, H, L, D / H); the queries are the last of the keys."""
        length, keys = query.shape[2], key.shape[2]
        if self.attention == "sdpa":
            return scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if length > 1:
            scores = scores.add_(self.causal[:length, :keys])
        return scores.softmax(dim=-1) @ value

    def forward(
        self,
        batch: dict[str, torch.Tensor],
        cache: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
        first: int = 0,
    ) -> torch.Tensor:
        """Logits (B, L, A).

        Args:
            batch: inputs of `ADModel.forward`.
            cache: keys and values of each layer, (B, H, W, D / H), filled in place from position `first` on.
            first: tokens that are in the cache already.
        """
        tokens = self.embed(batch)
        B, L, D = tokens.shape
        for number, layer in enumerate(self.model.decoder.layers):
            before = layer.input_layernorm
            normed = layer_norm(tokens, (D,), before.weight, before.bias, before.eps)
            states = linear(
                normed, layer.attention.query_key_value.weight, layer.attention.query_key_value.bias
            )
            query, key, value = states.view(B, L, self.num_heads, -1).transpose(1, 2).chunk(3, dim=-1)
            query, key = self.rotate(query, first), self.rotate(key, first)
            if cache is not None:
                keys, values = cache[number]
                keys[:, :, first : first + L], values[:, :, first : first + L] = key, value
                key, value = keys[:, :, : first + L], values[:, :, : first + L]
            seen = self.attend(query, key, value).transpose(1, 2).reshape(B, L, D)
            seen = linear(seen, layer.attention.dense.weight, layer.attention.dense.bias)
            tokens = tokens + seen
            before = layer.post_attention_layernorm
            normed = layer_norm(tokens, (D,), before.weight, before.bias, before.eps)
            hidden = linear(normed, layer.mlp.dense_h_to_4h.weight, layer.mlp.dense_h_to_4h.bias)
            out = layer.mlp.dense_4h_to_h
            tokens = tokens + linear(hidden.relu().square(), out.weight, out.bias)
        last = self.model.decoder.final_layer_norm
        return self.model.head(layer_norm(tokens, (D,), last.weight, last.bias, last.eps))

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean cross-entropy over all labels."""
        return cross_entropy(self(batch).flatten(0, 1).float(), batch["labels"].flatten().long())


def product(dtype: torch.dtype) -> Callable[[], int]:
    """A matrix product; returns its floating-point operations."""
    left, right = torch.randn(SIZE, SIZE, dtype=dtype), torch.randn(SIZE, SIZE, dtype=dtype)

    def multiply() -> int:
        for _ in range(10):
            left @ right
        return 10 * 2 * SIZE**3

    return multiply
