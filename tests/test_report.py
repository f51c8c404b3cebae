"""Reports: everything an evaluation found, on a page, in a figure, and while it happens."""

from __future__ import annotations

import copy
import json
import re
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, RepoCard

from ad_hf.models import ADConfig, ADModel
from ad_hf.recipes import Recipe
from ad_hf.report import (
    AGENTS,
    _page,
    _spread,
    check_report,
    episodes_to,
    model_card,
    summary_rows,
    summary_text,
    watch,
    write_report,
)
from ad_hf.tasks import Task

NUM_EPISODES = 20


def agent(first: float, last: float) -> dict[str, list[float]]:
    curve = np.linspace(first, last, NUM_EPISODES)
    curves = {"return_per_episode": curve, "low": curve - 0.5, "high": curve + 0.5}
    return {name: values.tolist() for name, values in curves.items()}


REPORT: dict[str, Any] = {
    "environment": "ad_hf/DarkRoom-v0",
    "optimum": 16.0,
    "agents": {
        "ad": agent(1.0, 20.0),
        "ed": agent(2.0, 2.0),
        "dpt": agent(1.0, 12.0),
        "prompted": agent(8.0, 16.0),
        "source": agent(0.0, 4.0),
        "random": agent(0.25, 0.25),
        "posterior_sampling": agent(3.0, 16.0),
    },
    "source_history": np.linspace(0.0, 16.0, 161).tolist(),
    "protocol": {"num_episodes": NUM_EPISODES, "rollouts_per_task": 2, "test_tasks": [{}] * 16},
}


def without(*names: str) -> dict[str, Any]:
    report = copy.deepcopy(REPORT)
    for name in names:
        del report["agents"][name]
    return report


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:])
    return width, height


def test_a_report_is_three_files(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "new" / "report")
    names = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert names == {"report.json", "report.md", "learning_curves.png"}


