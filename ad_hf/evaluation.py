"""Evaluation: does a frozen model reinforcement-learn on tasks it never saw, and how does that compare.

G = tasks, R = rollouts per task, E = episodes.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # comes with accelerate
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import LogitsProcessorList, PreTrainedConfig
from transformers.generation.streamers import BaseStreamer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from ad_hf import hub
from ad_hf.histories import Histories, collect
from ad_hf.models import ADConfig, ADGenerationConfig, ADModel
from ad_hf.models.generation_ad import _warpers
from ad_hf.tasks import Task, TaskFamily, make_vec

MAX_CONFIG = 2**20  # bytes of a config.json
# Settings by which transformers' classes bring code or weights from elsewhere.
ELSEWHERE = "auto_map|implementation|quantization|backbone"
REPEATS, MAX_REPEATS = "layer|block|depth|expert", 10_000  # settings that say how often something is built
MAX_NUMBER = 2**31  # of any other setting of a decoder


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is judged.

    Args:
        num_episodes: episodes per rollout, all in one context.
        rollouts_per_task: independent rollouts on each held-out task.
        bootstrap_samples: resamples behind the 95 % intervals.
        seed: of the rollouts and the bootstrap.
    """

    num_episodes: int = 60
    rollouts_per_task: int = 32
    bootstrap_samples: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("num_episodes", "rollouts_per_task", "bootstrap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")


def load_model(path: str) -> ADModel:
    """Load a checkpoint onto the best device there is, ready to act.

    Neither code nor pickles of the checkpoint are used, nor anything it names outside of itself.

    Args:
        path: a folder, or a repository on the Hub, as `org/name` or `org/name@revision`.

    Raises:
        ValueError: if it holds no checkpoint of this kind, or one that is damaged or does not fit together.
        HubError: if there is no such folder or repository.
    """
    folder = hub.folder_of(path)
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
    # From these tensors alone: given a folder, transformers would also look for adapters and other weights.
    loaded: Any = ADModel.from_pretrained(
        None, config=config, state_dict=state, generation_config=generation_config, output_loading_info=True
    )
    model, loading = loaded
    strangers = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if strangers:
        raise ValueError(f"the weights and config.json are not of one model ({strangers[0]})")
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
        limit = MAX_REPEATS if re.search(REPEATS, name) else MAX_NUMBER
        if isinstance(value, int | float) and abs(value) > limit:
            raise ValueError(f"the decoder has {name}={value}, but at most {limit} makes sense")


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
    components = len(config.observation_space.get("nvec", [0]))
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
    logits = LogitsProcessorList(_warpers(settings))(past_actions, logits)
    if not logits.isfinite().any() or logits.isnan().any():
        raise ValueError("it predicts no numbers: its weights or its settings are not finite")


class _CountEpisodes(BaseStreamer):
    """Tells how many episodes have ended, summed over all rollouts."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self.ended, self.on_progress = 0, on_progress

    def put(self, value: dict[str, Any]) -> None:
        self.ended += 1
        self.on_progress(self.ended)

    def end(self) -> None:
        pass


def in_context_returns(
    model: ADModel,
    tasks: Sequence[Task],
    num_episodes: int,
    rollouts_per_task: int,
    seed: int,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> np.ndarray:
    """Returns (G, R, E) of a model with frozen weights that starts with an empty context on every task."""
    envs = make_vec([task for task in tasks for _ in range(rollouts_per_task)])
    was_training = model.training
    output = model.eval().generate(
        envs, num_episodes=num_episodes, seed=seed, streamer=_CountEpisodes(on_progress)
    )
    model.train(was_training)
    return output.episode_returns.numpy().reshape(len(tasks), rollouts_per_task, num_episodes)


def source_returns(
    source: str,
    tasks: Sequence[Task],
    num_episodes: int,
    rollouts_per_task: int,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Returns (G, R, E) of a source that starts from nothing on every task."""
    learners = [task for task in tasks for _ in range(rollouts_per_task)]
    histories = collect(learners, source, num_episodes, seed, dict(settings or {}))
    return histories.return_matrix().reshape(len(tasks), rollouts_per_task, num_episodes)


def optimal_return(tasks: Sequence[Task], rollouts_per_task: int = 1, seed: int = 0) -> float | None:
    """Mean return of the optimal policy over tasks; None where the environment does not know it."""
    if not hasattr(make_vec(tasks[:1]).unwrapped, "optimal_actions"):
        return None
    settings = {"epsilon_start": 0.0, "epsilon_end": 0.0}
    return float(source_returns("noise", tasks, 1, rollouts_per_task, seed, settings).mean())


