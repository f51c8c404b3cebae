"""The reproductions: what their scripts ask for exists, what they keep is theirs, and all of them run."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
FIGURES = sorted(path.stem.removeprefix("reproduce_") for path in SCRIPTS.glob("reproduce_*.py"))
FIGURES.remove("all")  # runs the others
KEPT = sorted(path.stem for path in (SCRIPTS / "results").glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def _scripts_on_path() -> Any:
    """Scripts import each other by name, as when they are run."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def module(name: str) -> Any:
    return importlib.import_module(name)


def figure(name: str) -> Any:
    return module(f"reproduce_{name}").FIGURE


# What is asked for


def test_all_figures_are_run_together() -> None:
    assert sorted(module("reproduce_all").FIGURES) == FIGURES


@pytest.mark.parametrize("name", FIGURES)
def test_every_recipe_of_a_figure_exists_at_every_scale(name: str) -> None:
    asked, reproducing = figure(name), module("reproducing")
    assert asked.name == name
    assert list(asked.scales) == ["tiny", "cpu", "paper"]
    for scale, size in asked.scales.items():
        agents = asked.at(scale)
        assert len({agent.label for agent in agents}) == len(agents)
        for agent in agents:
            recipe = reproducing._recipe(asked, agent, scale, (), 3)
            assert recipe.evaluate.num_episodes == size.episodes
            assert recipe.train.seed == recipe.collect.seed == 3


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_made_with_three_seeds_at_least(name: str) -> None:
    assert min(figure(name).scales[scale].seeds for scale in ("cpu", "paper")) >= 3


def test_candidates_are_tried_on_training_tasks_alone() -> None:
    reproducing = module("reproducing")
    for asked in map(figure, FIGURES):
        for agent in [agent for agent in asked.agents if agent.chosen][:1]:
            trial = (*asked.trial.get("cpu", ()), "family.validation=true")
            recipe = reproducing._recipe(asked, agent, "cpu", (), 0, trial)
            held_out = reproducing._recipe(asked, agent, "cpu", (), 0).task_family()["test"]
            assert not set(reproducing._tasks(recipe)) & set(held_out)


def test_of_a_setting_the_last_change_counts() -> None:
    reproducing = module("reproducing")
    agent = reproducing.Agent("a", "dark-room", ("train.updates=5",), {"cpu": ("train.updates=7",)})
    size = reproducing.Scale(seeds=1, episodes=2, changes=("train.updates=6",))
    asked = reproducing.Figure("f", "", (agent,), {"cpu": size}, "")
    changes = reproducing._changes(asked, agent, "cpu", ())
    assert changes == ("train.updates=7", "evaluate.num_episodes=2", "evaluate.rollouts_per_task=1")


# What is kept


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_was_made_by_the_script_as_it_is(name: str) -> None:
    kept = json.loads((SCRIPTS / "results" / f"{name}.json").read_text())
    asked, reproducing = figure(name), module("reproducing")
    size = asked.scales[kept["scale"]]
    assert (kept["seeds"], kept["episodes"], kept["rollouts"]) == (size.seeds, size.episodes, size.rollouts)
    earned = kept["candidates"]
    chosen = asked.candidates[max(earned, key=earned.__getitem__)] if earned else ()
    assert list(earned) == list(asked.candidates)
    agents = asked.at(kept["scale"])
    assert list(kept["agents"]) == [agent.label for agent in agents]
    for agent in agents:
        changes = reproducing._changes(asked, agent, kept["scale"], chosen)
        assert kept["agents"][agent.label]["changes"] == list(changes)


