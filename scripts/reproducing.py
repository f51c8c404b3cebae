"""What the reproductions share: agents, made once per seed and played on every held-out task.

A figure is a list of agents. Each is a recipe with some settings changed, made by what `ad-hf collect` and
`ad-hf train` do. Histories, models and returns are kept in --output under names that follow from what made
them, so figures share them, and an interrupted run goes on. What it found is in scripts/results.

S = seeds, G = tasks, R = rollouts, E = episodes. Import it before NumPy and torch: see benchmarking.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import benchmarking  # noqa: F401  # one thread each: see there
import numpy as np
import torch
from reproduced import RESULTS, Outcome, write_result
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.utils.logging import disable_progress_bar

from ad_hf.evaluation import (
    history_prompts,
    in_context_returns,
    optimal_return,
    source_histories,
    source_returns,
)
from ad_hf.folders import claimed
from ad_hf.loading import load_model
from ad_hf.recipes import Recipe, load_recipe
from ad_hf.runs import run_collect, run_train
from ad_hf.tasks import Task, load_task_family

MEASURE = "mean return over the last tenth of the episodes"
SOURCE = "AD's source: posterior sampling until refuted"
TRIAL_TASKS = 64  # at most, of the validation split
RANDOM = ("collect.source=noise", 'collect.settings={"epsilon_start": 1.0, "epsilon_end": 1.0}')
REFUTED = ("collect.source=posterior-sampling", 'collect.settings={"resample": "refuted"}')
POSTERIOR = ("collect.source=posterior-sampling", 'collect.settings={"resample": "episode"}')
# The model and the optimisation of the paper, as far as it states them.
PAPER = (
    'model.decoder={"model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 2048, '
    '"num_hidden_layers": 4, "num_attention_heads": 4, "do_layer_norm_before": false, "dropout": 0.1, '
    '"attention_dropout": 0.5}',
    *("train.batch_size=128", "train.learning_rate=3e-4", "train.beta2=0.99", "train.weight_decay=0"),
    *("train.mixed_precision=bf16", "windows.token_mask=0.3", "windows.episode_stride=1"),
)
# Q-learning from optimistic values, which tells apart what has been found in an episode.
Q_KEY_TO_DOOR = (
    "collect.source=q-learning",
    'collect.settings={"remember_rewards": 2, "initial_value": 0.3, "epsilon_start": 0.2, "discount": 0.95}',
    *("collect.num_episodes=200", "windows.episode_stride=25", "family.num_train=2000"),
    *("train.batch_size=16", "evaluate.temperature=null"),
)
Q_HARD = (
    "collect.source=q-learning",
    'collect.settings={"remember_rewards": 1, "initial_value": 0.3, "epsilon_start": 0.3, "discount": 0.95}',
    *("collect.num_episodes=1000", "windows.episode_stride=60", "collect.learners_per_task=8"),
    "evaluate.temperature=null",
)
# The paper's A3C, as far as it states it; here every learner is an actor of its own.
A2C = (
    "collect.source=a2c",
    'collect.settings={"learning_rate": 1e-4, "value_learning_rate": 1e-4, "discount": 0.99, '
    '"entropy_coefficient": 0.01, "hidden_size": 128}',
    "collect.num_episodes=5000",
)
ALL = ("tiny", "cpu", "paper")
GPU = ("tiny", "paper")  # of what is too dear for CPUs
REAL = ("cpu", "paper")  # of what would only make a test longer


@dataclass(frozen=True)
class Agent:
    """One curve or point of a figure.

    Args:
        label: what it is called, unlike all others of the figure.
        recipe: the name of a recipe.
        changes: what is changed in it, as for `--set`.
        at: what else is changed at a scale.
        plays: "model", what is distilled; or "source", the algorithm itself from scratch.
        chosen: whether the changes chosen among the figure's candidates are its too.
        scales: those at which there is this agent.
        prompt: the share of the optimum at which a policy acts in the prompt; None starts from nothing.
        series: which line of a figure of points it belongs to.
        x: where it stands on that line.
        paper: what the paper has for it.
        goals: the thresholds "reproduced" (of the mean), "beaten" (of the interval's lower end) and "strong"
            (of the mean), as far as there are any.
    """

    label: str
    recipe: str
    changes: tuple[str, ...] = ()
    at: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plays: str = "model"
    chosen: bool = False
    scales: tuple[str, ...] = ALL
    prompt: float | None = None
    series: str = ""
    x: float | str = ""
    paper: float | None = None
    goals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How much of a figure is done.

    Args:
        seeds: trainings of each agent, each with its own histories.
        episodes: of every rollout.
        rollouts: on each task.
        changes: in every recipe.
    """

    seeds: int
    episodes: int
    rollouts: int = 1
    changes: tuple[str, ...] = ()


TINY = (
    *("train.updates=2", "train.warmup=1", "train.batch_size=4"),
    *("collect.learners_per_task=1", "collect.num_episodes=20"),
)
FEW_TASKS = (*TINY, "family.num_train=20", "family.num_test=2")
# Key-to-Door for sweeps: a single stream, of which every tenth episode is kept, as its figure has it.
STREAM = (*Q_KEY_TO_DOOR, "collect.learners_per_task=1")
SWEEP = (*STREAM, "windows.episode_stride=10")


def sweep_scales(updates: int) -> dict[str, Scale]:
    """The scales of a sweep over Key-to-Door, with so many updates on CPUs."""
    cpu = ("family.num_test=64", f"train.updates={updates}")
    return {
        "tiny": Scale(seeds=1, episodes=2, changes=(*FEW_TASKS, "family.num_train=40")),
        "cpu": Scale(seeds=3, episodes=60, changes=cpu),
        "paper": Scale(seeds=5, episodes=300, changes=("train.updates=20000",)),
    }


optimum_of = functools.cache(optimal_return)


def faithful(
    recipe: str,
    changes: tuple[str, ...],
    sizes: Mapping[str, tuple[str, ...]],
    paper: tuple[float, float, float],
    goals: tuple[Mapping[str, float], Mapping[str, float], Mapping[str, float]],
) -> tuple[Agent, Agent, Agent]:
    """The paper's model of A2C, the same model as expert distillation, and A2C itself.

    Args:
        recipe: of the environment.
        changes: in it, for both models.
        sizes: scale -> what else is changed in the models.
        paper: what the paper has for the three.
        goals: of the three.
    """
    experts = (*changes, "objective=ed")
    ad, ed, source = zip(paper, goals, strict=True)
    return (
        Agent("AD, faithful", recipe, changes, sizes, scales=GPU, paper=ad[0], goals=ad[1]),
        Agent("ED, faithful", recipe, experts, sizes, scales=GPU, paper=ed[0], goals=ed[1]),
        Agent(
            *("faithful AD's source: A2C", recipe, A2C),
            plays="source",
            scales=GPU,
            paper=source[0],
            goals=source[1],
        ),
    )


def last_tenth(returns: np.ndarray) -> np.ndarray:
    """Mean returns over the last tenth of the episodes, of (..., E)."""
    return returns[..., -max(returns.shape[-1] // 10, 1) :].mean(axis=-1)


def all_last_tenths(returns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`last_tenth` of every agent, (S, G) each."""
    return {label: last_tenth(values) for label, values in returns.items()}


def no_remarks(returns: Mapping[str, np.ndarray]) -> list[str]:
    """Nothing to add."""
    return []


@dataclass(frozen=True)
class Figure:
    """What is to be reproduced.

    Args:
        name: of the script and the results.
        title: in words.
        agents: all of them.
        scales: "tiny", "cpu" and "paper".
        protocol: what a reader has to know to compare: the paper's figure, and what is different here.
        measure: what the numbers of its table are.
        candidates: name -> changes, of which those are chosen that earn most on the validation split.
        trial: what else is changed in trying them at a scale.
        levels: mean returns of which the episodes that they take are told.
        summarise: from the returns (S, G, E) of all agents to the numbers (S, G) of the table.
        points: draw the numbers as points over this axis, instead of learning curves.
        has_optimum: whether the numbers are returns, which the optimum is one of.
        relative: tell returns as shares of the optimum, where environments differ.
        remarks: further lines for the page, from the returns.
    """

    name: str
    title: str
    agents: tuple[Agent, ...]
    scales: Mapping[str, Scale]
    protocol: str
    measure: str = MEASURE
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trial: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    levels: tuple[float, ...] = ()
    summarise: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = all_last_tenths
    points: str = ""
    has_optimum: bool = True
    relative: bool = False
    remarks: Callable[[Mapping[str, np.ndarray]], list[str]] = no_remarks

    def at(self, scale: str) -> tuple[Agent, ...]:
        """The agents that there are at a scale."""
        return tuple(agent for agent in self.agents if scale in agent.scales)


def reproduce(figure: Figure, doc: str | None) -> None:
    """The command line of a figure: make its agents, play them, and write down what they did."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scale",
        choices=list(figure.scales),
        default="cpu",
        help="tiny: that it runs; cpu: under an hour on two cores; paper: one GPU",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/reproduce"), help="histories, models, returns"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="what is kept: JSON, figure and page")
    parser.add_argument("--num-proc", type=int, default=2, help="seeds that are worked on side by side")
    arguments = parser.parse_args()
    outcome = run(figure, arguments.scale, arguments.output, arguments.num_proc)
    write_result(outcome, arguments.results)


def run(figure: Figure, scale: str, output: Path, num_proc: int) -> Outcome:
    """What a figure's agents do, from what is kept in `output` or from scratch."""
    candidates = _choose(figure, scale, output, num_proc) if figure.candidates else {}
    chosen = figure.candidates[max(candidates, key=candidates.__getitem__)] if candidates else ()
    work = functools.partial(_play_seed, figure, scale, chosen, output)
    played = _share_out(work, range(figure.scales[scale].seeds), num_proc)
    agents = figure.at(scale)
    returns = {agent.label: np.stack([seed[agent.label][0] for seed in played]) for agent in agents}
    seconds = {name: cost for seed in played for _, costs in seed.values() for name, cost in costs.items()}
    tasks = {agent.label: _tasks(_recipe(figure, agent, scale, chosen, 0)) for agent in agents}
    optimum = {label: optimum_of(there) if figure.has_optimum else None for label, there in tasks.items()}
    if figure.relative:
        returns = {label: values / (optimum[label] or 1) for label, values in returns.items()}
        optimum = dict.fromkeys(optimum, 1.0)
    return Outcome(
        figure=figure,
        scale=scale,
        returns=returns,
        changes={agent.label: _changes(figure, agent, scale, chosen) for agent in agents},
        optimum=optimum,
        candidates=candidates,
        core_minutes=sum(seconds.values()) / 60,
    )


def _share_out(work: Callable[[int], Any], seeds: Sequence[int], num_proc: int) -> list[Any]:
    """The work on each seed, in this process or in others."""
    if min(num_proc, len(seeds)) <= 1:
        return [work(seed) for seed in seeds]
    with ProcessPoolExecutor(num_proc, get_context("spawn")) as pool:
        return list(pool.map(work, seeds))


def _choose(figure: Figure, scale: str, output: Path, num_proc: int) -> dict[str, float]:
    """What each candidate earns in its first 100 episodes on training tasks that are held out for this."""
    agent = next(agent for agent in figure.agents if agent.chosen)
    names = list(figure.candidates)
    work = functools.partial(_try_candidate, figure, agent, scale, output)
    return dict(zip(names, _share_out(work, range(len(names)), num_proc), strict=True))


def _try_candidate(figure: Figure, agent: Agent, scale: str, output: Path, number: int) -> float:
    candidate = list(figure.candidates.values())[number]
    trial = (f"evaluate.num_episodes={min(figure.scales[scale].episodes, 100)}", *figure.trial.get(scale, ()))
    agent = dataclasses.replace(agent, at={scale: (*agent.at.get(scale, ()), *candidate)})
    returns, _ = _play(
        agent, _recipe(figure, agent, scale, (), 0, (*trial, "family.validation=true")), output
    )
    return float(returns.mean())


def _play_seed(
    figure: Figure, scale: str, chosen: tuple[str, ...], output: Path, seed: int
) -> dict[str, tuple[np.ndarray, dict[str, float]]]:
    """What `_play` says of every agent with one seed."""
    return {
        agent.label: _play(agent, _recipe(figure, agent, scale, chosen, seed), output)
        for agent in figure.at(scale)
    }


def _changes(figure: Figure, agent: Agent, scale: str, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """All that is changed in an agent's recipe, apart from its seeds; of a setting the last change counts."""
    size = figure.scales[scale]
    changes = (
        *agent.changes,
        *(chosen if agent.chosen else ()),
        *size.changes,
        *agent.at.get(scale, ()),
        f"evaluate.num_episodes={size.episodes}",
        f"evaluate.rollouts_per_task={size.rollouts}",
    )
    return tuple({change.partition("=")[0]: change for change in changes}.values())


def _recipe(
    figure: Figure, agent: Agent, scale: str, chosen: tuple[str, ...], seed: int, trial: tuple[str, ...] = ()
) -> Recipe:
    """The recipe of an agent with one seed; in a trial something else is changed last."""
    seeds = (f"collect.seed={seed}", f"train.seed={seed}", f"evaluate.seed={seed + 1}")
    return load_recipe(agent.recipe, (*_changes(figure, agent, scale, chosen), *seeds, *trial))


@functools.cache
def _split(family: str, split: str) -> tuple[Task, ...]:
    """A split of a family in JSON: the agents of a figure play the same, and some are slow to draw."""
    return load_task_family(**json.loads(family))[split]


def _tasks(recipe: Recipe) -> tuple[Task, ...]:
    """The tasks to play: all that are held out, or some of those that are for a choice."""
    tasks = _split(json.dumps(recipe.family), recipe.evaluate.split)
    return tasks[:: -(-len(tasks) // TRIAL_TASKS)] if "validation" in recipe.family else tasks


def _name(*parts: Any) -> str:
    """A name that follows from what made something."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _play(agent: Agent, recipe: Recipe, output: Path) -> tuple[np.ndarray, dict[str, float]]:
    """Returns (G, E) of an agent, means over its rollouts, and the CPU seconds of what was made for them."""
    made_by = [asdict(recipe.collect), recipe.family, agent.plays, agent.prompt, asdict(recipe.evaluate)]
    seconds: dict[str, float] = {}
    if agent.plays == "model":
        made_by.append(asdict(recipe))
        folder, seconds = _make_model(recipe, output)
    path = output / "returns" / f"{_name(*made_by)}.safetensors"
    if not path.exists():
        started = time.process_time()
        returns = _play_model(agent, recipe, folder) if agent.plays == "model" else _play_source(recipe)
        spent = {"seconds": str(time.process_time() - started)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{recipe.train.seed}")
        save_file({"returns": returns}, partial, spent)
        partial.rename(path)
        print(f"{agent.label}, seed {recipe.train.seed}: {last_tenth(returns).mean():.3f}", flush=True)
    with safe_open(path, "np") as file:
        return file.get_tensor("returns"), seconds | {path.stem: float(file.metadata()["seconds"])}


def _make_model(recipe: Recipe, output: Path) -> tuple[Path, dict[str, float]]:
    """The folder of what is distilled, made if need be, and the CPU seconds of it and its histories."""
    histories = output / "histories" / _name(recipe.family, asdict(recipe.collect))
    made_by = dataclasses.replace(recipe, evaluate=type(recipe.evaluate)())
    folder = output / "models" / _name(asdict(made_by))
    disable_progress_bar()
    with _waiting(output / "making" / folder.name):
        cost = folder / "seconds"
        if not cost.exists():
            started = time.process_time()
            with _waiting(output / "making" / histories.name):
                run_collect(recipe, histories, lambda done, total: None)
            run_train(recipe, str(histories), folder, resume=True)
            cost.write_text(str(time.process_time() - started))
        return folder, {folder.name: float(cost.read_text())}


def _play_model(agent: Agent, recipe: Recipe, folder: Path) -> np.ndarray:
    """Returns (G, E) of what is distilled."""
    tasks, settings = _tasks(recipe), recipe.evaluate
    model = load_model(str(folder))
    prompt = None
    if agent.prompt is not None:
        prompt = _prompt(tasks, agent.prompt, model.config.context_length // 2, settings)
    returns = in_context_returns(
        model,
        tasks,
        settings.num_episodes,
        settings.rollouts_per_task,
        settings.seed,
        prompt=prompt,
        temperature=settings.temperature,
    )
    return returns.mean(axis=1)


def _waiting(folder: Path) -> contextlib.AbstractContextManager[None]:
    """A block that one process at a time is in, of all that make the same."""
    folder.mkdir(parents=True, exist_ok=True)
    return claimed(folder, wait=True)


def _play_source(recipe: Recipe) -> np.ndarray:
    """Returns (G, E) of the source from scratch; its schedules are made for its whole history."""
    collect, settings = recipe.collect, recipe.evaluate
    episodes = max(collect.num_episodes, settings.num_episodes)
    returns = source_returns(
        collect.source, _tasks(recipe), episodes, settings.rollouts_per_task, settings.seed, collect.settings
    )
    return returns[..., : settings.num_episodes].mean(axis=1)


def _prompt(tasks: Sequence[Task], share: float, transitions: int, settings: Any) -> dict[str, torch.Tensor]:
    """What a policy that earns a share of the optimum does on every task, as prompts (G * R, L, ...)."""
    optimum = optimum_of(tasks) or 0.0

    def noise(level: float) -> dict[str, float]:
        return {"epsilon_start": level, "epsilon_end": level}

    low, high = 0.0, 1.0
    for _ in range(12):  # less noise earns more
        middle = (low + high) / 2
        earned = source_returns("noise", tasks, 50, 1, settings.seed, noise(middle)).mean()
        low, high = (middle, high) if earned > share * optimum else (low, middle)
    episodes = 2 * transitions  # enough, however short
    histories = source_histories(
        "noise", tasks, episodes, settings.rollouts_per_task, settings.seed, noise(low)
    )
    return history_prompts(histories, -np.inf, transitions)
