"""Loading: from a checkpoint, whoever made it, to a model that acts. Nothing of it is run or trusted."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil  # comes with accelerate
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import LogitsProcessorList, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from ad_hf import hub
from ad_hf.models import ADConfig, ADGenerationConfig, ADModel
from ad_hf.models.embedding_ad import DiscreteEmbedding
from ad_hf.models.generation_ad import warpers

MAX_CONFIG = 2**20  # bytes of a config.json
# Settings by which transformers' classes bring code or weights from elsewhere.
ELSEWHERE = "auto_map|implementation|quantization|backbone"
REPEATS, MAX_REPEATS = "layer|block|depth|expert", 10_000  # settings that say how often something is built
MAX_NUMBER = 2**31  # of any other setting of a decoder
SIZES = "hidden_size|num_hidden_layers|num_(attention|key_value)_heads|intermediate_size|head_dim|vocab_size"
SHARES = "dropout|pdrop"  # settings that are probabilities


def load_model(path: str, folder: Path | None = None) -> ADModel:
    """Load a checkpoint onto the best device there is, ready to act.

    Neither code nor pickles of the checkpoint are used, nor anything it names outside of itself.

    Args:
        path: a folder, or a repository on the Hub, as `org/name` or `org/name@revision`.
        folder: where its files are, if they have been fetched already.

    Raises:
        ValueError: if it holds no checkpoint of this kind, or one that is damaged or does not fit together.
        HubError: if there is no such folder or repository.
    """
    folder = folder or hub.folder_of(path)
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{path} holds no checkpoint (no config.json): train one with `ad-hf train --output {path}`"
        )
    try:
        return _load(folder)
    except Exception as error:  # what a foreign configuration makes of transformers' classes can be anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the checkpoint in {path} cannot be loaded: {reason}") from error


def _load(folder: Path) -> ADModel:
    """The model in a folder; what is wrong with it raises anything, before much memory is taken for it."""
    values = _read_config(folder / "config.json")
    files = [folder / name for name in _weight_files(folder)]
    tensors: dict[str, list[int]] = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            tensors |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    config = ADConfig(**values)
    check_memory(config, len(tensors), sum(math.prod(shape) for shape in tensors.values()))
    generation_config: Any = ADGenerationConfig()
    if (folder / "generation_config.json").exists():
        generation_config = ADGenerationConfig.from_pretrained(folder)
    state = {name: values for file in files for name, values in load_file(file).items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"its weights {name} hold NaN or infinity: train it anew, or get it anew")
    # From these tensors alone: given a folder, transformers would also look for adapters and other weights.
    loaded: Any = ADModel.from_pretrained(
        None,
        config=config,
        state_dict=state,
        generation_config=generation_config,
        ignore_mismatched_sizes=True,  # they are told of below
        output_loading_info=True,
    )
    model, loading = loaded
    strangers = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if strangers:
        raise ValueError(f"the weights and config.json are not of one model ({strangers[0]})")
    observed = model.embedding.observation
    if isinstance(observed, DiscreteEmbedding):  # which row is whose is no matter of training
        model.embedding.observation.first_row = DiscreteEmbedding(config.observation_space, 1).first_row
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    _try_out(model)
    return model


def _read_config(path: Path) -> dict[str, Any]:
    """The fields of `ADConfig` in a config.json."""
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"config.json has more than {MAX_CONFIG} bytes")
    values = dict(json.loads(path.read_text(encoding="utf-8")))
    if values.get("model_type") != ADConfig.model_type:
        raise ValueError(f"it holds a {values.get('model_type')!r} model, not an {ADConfig.model_type!r} one")
    own = {field.name for field in fields(ADConfig)} - {field.name for field in fields(PreTrainedConfig)}
    values = {name: value for name, value in values.items() if name in own or name == "dtype"}
    check_decoder(values.get("decoder"))
    return values


def check_decoder(decoder: Any) -> None:
    """Refuse a decoder that is none, that needs something from elsewhere, or that is of absurd size.

    Args:
        decoder: its configuration as JSON, perhaps from somebody else.

    Raises:
        ValueError: if it is one.
    """
    kind = str(dict(decoder or {}).get("model_type", "llama"))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind not in MODEL_MAPPING_NAMES:
        raise ValueError(f"the decoder is {kind!r}, which is no causal model of transformers")
    entries = [("decoder", decoder)]
    while entries:
        name, value = entries.pop()
        if isinstance(value, dict):
            entries += [(str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            entries += [(name, inner) for inner in value]
        if value is not None and re.search(ELSEWHERE, name):
            raise ValueError(f"the decoder sets {name}, which may bring code or weights from elsewhere")
        if isinstance(value, int | float):
            _check_number(name, value)


def _check_number(name: str, value: float) -> None:
    """Refuse a number of a decoder's configuration with which nothing is built, or nothing sensible."""
    limit = MAX_REPEATS if re.search(REPEATS, name) else MAX_NUMBER
    if not abs(value) <= limit:
        raise ValueError(f"the decoder has {name}={value}, but at most {limit} makes sense")
    if re.fullmatch(SIZES, name) and value < 1:
        raise ValueError(f"the decoder has {name}={value}, but must have at least 1")
    if re.search(SHARES, name) and not 0 <= value < 1:
        raise ValueError(f"the decoder has {name}={value}, but it must be from 0 up to, not including, 1")


