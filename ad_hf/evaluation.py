"""Evaluation: does a frozen model reinforcement-learn on tasks it never saw, and how does that compare.

G = tasks, R = rollouts per task, E = episodes.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil  # comes with accelerate
import torch
import transformers
from transformers.generation.streamers import BaseStreamer

from ad_hf.histories import Histories, collect, observations
from ad_hf.models import ADModel
from ad_hf.models.generation_ad import COLDEST, HOTTEST
from ad_hf.tasks import Task, TaskFamily, make_vec

CONTEXTS = 2**30  # bytes of observations that the contexts of rollouts may take side by side


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is judged.

    Args:
        num_episodes: episodes per rollout, all in one context.
        rollouts_per_task: independent rollouts on each held-out task.
        bootstrap_samples: resamples behind the 95 % intervals.
        seed: of the rollouts and the bootstrap.
        split: whose tasks are played: "test", or another that was not trained on.
        prompt: also play from a prompt instead of from nothing: the source's history on the same task up to
            where its return reaches this share of the optimum (Laskin et al. 2022, section 4.3). 0 does not.
        temperature: of the actions drawn; below 1 likelier actions become likelier still. None is the model's
            own, which is 1 unless somebody changed it.
    """

    num_episodes: int = 60
    rollouts_per_task: int = 32
    bootstrap_samples: int = 1000
    seed: int = 1
    split: str = "test"
    prompt: float = 0.0
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_episodes", "rollouts_per_task", "bootstrap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}, but must be from 0 to {2**63 - 1}")
        if not 0 <= self.prompt <= 1:
            raise ValueError(f"prompt is {self.prompt}, but must be a share of the optimum, from 0 to 1")
        if self.temperature is not None and not COLDEST <= self.temperature <= HOTTEST:
            raise ValueError(
                f"temperature is {self.temperature}, but must be from {COLDEST:g} to {HOTTEST:g}, or null"
            )


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
    prompt: dict[str, torch.Tensor] | None = None,
    temperature: float | None = None,
) -> np.ndarray:
    """Returns (G, R, E) of a model with frozen weights on every task, from an empty context or a prompt.

    Args:
        model: to be played.
        tasks: G.
        num_episodes: E.
        rollouts_per_task: R.
        seed: of the environments and the actions.
        on_progress: called with the number of episodes that have ended.
        prompt: a history for each rollout, (G * R, L, ...), as for `ADModel.generate`.
        temperature: of the actions; None is the model's own.
    """
    rows = [task for task in tasks for _ in range(rollouts_per_task)]
    was_training = model.training
    model.eval()
    counter = _CountEpisodes(on_progress)
    config = model.config
    transition = math.prod(config.observation_shape) * (1 if config.sees_pictures else 8)  # bytes
    at_once = max(CONTEXTS // (transition * config.context_length), 1)
    sampling: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    returns = np.empty((len(rows), num_episodes))
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        output = model.generate(
            make_vec(rows[part]),
            num_episodes=num_episodes,
            seed=seed + first,
            streamer=counter,
            prompt=None if prompt is None else {name: values[part] for name, values in prompt.items()},
            **sampling,
        )
        returns[part] = output.episode_returns
    model.train(was_training)
    return returns.reshape(len(tasks), rollouts_per_task, num_episodes)


def source_histories(
    source: str,
    tasks: Sequence[Task],
    num_episodes: int,
    rollouts_per_task: int,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> Histories:
    """Histories (G * R) of a source that starts from nothing on every task."""
    learners = [task for task in tasks for _ in range(rollouts_per_task)]
    return collect(learners, source, num_episodes, seed, settings)


def source_returns(
    source: str,
    tasks: Sequence[Task],
    num_episodes: int,
    rollouts_per_task: int,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Returns (G, R, E) of a source that starts from nothing on every task."""
    histories = source_histories(source, tasks, num_episodes, rollouts_per_task, seed, settings)
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
        agents: objective -> model: the one under study first, and "ed" where expert distillation is compared.
        family: whose held-out tasks are played.
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
    if settings.split == "train":
        raise ValueError("the split 'train' was trained on: choose another, for example 'test'")
    tasks, seed = family[settings.split], settings.seed
    E, R = settings.num_episodes, settings.rollouts_per_task
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
        curves[name] = in_context_returns(model, tasks, E, R, seed, played, None, settings.temperature)
    on_progress(f"{source} from scratch", 0, 1)
    histories = source_histories(source, tasks, max(source_episodes, E), R, seed, source_settings)
    whole = histories.return_matrix().reshape(len(tasks), R, -1)
    curves["source"] = whole[..., :E]
    on_progress("references", 0, 1)
    optimum = optimal_return(tasks, R, seed)
    studied = next(iter(agents), None)
    if settings.prompt and studied is not None:
        level = settings.prompt * (whole[..., -max(E // 10, 1) :].mean() if optimum is None else optimum)
        model = agents[studied]
        prompt = history_prompts(histories, level, model.config.context_length // 2)
        played = functools.partial(on_progress, f"{studied} from prompts", total=len(tasks) * R * E)
        curves["prompted"] = in_context_returns(
            model, tasks, E, R, seed, played, prompt, settings.temperature
        )
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
            "objective": studied,
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
    return _prompt(histories, np.arange(max(first, last - transitions), last)[None])


def history_prompts(histories: Histories, level: float, transitions: int) -> dict[str, torch.Tensor]:
    """From every history the transitions up to where its return reaches a level; each tensor is (N, L, ...).

    Args:
        histories: N.
        level: of the mean return over a twentieth of a history. Of one that never reaches it, the best part
            is taken.
        transitions: L; where a history has fewer before that, those at its start are taken.

    Raises:
        ValueError: if a history has fewer transitions.
    """
    returns = histories.return_matrix()  # (N, E)
    width = max(returns.shape[1] // 20, 1)
    totals = np.cumsum(np.pad(returns, ((0, 0), (1, 0))), axis=1)
    means = (totals[:, width:] - totals[:, :-width]) / width  # over the episodes up to e + width - 1
    reached = np.where((means >= level).any(axis=1), (means >= level).argmax(axis=1), means.argmax(axis=1))
    starts = histories.episode_offsets[histories.history_offsets[:-1]]
    episodes = histories.history_offsets[:-1] + reached + width
    # Prompts end where an episode ends.
    enough = np.searchsorted(histories.episode_offsets, starts + transitions)
    episodes = np.maximum(episodes, enough)
    if (episodes > histories.history_offsets[1:]).any():
        raise ValueError(f"a prompt has {transitions} transitions, but a history has fewer")
    ends = histories.episode_offsets[episodes]
    return _prompt(histories, ends[:, None] - transitions + np.arange(transitions))


def _prompt(histories: Histories, steps: np.ndarray) -> dict[str, torch.Tensor]:
    """Steps (B, L) as a prompt."""
    return {
        "observation": torch.from_numpy(observations(histories, steps)),
        "action": torch.from_numpy(histories.action[steps]),
        "reward": torch.from_numpy(histories.reward[steps]),
        "episode_start": torch.from_numpy(np.isin(steps, histories.episode_offsets)),
    }
