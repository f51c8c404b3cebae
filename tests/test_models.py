"""The model: what it is made of, what it may see, and what it weighs on disk.

B = windows, L = transitions, W = the longest context in transitions, A = actions.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import AutoModel, GPT2Config, OPTConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

from ad_hf.models import ADConfig, ADModel, space_to_json
from ad_hf.models.modeling_ad import matmul_attention

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt_neox": SMALL | {"intermediate_size": 64},  # the default, made smaller
    "llama": SMALL | {"model_type": "llama", "intermediate_size": 64, "hidden_act": "relu2"},
    "opt": SMALL | {"model_type": "opt", "ffn_dim": 64, "do_layer_norm_before": False},  # the paper's
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "qwen3": SMALL
    | {"model_type": "qwen3", "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8},
    "mistral": SMALL  # sees five tokens at a time
    | {"model_type": "mistral", "intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 5},
    "mamba": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "gpt_neo": {  # takes no static cache, and no attention but its own
        "model_type": "gpt_neo",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
}
LINEAR = re.compile(r"reward|project|first|second")  # in an embedding
PLAIN = ("gpt_neox", "llama", "opt", "gpt2", "qwen3")  # attend to the whole context, in every implementation


def lively_model(decoder: str = "gpt_neox", seed: int = 0, **settings: Any) -> ADModel:
    """A small model whose logits spread by about 1: at the usual small weights, mistakes would not show."""
    model = ADModel(ADConfig(decoder=DECODERS[decoder], **settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                looked_up = name.startswith("embedding.") and not LINEAR.search(name)
                convolves = 2 if weight.ndim == 4 else 1  # of what the layer behind it takes away
                scale = 1 if looked_up else convolves * weight[0].numel() ** -0.5
                weight.normal_(0, scale, generator=generator)
    return model


def random_observations(model: ADModel, *shape: int, generator: torch.Generator) -> torch.Tensor:
    """Any observations (*shape, ...) of a model's space."""
    space = model.config.observation_space
    if space["type"] == "Box":
        sizes = torch.full(space["shape"], 256.0 if space["dtype"] == "uint8" else 1.0)
    else:
        sizes = torch.tensor(space.get("nvec") or space["n"])
    draws = torch.rand(*shape, *sizes.shape, generator=generator) * sizes
    return draws.to(getattr(torch, space.get("dtype", "long")))


