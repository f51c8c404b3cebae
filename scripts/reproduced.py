"""What the reproductions found, in scripts/results: raw numbers with intervals as JSON, figures, and a page.

S = seeds, G = tasks, E = episodes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking import machine, markdown, print_table, write_between

from ad_hf.folders import write_whole
from ad_hf.report import drawing, episodes_to

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 2000
BINS = 60  # of episodes in a learning curve, as wide as they are late
COLOURS = ("#1f6fb4", "#b0607c", "#3d9a8b", "#7fb2dd", "#c98b3a", "#7a8b52", "#8e6bb0", "#9a9fa8", "#30343b")
HEAD = ("agent", "paper", "ours", "95 % interval", "IQM", "optimum", "which is")


@dataclass(frozen=True)
class Outcome:
    """What the agents of a figure did.

    Args:
        figure: a `reproducing.Figure`.
        scale: how much of it was done.
        returns: label -> (S, G, E), means over rollouts.
        changes: label -> what was changed in the agent's recipe.
        optimum: label -> mean return of optimal play on the tasks it was played on, if that is known.
        candidates: name -> what it earned on the validation split.
        core_minutes: what all of it took, also what was done before and kept.
    """

    figure: Any
    scale: str
    returns: Mapping[str, np.ndarray]
    changes: Mapping[str, tuple[str, ...]]
    optimum: Mapping[str, float | None]
    candidates: Mapping[str, float]
    core_minutes: float


def resamples(S: int, G: int, samples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs (S, G) of seeds and tasks in each resample of a bootstrap, as an index of arrays (S, G, ...).

    Every seed was played on every task, so each draws S seeds and G tasks and takes all their pairs.
    """
    rng = np.random.default_rng(0)
    for _ in range(samples):
        yield rng.integers(S, size=(S, 1)), rng.integers(G, size=G)