def bootstrap_interval(returns: np.ndarray, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean return per episode, over tasks and the rollouts on each.

    Args:
        returns: (G, R, E).
        samples: resamples; each draws G tasks, and R rollouts of each drawn task.
        seed: of the draws.

    Returns:
        Its lower and its upper end, each (E,).
    """
    G, R, _ = returns.shape
    rng = np.random.default_rng(seed)
    means = np.stack(
        [
            returns[rng.integers(G, size=(G, 1)), rng.integers(R, size=(G, R))].mean(axis=(0, 1))
            for _ in range(samples)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def evaluate(
    agents: Mapping[str, ADModel],
    family: TaskFamily,
    source: str,
    source_episodes: int,
    source_settings: Mapping[str, Any],
    settings: EvaluateSettings,
    on_progress: Callable[..., None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Play every held-out task with every agent, and with the references that the environment has.

    Args:
        agents: name -> model: "ad", and "ed" where expert distillation is compared.
        family: whose test tasks are played.
        source: the algorithm that was distilled; it starts from scratch on the test tasks.
        source_episodes: episodes of its whole history, which its schedules are made for; its first
            `num_episodes` are compared, and its whole curve is kept.
        source_settings: its settings where they differ from the defaults.
        settings: how to play.
        on_progress: called as `on_progress(stage, done, total)`, with the stage's episodes.

    Raises:
        ValueError: if a model was made for other spaces, or that many episodes do not fit into memory.

    Returns:
        The report: `{"environment", "optimum", "agents": {name: {"return_per_episode", "low", "high"}},
        "source_history", "protocol"}`.
    """
    tasks, E, R, seed = family["test"], settings.num_episodes, settings.rollouts_per_task, settings.seed
    needed = 100 * len(tasks) * R * max(source_episodes, E) + 8 * E * settings.bootstrap_samples
    if needed > psutil.virtual_memory().available:  # 100 bytes are an episode of a few steps
        raise ValueError(
            f"{R} rollouts on each of {len(tasks)} tasks, of {max(source_episodes, E)} episodes, and "
            f"{settings.bootstrap_samples} resamples take {needed / 2**30:.0f} GiB at least: ask for fewer"
        )
    curves: dict[str, np.ndarray] = {}
    for name, model in agents.items():
        stage = f"{name} on {len(tasks)} held-out tasks"
        played = functools.partial(on_progress, stage, total=len(tasks) * R * E)
        played(0)
        curves[name] = in_context_returns(model, tasks, E, R, seed, played)
    on_progress(f"{source} from scratch", 0, 1)
    whole = source_returns(source, tasks, max(source_episodes, E), R, seed, source_settings)
    curves["source"] = whole[..., :E]
    on_progress("references", 0, 1)
    optimum = optimal_return(tasks, R, seed)
    if optimum is not None:
        curves["random"] = source_returns(
            "noise", tasks, E, R, seed, {"epsilon_start": 1.0, "epsilon_end": 1.0}
        )
    if hasattr(make_vec(tasks[:1]).unwrapped, "consistent_hypotheses"):
        curves["posterior_sampling"] = source_returns("posterior-sampling", tasks, E, R, seed)
    report_agents = {}
    for name, returns in curves.items():
        low, high = bootstrap_interval(returns, settings.bootstrap_samples, seed)
        report_agents[name] = {
            "return_per_episode": returns.mean(axis=(0, 1)).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        }
    return {
        "environment": tasks[0].env_id,
        "optimum": optimum,
        "agents": report_agents,
        "source_history": whole.mean(axis=(0, 1)).tolist(),
        "protocol": {
            "task_family": {"name": family.name, **family.options},
            "test_tasks": [dict(task.params) for task in tasks],
            "source": {"name": source, "num_episodes": source_episodes, "settings": dict(source_settings)},
            **asdict(settings),
            "interval": "95 % bootstrap over tasks and rollouts",
            "parameters": {name: model.num_parameters() for name, model in agents.items()},
            "context_length": {name: model.config.context_length for name, model in agents.items()},
            "actions": {
                name: "sampled" if model.generation_config.do_sample else "greedy"
                for name, model in agents.items()
            },
            "device": str(next(iter(agents.values())).device) if agents else "cpu",
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        },
    }


def history_prompt(histories: Histories, history: int, transitions: int) -> dict[str, torch.Tensor]:
    """The last transitions of a history as a `prompt=` for `ADModel.generate`; each tensor is (1, L, ...)."""
    first, last = histories.episode_offsets[histories.history_offsets[[history, history + 1]]]
    steps = np.arange(max(first, last - transitions), last)
    return {
        "observation": torch.from_numpy(histories.observation[steps])[None],
        "action": torch.from_numpy(histories.action[steps])[None],
        "reward": torch.from_numpy(histories.reward[steps])[None],
        "episode_start": torch.from_numpy(np.isin(steps, histories.episode_offsets))[None],
    }
