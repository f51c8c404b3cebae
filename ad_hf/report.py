"""Reports: what an evaluation found, as a figure, a page and a JSON file."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, RepoCard
from transformers.generation.streamers import BaseStreamer

from ad_hf.cards import TAG, make_card, result_file
from ad_hf.folders import write_whole
from ad_hf.hub import is_reference, split_reference
from ad_hf.models import ADModel
from ad_hf.tasks import Task

# name -> label, colour; drawn in this order, the agent under study last and on top.
AGENTS = {
    "random": ("random", "#9a9fa8"),
    "posterior_sampling": ("posterior sampling", "#7a8b52"),
    "source": ("source from scratch", "#c98b3a"),
    "ed": ("expert distillation", "#b0607c"),
    "prompted": ("from a prompt", "#7fb2dd"),
    "dpt": ("decision-pretrained", "#3d9a8b"),
    "ad": ("algorithm distillation", "#1f6fb4"),
}


def studied(report: dict[str, Any]) -> str:
    """Which agent a report is about; the others are for comparison."""
    return report["protocol"].get("objective") or "ad"


def _split(report: dict[str, Any]) -> str:
    """Whose tasks were played."""
    return report["protocol"].get("split", "test")


def held_out(report: dict[str, Any]) -> str:
    """What was played, in words."""
    split = _split(report)
    return "held-out tasks" if split == "test" else f"held-out tasks of the split {split!r}"


def check_report(report: Any, place: str) -> None:
    """Refuse what is no report of `ad_hf.evaluation.evaluate`: it may come from somebody else.

    Raises:
        ValueError: if it is none.
    """
    try:
        protocol, agents = report["protocol"], report["agents"]
        curves = [agent[key] for agent in agents.values() for key in ("return_per_episode", "low", "high")]
        optimum = [] if report["optimum"] is None else [report["optimum"]]
        numbers = list(itertools.chain(*curves, report["source_history"], optimum))
        is_whole = (
            re.fullmatch(r"[\w./:-]+", report["environment"])
            and {len(curve) for curve in curves} == {protocol["num_episodes"]}
            and all(type(number) in (int, float) for number in numbers)
            and np.isfinite(np.array(numbers, dtype=float)).all()
            and {studied(report), "source"} <= agents.keys()
            and isinstance(protocol["test_tasks"], list)
            and isinstance(protocol["rollouts_per_task"], int)
            and all(studied(report) in protocol[name] for name in ("parameters", "actions"))
            and {"settings"} <= protocol["source"].keys()
            and re.fullmatch(r"[\w-]+", _split(report))
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{place} is no report of `ad-hf evaluate`: run it again")


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write report.json, report.md and learning_curves.png into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", json.dumps(report, indent=1) + "\n")
    write_whole(folder / "report.md", _page(report))
    draw_learning_curves(report, folder / "learning_curves.png")


def episodes_to(curve: list[float], level: float) -> int | None:
    """The first episode, counted from 1, whose mean return is at least `level`; None if there is none."""
    reached = np.flatnonzero(np.asarray(curve) >= level)
    return int(reached[0]) + 1 if len(reached) else None


def summary_rows(report: dict[str, Any]) -> list[list[str]]:
    """A table of the agents: mean return at some episodes, and over the last tenth with its interval."""
    num_episodes = report["protocol"]["num_episodes"]
    marks = [mark for mark in (1, 5, 10, 20, 40, 100, 250, 1000) if mark <= num_episodes]
    marks = marks[:1] + marks[1:][-3:]  # a terminal has 80 columns
    rows = [["episode", *map(str, marks), "last tenth", "95 % interval"]]
    tenth = max(num_episodes // 10, 1)
    for name in reversed(AGENTS):
        if name in report["agents"]:
            curve, low, high = (report["agents"][name][key] for key in ("return_per_episode", "low", "high"))
            values = [f"{curve[mark - 1]:.2f}" for mark in marks]
            interval = f"{np.mean(low[-tenth:]):.2f} to {np.mean(high[-tenth:]):.2f}"
            rows.append([AGENTS[name][0], *values, f"{np.mean(curve[-tenth:]):.2f}", interval])
    if report["optimum"] is not None:
        rows.append(["optimum", *[f"{report['optimum']:.2f}"] * (len(marks) + 1), ""])
    return rows


def summary_text(report: dict[str, Any]) -> str:
    """The same table for a terminal."""
    rows = summary_rows(report)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"{report['environment']}, {len(report['protocol']['test_tasks'])} {held_out(report)}: mean return",
        "",
    ]
    for name, *values in rows:
        cells = [name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _page(report: dict[str, Any]) -> str:
    """report.md."""
    protocol = report["protocol"]
    lines = [
        f"# In-context reinforcement learning on {report['environment']}",
        "",
        f"Frozen weights, {len(protocol['test_tasks'])} {held_out(report)}, {protocol['rollouts_per_task']} "
        f"rollouts of {protocol['num_episodes']} episodes on each, every rollout from an empty context"
        f"{' but for those from a prompt' if 'prompted' in report['agents'] else ''}. "
        "Mean return per episode.",
        "",
        "![learning curves](learning_curves.png)",
        "",
        *_markdown(summary_rows(report)),
        "",
    ]
    if report["optimum"] is not None:
        lines += ["## Episodes to reach a share of the optimum", "", *_pace(report), ""]
        lines += ["## Over all episodes", "", *_totals(report), ""]
    lines += ["## Protocol", "", "```json", json.dumps(protocol, indent=1), "```", ""]
    return "\n".join(lines)


def _pace(report: dict[str, Any]) -> list[str]:
    """How many episodes the model and the source need, as a table."""
    curves = {
        AGENTS[name][0]: agent["return_per_episode"]
        for name, agent in report["agents"].items()
        if name in AGENTS
    }
    curves["source, whole history"] = report["source_history"]
    del curves[AGENTS["source"][0]]
    shares = (0.5, 0.8, 0.9)
    rows = [["agent", *(f"{share:.0%}" for share in shares)]]
    for label, curve in curves.items():
        rows.append([label, *(str(episodes_to(curve, share * report["optimum"]) or "-") for share in shares)])
    return _markdown(rows)


def _totals(report: dict[str, Any]) -> list[str]:
    """Returns over all episodes, also with random actions at 0 and the source at 1, as a table."""
    means = {name: float(np.mean(a["return_per_episode"])) for name, a in report["agents"].items()}
    low, high = means.get("random", 0.0), means["source"]
    rows = [["agent", "mean return", "sum", "from random (0) to the source (1)"]]
    for name in reversed(AGENTS):
        if name in means:
            total = means[name] * report["protocol"]["num_episodes"]
            share = f"{(means[name] - low) / (high - low):.2f}" if high != low else "-"
            rows.append([AGENTS[name][0], f"{means[name]:.3f}", f"{total:.1f}", share])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> list[str]:
    """A table, of which the first row is the head."""
    return ["| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def model_card(
    repo_id: str,
    revision: str | None,
    recipe: dict[str, Any],
    run: dict[str, Any],
    report: dict[str, Any] | None,
    config: dict[str, Any],
) -> tuple[RepoCard, str]:
    """The card of a model, and what belongs into its `.eval_results/`.

    Args:
        repo_id: `org/name`.
        revision: the branch it is on; None is main.
        recipe: recipe.json.
        run: training.json; empty if there is none.
        report: evaluation.json; None if it was not evaluated.
        config: config.json.
    """
    dataset = recipe["dataset"] if is_reference(recipe["dataset"] or "") else None
    dataset_id, dataset_revision = split_reference(dataset) if dataset else (None, None)
    family = recipe["family"]
    results, entries = [], []
    if report is not None:
        tenth = max(report["protocol"]["num_episodes"] // 10, 1)
        value = round(float(np.mean(report["agents"][studied(report)]["return_per_episode"][-tenth:])), 3)
        num_episodes, split = report["protocol"]["num_episodes"], _split(report)
        name = f"mean return on {held_out(report)}, last {tenth} of {num_episodes} episodes"
        results = [
            EvalResult(
                task_type="reinforcement-learning",
                task_name="in-context reinforcement learning",
                dataset_type=dataset_id or report["environment"],
                dataset_name=report["environment"],
                dataset_config=family["name"],
                dataset_split=split,
                dataset_revision=dataset_revision,
                metric_type="mean_return",
                metric_name=name,
                metric_value=value,
            )
        ]
        if dataset_id is not None and split == "test":  # the Hub knows benchmarks by the id of a dataset
            entries = [EvalResultEntry(dataset_id, family["name"], value, notes=name)]
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="reinforcement-learning",
        tags=[TAG, "in-context-reinforcement-learning", family["name"]],
        datasets=[dataset_id] if dataset_id else None,
        model_name=repo_id.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    options = {key: value for key, value in family.items() if key != "name" and value is not None}
    card = make_card(
        "model_card.md",
        metadata,
        repo_id=repo_id,
        revision=revision,
        reference=f"{repo_id}@{revision}" if revision else repo_id,
        recipe=recipe,
        run=run,
        report=report,
        studied=studied(report) if report else None,
        held_out=held_out(report) if report else None,
        config=config,
        family=", ".join([f'"{family["name"]}"', *(f"{key}={value!r}" for key, value in options.items())]),
        observation=_observation(config["observation_space"]),
        dataset=dataset,
        dataset_argument=shlex.quote(str(recipe["dataset"])),
        rows=_markdown(summary_rows(report)) if report else [],
        pace=_pace(report) if report and report["optimum"] is not None else [],
    )
    return card, result_file(entries) if entries else ""


def _observation(space: dict[str, Any]) -> str:
    """Python for what one environment may see, as a batch."""
    if space["type"] == "Box":
        return f"np.zeros({(1, *space['shape'])})"
    return str([[0] * len(space["nvec"])] if "nvec" in space else [0])


@contextlib.contextmanager
def drawing(path: Path, height: float, dpi: int) -> Iterator[Any]:
    """The axes of a figure 9 inches wide, in this project's style, which becomes a PNG file in the end."""
    from matplotlib.figure import Figure  # half a second, which only drawing should cost

    figure = Figure(figsize=(9, height), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    yield axes
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def draw_learning_curves(report: dict[str, Any], path: Path) -> None:
    """Draw mean return per episode with its 95 % interval, every agent labelled where its curve ends."""
    with drawing(path, height=5.2, dpi=150) as axes:
        ends: list[tuple[float, str, str]] = []
        main = studied(report)
        for name, (label, colour) in AGENTS.items():
            if name not in report["agents"]:
                continue
            agent = report["agents"][name]
            episodes = np.arange(1, len(agent["return_per_episode"]) + 1)
            axes.plot(
                episodes, agent["return_per_episode"], color=colour, linewidth=2.6 if name == main else 1.6
            )
            axes.fill_between(episodes, agent["low"], agent["high"], color=colour, alpha=0.16, linewidth=0)
            ends.append((float(np.mean(agent["return_per_episode"][-3:])), label, colour))
        top = max(value for value, _, _ in ends) or 1.0
        if report["optimum"] is not None:
            top = report["optimum"]
            axes.axhline(top, color="#30343b", linewidth=1.2, linestyle=(0, (5, 4)))
            ends.append((top, "optimum", "#30343b"))
        last = report["protocol"]["num_episodes"]
        for height, (_, label, colour) in zip(
            _spread([end[0] for end in ends], 0.055 * top), ends, strict=True
        ):
            axes.annotate(
                label,
                (last, height),
                xytext=(8, 0),
                textcoords="offset points",
                color=colour,
                va="center",
                annotation_clip=False,  # the highest may stand above the axes
            )
        axes.set_xlim(1, max(last, 2))
        axes.set_ylim(0, top * 1.06)
        axes.set_xlabel("episode in context")
        axes.set_ylabel("mean return")
        title = f"{report['environment']}: {len(report['protocol']['test_tasks'])} {held_out(report)}"
        axes.set_title(f"{title}, frozen weights", loc="left", fontsize=12)


def _spread(heights: list[float], gap: float) -> list[float]:
    """The heights moved up just enough that no two labels are closer than `gap`."""
    order = np.argsort(heights)
    spread = list(heights)
    for lower, upper in itertools.pairwise(order):
        spread[upper] = max(spread[upper], spread[lower] + gap)
    return spread


class _Watched(VectorWrapper, BaseStreamer):
    """A single environment that shows every step, and every episode as it ends."""

    def __init__(
        self,
        env: gym.vector.VectorEnv,
        on_step: Callable[[str], None],
        on_episode: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__(env)
        self.actions: list[int] = []
        self.on_step, self.on_episode = on_step, on_episode

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        result = self.env.step(actions)
        self.actions.append(int(actions[0]))
        frames: Any = self.env.render()
        self.on_step(frames[0])
        return result

    def put(self, value: dict[str, Any]) -> None:
        self.on_episode({**value, "actions": self.actions})
        self.actions = []

    def end(self) -> None:
        pass


def watch(
    model: ADModel,
    task: Task,
    num_episodes: int,
    temperature: float,
    seed: int,
    on_step: Callable[[str], None],
    on_episode: Callable[[dict[str, Any]], None],
) -> None:
    """Play one task and show it.

    Args:
        model: with frozen weights; its context starts empty.
        task: in an environment that renders as "ansi".
        num_episodes: how many, all in one context.
        temperature: of the actions; 0 takes the likeliest.
        seed: of the environment and the actions.
        on_step: called with the room as text after every step.
        on_episode: called with {"env", "episode", "return", "length", "actions"} as each episode ends.
    """
    env = SyncVectorEnv([lambda: task.make(render_mode="ansi")], autoreset_mode=AutoresetMode.DISABLED)
    watched = _Watched(env, on_step, on_episode)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    model.generate(watched, num_episodes=num_episodes, seed=seed, streamer=watched, **sampling)