def interval(values: np.ndarray, samples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of the mean of (S, G, ...) over seeds and tasks."""
    S, G = values.shape[:2]
    means = np.stack([values[drawn].mean(axis=(0, 1)) for drawn in resamples(S, G, samples)])
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def pace(returns: np.ndarray, level: float) -> int | None:
    """The first episode in which the mean over (S, G, E) is at least `level`; None if there is none."""
    return episodes_to(returns.mean(axis=(0, 1)).tolist(), level)


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of all seeds' and tasks' values (Agarwal et al. 2021, arXiv 2108.13264)."""
    ordered = np.sort(values, axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def verdict(mean: float, low: float, goals: Mapping[str, float]) -> str:
    """Which of an agent's goals are reached, and what the next one lacks."""
    reached = ""
    for name, goal in goals.items():
        if name == "at most":
            return "as low as it should be" if mean <= goal else f"{mean - goal:.2g} above {goal:g}"
        value = low if name == "beaten" else mean
        fits = value > goal if name == "beaten" else value >= goal
        if not fits:
            part = "lower end " if name == "beaten" else ""
            return f"{reached}{'; ' if reached else ''}{part}{goal - value:.2g} short of {name} ({goal:g})"
        reached = name
    return reached


def write_result(outcome: Outcome, folder: Path) -> None:
    """Write <figure>.json and <figure>.png into a folder, and its page anew; print the table."""
    result = describe(outcome)
    folder.mkdir(parents=True, exist_ok=True)
    rows = re.compile(r"\[([-\d.,\s]+)\]")  # of numbers, which need no lines of their own
    text = rows.sub(lambda row: f"[{' '.join(row[1].split())}]", json.dumps(result, indent=1))
    write_whole(folder / f"{result['figure']}.json", text + "\n")
    draw(result, folder / f"{result['figure']}.png")
    print_table([HEAD, *table(result)])
    write_page(folder)


def describe(outcome: Outcome) -> dict[str, Any]:
    """All that is kept of an outcome, as JSON."""
    figure = outcome.figure
    size = figure.scales[outcome.scale]
    numbers = figure.summarise(outcome.returns)
    edges = np.unique(np.geomspace(1, size.episodes + 1, BINS + 1).astype(int))
    agents = {}
    for agent in figure.at(outcome.scale):
        values = numbers[agent.label]  # (S, G)
        low, high = interval(values)
        agents[agent.label] = {
            "recipe": agent.recipe,
            "changes": list(outcome.changes[agent.label]),
            "plays": agent.plays,
            "prompt": agent.prompt,
            "series": agent.series,
            "x": agent.x,
            "paper": agent.paper,
            "tasks": values.shape[1],
            "optimum": _rounded(outcome.optimum[agent.label]),
            "mean": _rounded(values.mean()),
            "low": _rounded(low),
            "high": _rounded(high),
            "iqm": _rounded(interquartile_mean(values)),
            "which_is": verdict(float(values.mean()), float(low), agent.goals),
            "raw": _rounded(values),
        }
        if not figure.points:
            returns = outcome.returns[agent.label]
            binned = np.add.reduceat(returns, edges[:-1] - 1, axis=-1) / np.diff(edges)
            lows, highs = interval(binned, RESAMPLES // 4)
            agents[agent.label] |= {
                "curve": {
                    "mean": _rounded(binned.mean(axis=(0, 1))),
                    "low": _rounded(lows),
                    "high": _rounded(highs),
                },
                "episodes_to": {f"{level:g}": pace(returns, level) for level in figure.levels},
            }
    return {
        "figure": figure.name,
        "title": figure.title,
        "measure": figure.measure,
        "protocol": figure.protocol,
        "points": figure.points,
        "scale": outcome.scale,
        "seeds": size.seeds,
        "episodes": size.episodes,
        "rollouts": size.rollouts,
        "core_minutes": round(outcome.core_minutes, 1),
        "machine": machine(),
        "candidates": {name: _rounded(value) for name, value in outcome.candidates.items()},
        "episode": [
            round((first + last) / 2, 1) for first, last in zip(edges[:-1], edges[1:] - 1, strict=True)
        ],
        "agents": agents,
        "remarks": figure.remarks(outcome.returns),
    }


def _rounded(values: Any) -> Any:
    """Numbers in three digits after the point."""
    return None if values is None else np.round(values, 3).tolist()


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The lines of a result's table."""
    return [
        (
            label,
            "" if agent["paper"] is None else f"{agent['paper']:g}",
            f"{agent['mean']:.2f}",
            f"{agent['low']:.2f} to {agent['high']:.2f}",
            f"{agent['iqm']:.2f}",
            "" if agent["optimum"] is None else f"{agent['optimum']:.2f}",
            agent["which_is"],
        )
        for label, agent in result["agents"].items()
    ]


def _by_series(agents: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Agents by the line they belong to."""
    series: dict[str, list[dict[str, Any]]] = {}
    for agent in agents:
        series.setdefault(agent["series"], []).append(agent)
    return series


def overview(results: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Two tables of all results: agents that the paper has or that have goals, and figures of points."""
    curves: list[tuple[str, ...]] = [("figure", *HEAD, "scale, seeds")]
    sweeps: list[tuple[str, ...]] = [
        ("figure", "over", "paper", "ours", "95 % interval", "optimum", "scale, seeds")
    ]
    for result in results:
        scale = f"{result['scale']}, {result['seeds']}"
        for (label, *cells), agent in zip(table(result), result["agents"].values(), strict=True):
            if not result["points"] and (agent["paper"] is not None or agent["which_is"]):
                curves.append((result["title"], label, *cells, scale))
        known = [agent for agent in result["agents"].values() if agent["paper"] is not None]
        for name, agents in _by_series(known if result["points"] else []).items():
            columns = (
                " / ".join(written.format(**agent) for agent in agents)
                for written in ("{x}", "{paper:.2f}", "{mean:.2f}", "{low:.2f} to {high:.2f}")
            )
            best = "" if agents[0]["optimum"] is None else f"{agents[0]['optimum']:.2f}"
            sweeps.append((f"{result['title']}, {name}", *columns, best, scale))
    return curves, sweeps


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw learning curves, or points, with their intervals."""
    with drawing(path, height=4.6, dpi=100) as axes:
        if result["points"]:
            _draw_points(axes, result)
        else:
            _draw_curves(axes, result)
        axes.set_title(f"{result['title']} ({result['scale']})", loc="left", fontsize=12)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_curves(axes: Any, result: Mapping[str, Any]) -> None:
    optimum = next(iter(result["agents"].values()))["optimum"]
    for (label, agent), colour in zip(result["agents"].items(), COLOURS, strict=False):
        curve, style = agent["curve"], "-" if agent["plays"] == "model" else "--"
        axes.plot(result["episode"], curve["mean"], style, color=colour, label=label, linewidth=2)
        axes.fill_between(
            result["episode"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0
        )
    if optimum is not None:
        axes.axhline(optimum, color="#30343b", linewidth=1.2, linestyle=":", label="optimum")
    if result["episodes"] > 60:
        axes.set_xscale("log")
    axes.set_xlabel("episode in context")
    axes.set_ylabel("mean return")


def _draw_points(axes: Any, result: Mapping[str, Any]) -> None:
    series = _by_series(result["agents"].values())
    in_paper = {agent["series"] for agent in result["agents"].values() if agent["paper"] is not None}
    for (name, agents), colour in zip(series.items(), COLOURS, strict=False):
        x = [agent["x"] for agent in agents]
        mean, low, high = (np.array([agent[key] for agent in agents]) for key in ("mean", "low", "high"))
        axes.errorbar(x, mean, [mean - low, high - mean], fmt="o-", color=colour, capsize=3, label=name)
        known = [(agent["x"], agent["paper"]) for agent in agents if agent["paper"] is not None]
        if known:
            label = f"paper: {name}" if len(in_paper) > 1 else "paper"
            axes.plot(*zip(*known, strict=True), "s--", color=colour, alpha=0.5, mfc="white", label=label)
        if all(isinstance(value, int | float) for value in x) and min(x) > 0 and max(x) / min(x) > 20:
            axes.set_xscale("log")
    axes.set_xlabel(result["points"])
    axes.set_ylabel(result["measure"])


def load_results(folder: Path) -> list[dict[str, Any]]:
    """All results in a folder, in the order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def write_page(folder: Path) -> None:
    """Write what all results in a folder say between the marks in its README.md."""
    lines: list[str] = []
    for result in load_results(folder):
        lines += ["", *_section(result)]
    write_between(folder / "README.md", "results", "reproduced.py", lines)


def _section(result: Mapping[str, Any]) -> list[str]:
    """A result as Markdown."""
    command = f"python scripts/reproduce_{result['figure']}.py --scale {result['scale']}"
    lines = [
        f"## {result['title']}",
        "",
        f"`{command}`: {result['seeds']} seeds, {result['episodes']} episodes, {result['rollouts']} rollouts "
        f"on each held-out task; {result['core_minutes']:.0f} core minutes. {result['protocol']}",
        "",
        f"![{result['title']}]({result['figure']}.png)",
        "",
        f"Numbers are the {result['measure']}.",
        "",
        *markdown([HEAD, *table(result)]),
        "",
    ]
    levels = next(iter(result["agents"].values())).get("episodes_to")
    if levels:
        rows: list[Sequence[str]] = [("episodes to a mean return of", *levels)]
        for label, agent in result["agents"].items():
            rows.append((label, *(str(count or "-") for count in agent["episodes_to"].values())))
        lines += [*markdown(rows), ""]
    if result["remarks"]:
        lines += [*result["remarks"], ""]
    if result["candidates"]:
        earned = ", ".join(f"{name} {value:.3f}" for name, value in result["candidates"].items())
        lines += [f"Chosen by mean return on the validation split of the training tasks: {earned}.", ""]
    lines += ["<details><summary>Settings</summary>", ""]
    for label, agent in result["agents"].items():
        what = agent["recipe"] if agent["plays"] == "model" else f"source of {agent['recipe']}"
        lines.append(f"- {label}: {what}, {', '.join(f'`{change}`' for change in agent['changes'])}")
    return [*lines, "", "</details>"]