@pytest.mark.parametrize("name", KEPT)
def test_the_numbers_of_a_table_follow_from_the_raw_ones(name: str) -> None:
    kept = json.loads((SCRIPTS / "results" / f"{name}.json").read_text())
    reproduced = module("reproduced")
    assert kept["scale"] != "tiny"
    for agent in kept["agents"].values():
        raw = np.array(agent["raw"])
        assert raw.shape == (kept["seeds"], agent["tasks"])
        assert agent["mean"] == pytest.approx(raw.mean(), abs=2e-3)
        assert agent["iqm"] == pytest.approx(reproduced.interquartile_mean(raw), abs=2e-3)
        low, high = reproduced.interval(raw)
        assert (agent["low"], agent["high"]) == pytest.approx((low, high), abs=2e-3)


def test_the_page_shows_all_that_is_kept() -> None:
    assert set(KEPT) <= set(FIGURES)
    page = (SCRIPTS / "results" / "README.md").read_text()
    for name in KEPT:
        assert f"({name}.png)" in page
        assert (SCRIPTS / "results" / f"{name}.png").is_file()


# Statistics


def test_an_interval_knows_of_seeds_and_of_tasks() -> None:
    reproduced, rng = module("reproduced"), np.random.default_rng(0)
    for scales in ((1.0, 0.0), (0.0, 1.0)):
        seeds, tasks = rng.normal(0, scales[0], (400, 1)), rng.normal(0, scales[1], (1, 400))
        low, high = reproduced.interval(seeds + tasks, samples=500)
        assert high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.15)


def test_an_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert module("reproduced").interquartile_mean(np.array([[100, 2], [3, -100]])) == 2.5


@pytest.mark.parametrize(
    ("mean", "low", "says"),
    [
        (13.0, 12.0, "0.4 short of reproduced (13.4)"),
        (14.0, 13.0, "reproduced; lower end 1.9 short of beaten (14.86)"),
        (15.5, 14.9, "beaten; 0.8 short of strong (16.3)"),
        (16.3, 15.0, "strong"),
    ],
)
def test_a_verdict_names_what_is_reached_and_what_is_lacking(mean: float, low: float, says: str) -> None:
    goals = {"reproduced": 13.4, "beaten": 14.86, "strong": 16.3}
    assert module("reproduced").verdict(mean, low, goals) == says


def test_a_verdict_on_what_should_be_low() -> None:
    verdict = module("reproduced").verdict
    assert verdict(0.5, 0.0, {"at most": 3}) == "as low as it should be"
    assert verdict(3.5, 0.0, {"at most": 3}) == "0.5 above 3"


def test_ratios_of_episodes_are_those_of_the_curves() -> None:
    efficiency = module("reproduce_data_efficiency")
    episodes = np.arange(1, 101)
    returns = {}
    for room in efficiency.ROOMS:
        returns[f"AD, {room}"] = np.broadcast_to(np.minimum(episodes / 10, 1), (2, 3, 100))
        returns[f"Q-learning, {room}"] = np.broadcast_to(episodes / 100, (2, 3, 100))
    lines = efficiency.ratios(returns)
    assert "| Dark Room | 50% | 5 | 50 | 10.0x | 10.0 to 10.0 | 60.0x |" in lines


# From end to end


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_runs(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    output = tmp_path_factory.getbasetemp() / "reproduce"  # figures share models
    reproduced, reproducing = module("reproduced"), module("reproducing")
    outcome = reproducing.run(figure(name), "tiny", output, num_proc=1)
    reproduced.write_result(outcome, output / "results")
    kept = json.loads((output / "results" / f"{name}.json").read_text())
    for agent in kept["agents"].values():
        assert agent["low"] <= agent["mean"] <= agent["high"]
    assert f"({name}.png)" in (output / "results" / "README.md").read_text()
    before = {path: path.stat().st_mtime for path in output.glob("models/*/config.json")}
    again = reproducing.run(figure(name), "tiny", output, num_proc=1)
    assert {path: path.stat().st_mtime for path in output.glob("models/*/config.json")} == before
    for label, returns in outcome.returns.items():
        assert np.array_equal(returns, again.returns[label])
    assert asdict(again)["core_minutes"] == pytest.approx(outcome.core_minutes)