def _weight_files(folder: Path) -> list[str]:
    """The names of the files with the weights."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not index.is_file():
        raise ValueError("it has no model.safetensors, and weights in other formats are never loaded")
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not re.fullmatch(r"model-[\w-]+\.safetensors", name):
            raise ValueError(f"its index names the file {name!r}, but weights are in model-*.safetensors")
    return names


def check_memory(config: ADConfig, most_tensors: int, values: int | None = None) -> None:
    """Refuse a configuration that declares more than there is, before memory is taken for it.

    Args:
        config: of the model.
        most_tensors: so many weights are enough for it.
        values: how many numbers there are in its weights; None is not known.

    Raises:
        ValueError: if it declares more or other than that, or more than fits into memory.
    """
    made = 0

    def count(*args: Any) -> None:
        nonlocal made
        made += 1
        if made > 10 * most_tensors + 1000:  # some are made and thrown away, or tied to others
            raise ValueError(f"the configuration declares far more than {most_tensors} weights")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            model = ADModel(copy.deepcopy(config))
    finally:
        counting.remove()
    state = model.state_dict()
    declared = sum(tensor.numel() for tensor in state.values())
    if values not in (None, declared):
        raise ValueError(
            f"config.json declares {declared} values, but the weights are {values}: they are not of one model"
        )
    tokens = config.context_length * config.tokens_per_transition
    components = math.prod(config.observation_shape)
    needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    needed += tokens**2 + 8 * tokens * components  # which keys a query may see, and what the context holds
    available = psutil.virtual_memory().available
    if needed > available:
        raise ValueError(
            f"a model with a context of {config.context_length} transitions takes {needed / 2**30:.1f} GiB "
            f"at least, but {available / 2**30:.1f} GiB are free: lower its sizes"
        )


def _try_out(model: ADModel) -> None:
    """Let it act once: what is wrong with its numbers or with how it is to be played shows then."""
    settings = model.generation_config
    if type(settings.do_sample) is not bool or type(settings.num_episodes) is not int:
        raise ValueError("generation_config.json has a setting of the wrong type")
    context = model.start(1, context_length=settings.context_length)
    observation = torch.zeros_like(context.tokens["observation"][:, 0])
    past_actions: Any = context.action[:, None]
    logits: Any = model.next_action_logits(context, observation)
    logits = LogitsProcessorList(warpers(settings))(past_actions, logits)
    if not logits.isfinite().any() or logits.isnan().any():
        raise ValueError("it predicts no numbers: its weights or its settings are not finite")
