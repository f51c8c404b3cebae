"""Configuration of the Algorithm Distillation transformer."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

DISCRETE, MULTI_DISCRETE, BOX = "Discrete", "MultiDiscrete", "Box"
NUMBERS = r"bool|u?int(8|16|32|64)|float(16|32|64)"  # the types of a Box
MOST_VALUES = 2**31 - 1  # of a discrete component; each has a row of weights

# The decoder where none is named: large enough for every grid world of the paper, small enough for a laptop.
# GPT-NeoX has the fewest operations of those with rotary positions: it trains 1.4 times as fast as a Llama.
DEFAULT_DECODER: dict[str, Any] = {
    "model_type": "gpt_neox",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "hidden_act": "relu2",
    "use_parallel_residual": False,  # with it Key-to-Door, which takes longer memories, is learnt worse
}


def space_to_json(space: Any) -> dict[str, Any]:
    """A Gymnasium space as `ADConfig` stores it.

    Raises:
        ValueError: if the space is none of Discrete, MultiDiscrete and Box, or does not count from 0.
    """
    kind = type(space).__name__
    if kind == DISCRETE and space.start == 0:
        return {"type": kind, "n": int(space.n)}
    if kind == MULTI_DISCRETE and space.nvec.ndim == 1 and not space.start.any():
        return {"type": kind, "nvec": space.nvec.tolist()}
    if kind == BOX:
        return {"type": kind, "shape": list(space.shape), "dtype": str(space.dtype)}
    raise ValueError(
        f"the model takes {DISCRETE} and flat {MULTI_DISCRETE} spaces that count from 0, and {BOX} spaces, "
        f"not {space}"
    )


@strict
class ADConfig(PreTrainedConfig):
    """What an `ADModel` is made of.

    Args:
        observation_space: a Gymnasium space as JSON: `{"type": "Discrete", "n": 4}`,
            `{"type": "MultiDiscrete", "nvec": [9, 9]}` or `{"type": "Box", "shape": [72, 96, 3], "dtype":
            "uint8"}`, which is a picture; a Box of another type is a vector.
        action_space: the same for actions; `Discrete` only.
        decoder: configuration of the decoder, of any causal model of transformers, as an object or as a dict.
            A dict without `model_type` changes the default, a GPT-NeoX of 4 layers and width 64.
        context_length: W, the longest context in transitions; several episodes, or there is nothing to learn
            from.
        tokens_per_transition: 1 (previous action, previous reward and observation summed into one token) or
            3 (a token each, as in the paper's figure 3; four to five times dearer).
        label_smoothing: of the training loss, 0 to 1; the paper uses 0.2 in Dark Room Hard.
        unordered_context: whether the context is a set of transitions behind the observation to act on, as in
            the Decision-Pretrained Transformer (DPT; Lee et al. 2023, arXiv 2306.14892), and not a history.

    Raises:
        StrictDataclassError: around a ValueError, as for every configuration of transformers: if a space is
            not supported, or the decoder has fewer positions than the context has tokens.
    """

    model_type = "algorithm_distillation"
    sub_configs_defaults = {"decoder": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012

    observation_space: dict = field(default_factory=lambda: {"type": MULTI_DISCRETE, "nvec": [9, 9]})
    action_space: dict = field(default_factory=lambda: {"type": DISCRETE, "n": 5})
    decoder: Any = None
    context_length: int = 80
    tokens_per_transition: int = 1
    label_smoothing: float = 0.0
    unordered_context: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.decoder, PreTrainedConfig):
            decoder = dict(self.decoder or {})
            if "model_type" not in decoder:
                decoder = DEFAULT_DECODER | decoder
            names = AutoConfig.for_model(decoder["model_type"]).attribute_map
            positions = names.get("max_position_embeddings", "max_position_embeddings")  # GPT-2: n_positions
            if not {positions, "max_position_embeddings"} & decoder.keys():
                decoder[positions] = self.context_length * self.tokens_per_transition
            # Tokens are embedded outside the decoder, so its own vocabulary is kept to nothing.
            nothing = {"vocab_size": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
            self.decoder = AutoConfig.for_model(**(nothing | decoder))
        super().__post_init__(**kwargs)

    @property
    def num_actions(self) -> int:
        """A, the number of actions."""
        return int(self.action_space["n"])

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        space = self.observation_space
        shapes = {BOX: space.get("shape", ()), MULTI_DISCRETE: (len(space.get("nvec", ())),)}
        return tuple(shapes.get(space["type"], ()))

    @property
    def sees_pictures(self) -> bool:
        """Whether observations are pictures, (H, W, channels) uint8."""
        return self.observation_space.get("dtype") == "uint8" and len(self.observation_shape) == 3

    def validate_spaces(self) -> None:
        """Refuse spaces that the model has no embedding or head for."""
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be a space as JSON")
        if self.observation_space.get("type") not in (DISCRETE, MULTI_DISCRETE, BOX):
            raise ValueError(
                f"observation_space is {self.observation_space}, but the types supported are "
                f"{DISCRETE!r}, {MULTI_DISCRETE!r} and {BOX!r}"
            )
        for name in ("observation_space", "action_space"):
            space = getattr(self, name)
            if space.get("type") in (DISCRETE, MULTI_DISCRETE) and not _counts(space):
                raise ValueError(
                    f"{name} is {space}, but {DISCRETE} has an n and {MULTI_DISCRETE} an nvec, of whole "
                    f'numbers from 1 to {MOST_VALUES}, for example {{"type": "{DISCRETE}", "n": 5}}'
                )
        if self.observation_space["type"] == BOX and not _is_box(self.observation_space):
            raise ValueError(
                f"observation_space is {self.observation_space}, but a {BOX} has a shape and a dtype, for "
                f'example {{"type": "{BOX}", "shape": [4], "dtype": "float32"}}'
            )
        if self.sees_pictures and min(self.observation_shape[:2]) < 32:
            raise ValueError(
                f"observation_space is {self.observation_space}, but pictures have to have at least 32 x 32 "
                "pixels: give smaller ones as a Box of float32"
            )
        if self.action_space.get("type") != DISCRETE:
            raise ValueError(f"action_space is {self.action_space}, but the type supported is {DISCRETE!r}")

    def validate_context(self) -> None:
        """Refuse contexts that cannot be encoded."""
        if type(self.context_length) is not int:
            raise ValueError(f"context_length is {self.context_length!r}, but must be a whole number")
        if self.tokens_per_transition not in (1, 3):
            raise ValueError(f"tokens_per_transition is {self.tokens_per_transition}, but must be 1 or 3")
        if self.context_length < 2:
            raise ValueError(f"context_length is {self.context_length} transitions, but must be at least 2")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}, but must be from 0 up to, not including, 1"
            )
        tokens = self.context_length * self.tokens_per_transition
        positions = getattr(self.decoder, "max_position_embeddings", None) or tokens
        if positions < tokens:
            raise ValueError(
                f"context_length of {self.context_length} transitions is {tokens} tokens, but the decoder "
                f"has {positions} positions: set max_position_embeddings={tokens} in its configuration"
            )


def _counts(space: dict) -> bool:
    """Whether a space says how many values each of its components has."""
    sizes: Any = [space.get("n")] if space["type"] == DISCRETE else space.get("nvec")
    is_list = isinstance(sizes, list | tuple) and len(sizes) > 0
    return is_list and all(type(size) is int and 1 <= size <= MOST_VALUES for size in sizes)


def _is_box(space: dict) -> bool:
    """Whether a space says all that is to be known of a Box."""
    shape, dtype = space.get("shape"), space.get("dtype")
    sizes = isinstance(shape, list | tuple) and all(type(size) is int and size > 0 for size in shape)
    return sizes and isinstance(dtype, str) and re.fullmatch(NUMBERS, dtype) is not None


class ADGenerationConfig(GenerationConfig):
    """How `ADModel.generate` acts, saved as generation_config.json.

    Of transformers' own settings `do_sample`, `temperature`, `top_k`, `top_p` and `min_p` are meaningful.

    Args:
        num_episodes: episodes per environment.
        context_length: W, transitions the model attends to at most; None is the model's own. Lower it to see
            what a shorter memory costs.
        do_sample: draw actions from the model's distribution, the default. An agent that always takes the
            likeliest action does not explore, so it has little to learn from.
        compile: act by `torch.compile`; see `ADModel.start`.
    """

    def __init__(
        self,
        num_episodes: int = 100,
        context_length: int | None = None,
        do_sample: bool = True,
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        self.num_episodes = num_episodes
        self.context_length = context_length
        self.compile = compile
        super().__init__(do_sample=do_sample, **kwargs)

    @classmethod
    def from_model_config(cls, model_config: PreTrainedConfig | dict) -> ADGenerationConfig:
        """The defaults: a model's configuration says nothing about how it is played."""
        return cls()


__all__ = ["ADConfig", "ADGenerationConfig", "space_to_json"]