def test_report_json_is_the_report(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == REPORT


def test_the_page_names_every_agent_the_figure_and_the_protocol(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    page = (tmp_path / "report.md").read_text()
    for label, _ in AGENTS.values():
        assert f"| {label} |" in page
    assert "| optimum |" in page
    assert "(learning_curves.png)" in page
    assert json.dumps(REPORT["protocol"], indent=1) in page


def test_every_row_of_a_table_has_as_many_cells(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    tables = (tmp_path / "report.md").read_text().split("\n\n")
    tables = [table.splitlines() for table in tables if table.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_the_page_tells_how_long_the_source_really_takes(tmp_path: Path) -> None:
    # In 20 episodes it gets nowhere; its own history gets to 50, 80 and 90 % of 16 in steps of a tenth.
    write_report(REPORT, tmp_path)
    assert "| source, whole history | 81 | 129 | 145 |" in (tmp_path / "report.md").read_text()
    assert "| algorithm distillation | 8 | 13 | 15 |" in (tmp_path / "report.md").read_text()
    assert "| expert distillation | - | - | - |" in (tmp_path / "report.md").read_text()


def test_the_page_adds_up_all_episodes() -> None:
    page = _page(REPORT)
    for row in ("algorithm distillation | 10.500 | 210.0 | 5.86", "random | 0.250 | 5.0 | 0.00"):
        assert f"| {row} |" in page
    assert "| source from scratch | 2.000 | 40.0 | 1.00 |" in page
    report = {**REPORT, "agents": REPORT["agents"] | {"source": agent(0.25, 0.25)}}
    assert "| source from scratch | 0.250 | 5.0 | - |" in _page(report)


def test_the_summary_has_the_returns_of_the_episodes_it_names() -> None:
    header, ad, *_ = summary_rows(REPORT)
    assert header == ["episode", "1", "5", "10", "20", "last tenth", "95 % interval"]
    assert ad == ["algorithm distillation", "1.00", "5.00", "10.00", "20.00", "19.50", "19.00 to 20.00"]


@pytest.mark.parametrize("repeats", [1, 3, 5, 50])
def test_the_summary_fits_a_terminal_of_80_columns(repeats: int) -> None:
    report = copy.deepcopy(REPORT)
    report["protocol"]["num_episodes"] = repeats * NUM_EPISODES
    for curves in report["agents"].values():
        for name in curves:
            curves[name] = [value + 10 for value in curves[name] * repeats]
    lines = summary_text(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert "16 held-out tasks" in lines[0]


@pytest.mark.parametrize(
    "missing", [("ed",), ("ed", "random", "posterior_sampling"), ("dpt", "prompted"), ("prompted",)]
)
def test_agents_that_did_not_play_are_left_out(missing: tuple[str, ...], tmp_path: Path) -> None:
    report = without(*missing)
    write_report(report, tmp_path)
    page = (tmp_path / "report.md").read_text()
    for name, (label, _) in AGENTS.items():
        assert (f"| {label} |" in page) == (name not in missing)
        assert (label in summary_text(report)) == (name not in missing)


def test_an_environment_without_a_known_optimum_can_be_reported(tmp_path: Path) -> None:
    report = without("random", "posterior_sampling") | {"optimum": None}
    write_report(report, tmp_path)
    assert "optimum" not in (tmp_path / "report.md").read_text()
    assert "optimum" not in summary_text(report)
    assert png_size(tmp_path / "learning_curves.png")[0] > 1000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_episodes", [1, 2, NUM_EPISODES])
def test_the_figure_is_a_picture_of_some_size(num_episodes: int, tmp_path: Path) -> None:
    report = copy.deepcopy(REPORT)
    report["protocol"]["num_episodes"] = num_episodes
    for curves in report["agents"].values():
        for name in curves:
            curves[name] = curves[name][:num_episodes]
    write_report(report, tmp_path)
    assert png_size(tmp_path / "learning_curves.png") == (1350, 780)
    assert 10_000 < (tmp_path / "learning_curves.png").stat().st_size < 1_000_000


@pytest.mark.filterwarnings("error")
def test_curves_that_are_all_zero_can_be_drawn(tmp_path: Path) -> None:
    report = {**REPORT, "optimum": None, "agents": {name: agent(0, 0) for name in REPORT["agents"]}}
    write_report(report, tmp_path)
    assert png_size(tmp_path / "learning_curves.png") == (1350, 780)


def test_labels_never_overlap_and_move_no_further_than_they_must() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 8))
        heights = rng.choice([0.0, 1.0, 2.0, 16.0], size=count) + 0.1 * rng.random(count)
        spread = np.array(_spread(heights.tolist(), 0.5))
        assert (np.diff(np.sort(spread)) >= 0.5 - 1e-9).all()
        assert (spread >= heights).all()
        assert (np.argsort(spread) == np.argsort(heights)).all()
        if (np.diff(np.sort(heights)) >= 0.5).all():
            assert (spread == heights).all()


def test_episodes_are_counted_from_one() -> None:
    assert episodes_to([0.0, 2.0, 1.0, 3.0], 2.0) == 2
    assert episodes_to([2.0], 2.0) == 1
    assert episodes_to([0.0, 1.0], 2.0) is None


def about(objective: str | None, **protocol: Any) -> dict[str, Any]:
    """A report about one agent, as an evaluation leaves it; None is as it was before it said which."""
    name = objective or "ad"
    report = without(*({"ad", "ed", "dpt"} - {name}))
    report["protocol"] |= {"parameters": {name: 7}, "actions": {name: "sampled"}, "seed": 1}
    report["protocol"] |= {"source": {"settings": {}}, "interval": "95 %", **protocol}
    return report | {"protocol": report["protocol"] | ({"objective": objective} if objective else {})}


@pytest.mark.parametrize("objective", [None, "ad", "ed", "dpt"])
def test_a_report_needs_the_agent_that_it_is_about(objective: str | None) -> None:
    check_report(about(objective), "it")
    other = "ed" if objective == "dpt" else "dpt"
    for name, value in (
        ("objective", other),
        ("objective", [other]),
        ("actions", {other: "sampled"}),
        ("parameters", {other: 7}),
    ):
        wrong = about(objective)
        wrong["protocol"][name] = value
        with pytest.raises(ValueError, match="it is no report of `ad-hf evaluate`: run it again"):
            check_report(wrong, "it")


def test_a_report_says_which_tasks_were_played_if_they_are_not_the_usual_ones(tmp_path: Path) -> None:
    usual, other = about("ad", split="test"), about("ad", split="even")
    for report, words in ((usual, "16 held-out tasks"), (other, "16 held-out tasks of the split 'even'")):
        check_report(report, "it")
        assert summary_text(report).startswith(f"ad_hf/DarkRoom-v0, {words}: mean return\n")
        assert f"Frozen weights, {words}, 2 rollouts" in _page(report)
        assert f"on {words} of `ad_hf/DarkRoom-v0`, 2\nrollouts" in card_of({}, {}, report=report).text
    write_report(other, tmp_path)  # in the figure, too
    for split in ("$\\frac$", "a\nb", "", 5, None):
        with pytest.raises(ValueError, match="it is no report of `ad-hf evaluate`"):
            check_report(about("ad", split=split), "it")


def test_a_result_on_other_tasks_is_not_the_benchmarks() -> None:
    recipe = {**asdict(Recipe("mine", {"name": "dark-room"})), "dataset": "org/h"}
    spaces = {"observation_space": {"type": "Discrete", "n": 4}, "action_space": {"type": "Discrete", "n": 2}}
    config = {**spaces, "decoder": {"model_type": "gpt2"}, "context_length": 9, "tokens_per_transition": 1}
    for split, is_benchmark in (("test", True), ("even", False)):
        card, entries = model_card("org/m", None, recipe, {}, about("ad", split=split), config)
        (result,) = ModelCard(str(card)).data.eval_results
        assert result.dataset_split == split
        assert ("of the split 'even'" in result.metric_name) != is_benchmark
        assert bool(entries) == is_benchmark


def test_a_page_says_which_rollouts_did_not_begin_with_nothing() -> None:
    for report, words in (
        (REPORT, "context but for those from a prompt. "),
        (without("prompted"), "context. "),
    ):
        assert f"every rollout from an empty {words}" in _page(report)


def test_what_an_evaluation_writes_passes_for_a_report() -> None:
    whole = about("ad")
    check_report(whole, "it")
    for name in ("optimum", "agents", "source_history", "protocol", "environment"):
        with pytest.raises(ValueError, match="it is no report of `ad-hf evaluate`: run it again"):
            check_report({key: value for key, value in whole.items() if key != name}, "it")


# The card of a model


def card_of(recipe: dict[str, Any], config: dict[str, Any], **files: Any) -> RepoCard:
    whole = {**asdict(Recipe("mine", {"name": "dark-room", "fold": 2})), "dataset": "org/h@v1.1", **recipe}
    spaces = {"observation_space": {"type": "Discrete", "n": 4}, "action_space": {"type": "Discrete", "n": 2}}
    rest = {"decoder": {"model_type": "gpt2", "n_layer": 2}, "context_length": 9, "tokens_per_transition": 1}
    values = {"run": {}, "report": None, **files}
    return model_card("org/m", None, whole, values["run"], values["report"], {**spaces, **rest, **config})[0]


def test_a_dataset_is_named_with_its_revision_beside_it() -> None:
    card = ModelCard(str(card_of({}, {}, report=about(None))))
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_revision) == ("org/h", "v1.1")
    assert result.metric_value == pytest.approx(19.5)
    assert card.data.datasets == ["org/h"]
    assert "[org/h@v1.1](https://huggingface.co/datasets/org/h)" in card.text


@pytest.mark.parametrize(
    ("recipe", "config", "words"),
    [
        ({}, {}, "observation=[0])"),
        ({}, {"observation_space": {"type": "MultiDiscrete", "nvec": [2, 3]}}, "observation=[[0, 0]])"),
        ({}, {"tokens_per_transition": 3}, "a context of 9 transitions, 3 tokens each"),
        (
            {},
            {"decoder": {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8}},
            "1 layer of width",
        ),
        ({"objective": "ed"}, {}, "It was trained by\nexpert distillation, to predict"),
        ({"objective": "dpt"}, {}, "by\ndecision pretraining ([DPT](https://arxiv.org/abs/2306.14892)): to"),
        ({"objective": "ad"}, {}, "by\n[Algorithm Distillation](https://arxiv.org/abs/2210.14215): to pred"),
        ({"dataset": "/my runs/h"}, {}, "--output runs/model --dataset '/my runs/h'\n"),
        ({}, {}, 'load_task_family("dark-room", fold=2)["test"]'),
        ({}, {}, "It has not been evaluated yet: `ad-hf evaluate org/m`."),
    ],
)
def test_the_card_says_what_is_so(recipe: dict[str, Any], config: dict[str, Any], words: str) -> None:
    card = card_of(recipe, config)
    assert words in card.text
    assert not re.search(r"\{\{|\{%|Undefined|None", card.text.replace("'dataset': None", ""))
    assert card.data.to_dict().get("model-index") is None


@pytest.mark.parametrize(("objective", "value"), [(None, 19.5), ("ed", 2.0), ("dpt", 11.711)])
def test_the_card_of_an_evaluated_model_tells_its_own_returns(objective: str | None, value: float) -> None:
    card = ModelCard(str(card_of({"objective": objective or "ad"}, {}, report=about(objective))))
    assert card.data.eval_results[0].metric_value == pytest.approx(value)
    assert f"| {AGENTS[objective or 'ad'][0]} |" in card.text
    assert "gpt2, 7 parameters" in card.text
    assert "every rollout from an empty context but for those from a prompt:\n\n| episode |" in card.text
    assert "Evaluated with seed 1, actions sampled;" in card.text


def test_the_card_of_an_unfinished_model_says_so() -> None:
    run = {"update": 3, "updates": 9, "processes": 2, "device": "GPU", "versions": {"torch": "2"}}
    assert "**Unfinished: update 3 of 9.**" in card_of({}, {}, run=run).text
    assert "| hardware | GPU, 2 processes |" in card_of({}, {}, run=run).text
    assert "Unfinished" not in card_of({}, {}, run={**run, "update": 9}).text


# Watching


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_watched_is_what_happened(temperature: float) -> None:
    torch.manual_seed(0)
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    model = ADModel(ADConfig(context_length=30, decoder=decoder)).eval()
    task = Task("ad_hf/DarkRoom-v0", {"goal": [4, 5]})
    rooms: list[str] = []
    episodes: list[dict[str, Any]] = []
    watch(model, task, 3, temperature, 0, rooms.append, episodes.append)
    assert len(rooms) == 3 * 20
    assert [episode["episode"] for episode in episodes] == [0, 1, 2]
    env = task.make(render_mode="ansi")
    replayed = []
    for episode in episodes:
        assert len(episode["actions"]) == episode["length"] == 20
        env.reset(seed=0)
        total = 0.0
        for action in episode["actions"]:
            total += float(env.step(action)[1])
            replayed.append(env.render())
        assert episode["return"] == total
    assert rooms == replayed