def random_windows(model: ADModel, batch_size: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of `ADModel.forward`, as windows of a history: the action before t is the label of t - 1."""
    A, generator = model.config.num_actions, torch.Generator().manual_seed(seed)
    actions = torch.randint(A, (batch_size, length), generator=generator)
    observations = random_observations(model, batch_size, length, generator=generator)
    rewards = torch.rand(batch_size, length, generator=generator)
    rewards[:, 0] = 0
    return {
        "observation": observations,
        "previous_action": torch.cat([torch.full((batch_size, 1), A), actions[:, :-1]], dim=1),
        "previous_reward": rewards,
        "episode_start": torch.rand(batch_size, length, generator=generator) < 0.2,
        "labels": actions,
    }


def logits_of(model: ADModel, batch: dict[str, torch.Tensor], **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **kwargs).logits


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


# Configuration


def test_a_partial_decoder_changes_the_default():
    default, changed = ADConfig().decoder, ADConfig(decoder={"num_hidden_layers": 1}).decoder
    assert (default.model_type, default.num_hidden_layers, default.hidden_size) == ("gpt_neox", 4, 64)
    assert changed.to_dict() == default.to_dict() | {"num_hidden_layers": 1}


@pytest.mark.parametrize("decoder", ["llama", "opt", "gpt2"])
def test_a_decoder_gets_positions_for_every_token(decoder):
    config = ADConfig(decoder=DECODERS[decoder], context_length=30, tokens_per_transition=3)
    assert config.decoder.max_position_embeddings == 90


@pytest.mark.parametrize("name", ["n_positions", "max_position_embeddings"])
def test_positions_that_were_asked_for_are_kept(name):
    assert ADConfig(decoder=DECODERS["gpt2"] | {name: 160}).decoder.n_positions == 160


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"context_length": 1}, "context_length is 1 transitions, but must be at least 2"),
        ({"tokens_per_transition": 2}, "tokens_per_transition is 2, but must be 1 or 3"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, but must be from 0"),
        ({"observation_space": {"type": "Text"}}, "observation_space is .*'Text'.* supported .*'Box'"),
        ({"action_space": {"type": "Box"}}, "action_space is .*'Box'.* supported is 'Discrete'"),
        (
            {"decoder": {"max_position_embeddings": 79}},
            "80 transitions is 80 tokens, but the decoder has 79 positions: set max_position_embeddings=80",
        ),
        (
            {"decoder": GPT2Config(n_positions=100), "tokens_per_transition": 3},
            "80 transitions is 240 tokens, but the decoder has 100 positions",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_way_out(settings, complaint):
    with pytest.raises(StrictDataclassError, match=complaint):
        ADConfig(**settings)


@pytest.mark.parametrize(
    ("space", "stored"),
    [
        (spaces.Discrete(4), {"type": "Discrete", "n": 4}),
        (spaces.MultiDiscrete([9, 7]), {"type": "MultiDiscrete", "nvec": [9, 7]}),
        (spaces.Box(0, 1, (2, 3)), {"type": "Box", "shape": [2, 3], "dtype": "float32"}),
        (
            spaces.Box(0, 255, (72, 96, 3), np.uint8),
            {"type": "Box", "shape": [72, 96, 3], "dtype": "uint8"},
        ),
    ],
)
def test_spaces_are_stored_as_json(space, stored):
    assert space_to_json(space) == stored


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=1),
        spaces.MultiDiscrete([4, 4], start=[0, 1]),
        spaces.MultiDiscrete([[2, 2], [2, 2]]),
        spaces.Text(3),
    ],
)
def test_spaces_without_an_embedding_are_refused(space):
    with pytest.raises(ValueError, match=r"takes Discrete and flat MultiDiscrete spaces .* and Box"):
        space_to_json(space)


# What a prediction is made of


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("space", [{"type": "Discrete", "n": 6}, {"type": "MultiDiscrete", "nvec": [3, 5]}])
def test_every_part_of_a_transition_counts(tokens, space):
    model = lively_model(observation_space=space, tokens_per_transition=tokens)
    batch = random_windows(model, 1, 4)
    batch["observation"][:, 2] = 0
    before = logits_of(model, batch)[:, 2]
    for part in ("observation", "previous_action", "previous_reward", "episode_start"):
        changed = {name: values.clone() for name, values in batch.items()}
        flat = changed[part][:, 2].view(-1)
        flat[-1] = ~flat[-1] if part == "episode_start" else (flat[-1] + 1) % 3
        assert (logits_of(model, changed)[:, 2] - before).abs().max() > 1e-2, part


def test_three_tokens_are_the_action_the_reward_and_the_observation():
    model = lively_model(tokens_per_transition=3)
    batch, other = random_windows(model, 1, 4), random_windows(model, 1, 4, seed=1)
    del batch["labels"]
    before = model.embedding(**batch)  # (1, 12, D)
    for name, token in (("previous_action", 0), ("previous_reward", 1), ("observation", 2)):
        changed = batch | {name: torch.cat([batch[name][:, :3], other[name][:, 3:]], dim=1)}
        differs = (model.embedding(**changed) != before).any(dim=-1)[0]
        assert differs.nonzero()[:, 0].tolist() == [9 + token]


def test_no_two_observations_look_the_same():
    model = lively_model(observation_space={"type": "MultiDiscrete", "nvec": [3, 5]})
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(5))[None]  # (1, 15, 2)
    vectors = model.embedding.observation(cells)[0]
    assert (torch.cdist(vectors, vectors) + torch.eye(15) > 1e-2).all()


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_nothing_later_changes_a_prediction(decoder, tokens):
    model = lively_model(decoder, tokens_per_transition=tokens)
    batch, other = random_windows(model, 2, 8), random_windows(model, 2, 8, seed=1)
    before = logits_of(model, batch)
    for t in (1, 4, 7):
        changed = {name: torch.cat([batch[name][:, :t], other[name][:, t:]], dim=1) for name in batch}
        after = logits_of(model, changed)
        assert_close(after[:, :t], before[:, :t], atol=1e-6)
        assert (after[:, t] - before[:, t]).abs().max() > 1e-2


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_an_action_is_never_visible_to_its_own_prediction(decoder, tokens):
    model = lively_model(decoder, tokens_per_transition=tokens)
    batch = random_windows(model, 2, 8)
    before = logits_of(model, batch)
    batch["labels"][:, 4] = batch["previous_action"][:, 5] = (batch["labels"][:, 4] + 1) % 5
    after = logits_of(model, batch)
    assert_close(after[:, :5], before[:, :5], atol=1e-6)
    assert (after[:, 5] - before[:, 5]).abs().max() > 1e-2


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_masked_transition_is_hidden(tokens):
    model = lively_model(tokens_per_transition=tokens)
    batch, other = random_windows(model, 2, 8), random_windows(model, 2, 8, seed=1)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 3] = True
    changed = {name: values.clone() for name, values in batch.items()}
    for name in changed:
        changed[name][:, 3] = other[name][:, 3]
    masked = logits_of(model, batch, token_mask=mask)
    assert_close(logits_of(model, changed, token_mask=mask), masked, atol=0)
    differs = (masked - logits_of(model, batch)).abs().amax(dim=(0, 2)) > 1e-3
    assert differs.tolist() == [False] * 3 + [True] * 5


def test_only_the_last_predictions_can_be_asked_for():
    model = lively_model(tokens_per_transition=3)
    batch = random_windows(model, 2, 6)
    del batch["labels"]
    assert_close(logits_of(model, batch, logits_to_keep=2), logits_of(model, batch)[:, -2:])


# Loss and gradients


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_of_every_position(smoothing):
    model = lively_model(label_smoothing=smoothing)
    batch = random_windows(model, 3, 7)
    output = model(**batch)
    log_p = output.logits.log_softmax(dim=-1)  # (B, L, A)
    wanted = F.one_hot(batch["labels"], 5) * (1 - smoothing) + smoothing / 5
    assert_close(output.loss, -(wanted * log_p).sum(dim=-1).mean())


def test_labels_of_minus_100_do_not_count():
    model = lively_model(label_smoothing=0.1)
    batch = random_windows(model, 2, 6)
    left = model(**{name: values[:, :4] for name, values in batch.items()}).loss
    batch["labels"][:, 4:] = -100
    assert_close(model(**batch).loss, left)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_gets_a_gradient(decoder, tokens):
    # DistributedDataParallel stops at a parameter without one.
    model = lively_model(decoder, tokens_per_transition=tokens).train()
    model(**random_windows(model, 2, 6)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("decoder", ["llama", "opt", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradients(decoder):
    model = lively_model(decoder).train()
    batch = random_windows(model, 2, 6)
    torch.manual_seed(0)  # of dropout
    model(**batch).loss.backward()
    wanted = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.decoder.modules())
    torch.manual_seed(0)
    model(**batch).loss.backward()
    for name, weight in model.named_parameters():
        assert_close(weight.grad, wanted[name])


def test_a_model_in_bfloat16_predicts_about_the_same():
    model = lively_model()
    batch = random_windows(model, 2, 6)
    before = logits_of(model, batch)
    output = model.bfloat16()(**batch)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert_close(output.logits.float(), before, atol=0.2)


# Attention


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
def test_matmul_attention_equals_those_of_transformers(mask, key_heads):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 6, 8, generator=generator)
    key, value = torch.randn(2, 3, key_heads, 6, 8, generator=generator)
    module: Any = SimpleNamespace(num_key_value_groups=4 // key_heads, training=False, is_causal=True)
    seen = torch.ones(6, 6, dtype=torch.bool).tril().expand(3, 1, 6, 6).clone()
    if mask != "none":
        seen[1, :, 2:, 1] = False
    additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    given = {"none": None, "bool": seen, "additive": additive}[mask]
    for scaling in (8**-0.5, 1.0):
        ours, _ = matmul_attention(module, query, key, value, given, scaling=scaling)
        fused, _ = sdpa_attention_forward(module, query, key, value, given, scaling=scaling)
        eager, _ = eager_attention_forward(module, query, key, value, additive, scaling=scaling)
        assert_close(ours, fused)
        assert_close(ours, eager)
    default, _ = matmul_attention(module, query, key, value, given)
    assert_close(default, matmul_attention(module, query, key, value, given, scaling=8**-0.5)[0])


def test_one_query_without_a_mask_sees_every_key():
    query, key, value = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    module: Any = SimpleNamespace()
    ours, _ = matmul_attention(module, query[:, :, :1], key, value, None)
    wanted = F.scaled_dot_product_attention(query[:, :, :1], key, value).transpose(1, 2)
    assert_close(ours, wanted)


@pytest.mark.parametrize("decoder", [*PLAIN, "mistral"])
def test_all_attention_implementations_predict_the_same(decoder):
    model = lively_model(decoder)
    batch = random_windows(model, 2, 12)
    assert model.decoder.config._attn_implementation == "matmul"
    ours = logits_of(model, batch)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.decoder.config._attn_implementation == implementation
        assert_close(logits_of(model, batch), ours)


def test_attention_dropout_is_for_training_only():
    model = ADModel(ADConfig(decoder=DECODERS["llama"] | {"attention_dropout": 0.5}))
    batch = random_windows(model, 2, 12)
    assert torch.equal(logits_of(model.eval(), batch), logits_of(model, batch))
    assert not torch.equal(logits_of(model.train(), batch), logits_of(model, batch))


def test_a_decoder_that_needs_its_own_attention_gets_it():
    # Gemma 2 caps its scores, which neither PyTorch's attention nor ours does.
    gemma = SMALL | {"model_type": "gemma2", "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    assert ADModel(ADConfig(decoder=gemma)).decoder.config._attn_implementation == "eager"


# On disk


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_saved_model_is_bit_equal_and_holds_no_pickle(decoder, tmp_path):
    model = lively_model(decoder, tokens_per_transition=3, label_smoothing=0.1)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json", ".py"}
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is ADModel
    for settings in (again.config.to_dict(), model.config.to_dict()):
        assert settings["decoder"].items() >= DECODERS[decoder].items()
        assert settings["tokens_per_transition"] == 3
        assert settings["label_smoothing"] == 0.1
    assert again.decoder.config._attn_implementation == model.decoder.config._attn_implementation
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], values) for name, values in model.state_dict().items())
    batch = random_windows(model, 2, 6)
    assert torch.equal(logits_of(again, batch), logits_of(model, batch))


@pytest.mark.parametrize(
    "decoder",
    [
        GPT2Config(n_positions=160, n_embd=32, n_layer=1, n_head=2, vocab_size=3),
        OPTConfig(**SMALL, ffn_dim=64, vocab_size=3, word_embed_proj_dim=32),
    ],
    ids=lambda decoder: decoder.model_type,
)
def test_a_decoder_given_as_an_object_is_saved_as_it_was(decoder, tmp_path):
    model = ADModel(ADConfig(decoder=decoder)).eval()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    batch = random_windows(model, 2, 6)
    assert torch.equal(logits_of(again, batch), logits_of(model, batch))
    for name in ("max_position_embeddings", "vocab_size", "pad_token_id"):
        assert getattr(again.config.decoder, name) == getattr(decoder, name)


def test_the_attention_can_be_chosen_when_loading(tmp_path: Path):
    lively_model().save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).decoder.config._attn_implementation == "matmul"
    other = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert other.config._attn_implementation == other.decoder.config._attn_implementation == "eager"
