"""The Algorithm Distillation transformer (Laskin et al. 2022, arXiv 2210.14215).

B = windows or environments, L = transitions, A = actions, D = width, H = heads, S = keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AttentionInterface, AutoModel, Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import ModelOutput

from .configuration_ad import ADConfig, ADGenerationConfig
from .embedding_ad import ADEmbedding
from .generation_ad import ADGenerationMixin


def matmul_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as two batched matrix products on a CPU, and as PyTorch's fused kernels elsewhere.

    Contexts here are short, and at 80 keys the fused CPU kernel is the slower of the two, in bfloat16 by 3x.
    Registered with transformers as "matmul", so every decoder can be built with it.

    Args:
        module: the attention layer.
        query: (B, H, L, D / H).
        key: (B, H or fewer, S, D / H).
        value: (B, H or fewer, S, D / H).
        attention_mask: (B or 1, 1, L, S), bool or additive; None is causal, with the L queries the first L
            tokens.
        dropout: probability, on the attention weights.
        scaling: of the scores; None is one over the root of the head's width.
        kwargs: further arguments of transformers' attention functions.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)  # (B, H, L, S)
    length, keys = scores.shape[-2:]
    if attention_mask is None and length > 1:
        attention_mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            attention_mask = torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill(
                ~attention_mask, torch.finfo(scores.dtype).min
            )
        scores.add_(attention_mask)
    weights = nn.functional.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    return (weights @ value).transpose(1, 2).contiguous(), None  # (B, L, H, D / H)


AttentionInterface.register("matmul", matmul_attention)
AttentionMaskInterface.register("matmul", sdpa_mask)


@dataclass
class ADOutput(ModelOutput):
    """What a forward pass returns.

    Args:
        loss: the mean cross-entropy over all labels, if labels were given.
        logits: (B, L, A), of the action on each transition.
        cache: the cache, if one was given.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Cache | None = None


class ADModel(ADGenerationMixin, PreTrainedModel):
    """A causal transformer over transitions that predicts the next action of a learning history.

    Any decoder of transformers carries it; around it stand an embedding of transitions and a linear head.
    Trained on learning histories (`ad_hf.train`), it reinforcement-learns in its context with frozen weights:
    `generate` plays whole environments, `start` and `act` serve a loop of your own.
    """

    config_class = ADConfig
    generation_config_class = ADGenerationConfig
    main_input_name = "observation"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: ADConfig) -> None:
        if config._attn_implementation is None:
            # Where PyTorch's attention is not enough for a decoder (Gemma 2, GPT-OSS), neither is ours.
            decoder_class: Any = MODEL_MAPPING[type(config.decoder)]
            plain = "matmul" if decoder_class._supports_attention_backend else "sdpa"
            config._attn_implementation = plain if decoder_class._supports_sdpa else "eager"
        super().__init__(config)
        self.embedding = ADEmbedding(config)
        self.decoder = AutoModel.from_config(config.decoder)
        self.decoder.set_input_embeddings(
            None
        )  # it is fed with vectors, and DDP refuses a parameter without gradient
        self.head = nn.Linear(config.decoder.hidden_size, config.num_actions)
        self.post_init()

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """None: transitions are embedded from several columns, and there is no table of tokens to be tied."""

    def forward(
        self,
        observation: torch.Tensor,
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        episode_start: torch.Tensor,
        labels: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> ADOutput:
        """Predict the action of every transition from it and those before it.

        Args:
            observation: (B, L, ...) in the model's observation space.
            previous_action: (B, L) integers; A where a transition has no predecessor in the context.
            previous_reward: (B, L); 0 where there is none.
            episode_start: (B, L) bool.
            labels: (B, L) the actions taken; -100 is left out of the loss.
            token_mask: (B, L) bool; transitions hidden from the decoder, which still predicts their actions.
            cache: a cache that holds the transitions before these.
            attention_mask: as for the decoder; leave it out in training, where every transition is real.
            position_ids: (B or 1, tokens), where the cache does not tell.
            logits_to_keep: predict only on the last so many transitions; 0 is all.
            kwargs: for the decoder.
        """
        tokens = self.embedding(observation, previous_action, previous_reward, episode_start, token_mask)
        hidden_states = self.decoder(
            inputs_embeds=tokens,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=cache is not None,
            **kwargs,
        ).last_hidden_state
        stride = self.config.tokens_per_transition
        logits = self.head(hidden_states[:, stride - 1 :: stride][:, -logits_to_keep:])  # (B, L, A)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                labels.flatten().long(),
                label_smoothing=self.config.label_smoothing,
            )
        return ADOutput(loss=loss, logits=logits, cache=cache)


# Checkpoints carry this code, so that they also load where ad_hf is not installed.
ADConfig.register_for_auto_class()
ADModel.register_for_auto_class("AutoModel")

__all__ = ["ADModel", "ADOutput"]
