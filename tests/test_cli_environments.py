"""The command line with every environment and objective: what users see there makes sense."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from test_cli import assert_one_line, invoke, sets

from ad_hf.cli.route import _cut
from ad_hf.models import ADConfig, ADModel, space_to_json
from ad_hf.recipes import Recipe
from ad_hf.tasks import TASK_FAMILIES

DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
SMALL: dict[str, dict[str, Any]] = {  # family -> options that make it quick
    name: {} if name.startswith("dark-room") else {"num_train": 2, "num_test": 2} for name in TASK_FAMILIES
}
# family -> arguments of one environment, and what its actions look like
BANDIT = {"means": [0.0, 0.0, 0.0, 1.0, *[0.0] * 6]}, "0123456789"
PLAYED: dict[str, tuple[dict[str, Any], str]] = {
    "adversarial-bandit": BANDIT,
    "adversarial-bandit-h": BANDIT,
    "dark-key-to-door": ({"key": [0, 8], "door": [7, 2]}, "←→↑↓·"),
    "dark-room": ({"goal": [7, 2]}, "←→↑↓·"),
    "dark-room-hard": ({"goal": [16, 2]}, "←→↑↓·"),
    "uniform-bandit": BANDIT,
    "watermaze": ({"platform": [100.0, 80.5]}, "↑↓←→↺↻↖↗"),
}
HORIZONS = {"dark-key-to-door": 50, "dark-room": 20, "dark-room-hard": 20, "watermaze": 50}  # others have 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each family, as it was before its first update."""
    folder = tmp_path_factory.mktemp("models")
    for name, options in SMALL.items():
        recipe = Recipe(name, {"name": name, **options})
        env = recipe.task_family()["test"][0].make()
        spaces = {
            f"{kind}_space": space_to_json(getattr(env, f"{kind}_space"))
            for kind in ("observation", "action")
        }
        ADModel(ADConfig(decoder=DECODER, context_length=20, **spaces)).save_pretrained(folder / name)
        (folder / name / "recipe.json").write_text(json.dumps(asdict(recipe)))
    return folder


# Watching


@pytest.mark.parametrize("name", PLAYED)
def test_generate_shows_each_environment_as_it_is_played(name: str, models: Path) -> None:
    params, symbols = PLAYED[name]
    task = ("--task", json.dumps(params), "--num-episodes", 2)
    result = invoke("generate", models / name, *task)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["episode", "1"], ["episode", "2"]]
    episodes = [
        json.loads(line) for line in invoke("generate", models / name, *task, "--json").stdout.splitlines()
    ]
    horizon = HORIZONS.get(name, 1)
    for line, episode in zip(lines, episodes, strict=True):
        walk = line.split()[-1]
        assert walk == "".join(symbols[action] for action in episode["actions"])
        assert len(walk) == episode["length"] == horizon or (name == "watermaze" and episode["return"] == 1)
        assert f"return {episode['return']:5.1f}  " in line
    assert f"-v0 with {json.dumps(params)}; the weights never changed" in result.stderr


@pytest.mark.parametrize("name", ["dark-room", "adversarial-bandit", "watermaze"])
def test_generate_plays_a_held_out_task_unless_told_otherwise(name: str, models: Path) -> None:
    held_out = Recipe(name, {"name": name, **SMALL[name]}).task_family()["test"][0]
    result = invoke("generate", models / name, "--num-episodes", 1)
    assert f"{held_out.env_id} with {json.dumps(dict(held_out.params))};" in result.stderr
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("name", [name for name, (params, _) in PLAYED.items() if "goal" not in params])
def test_a_goal_where_there_is_none_is_answered_with_what_there_is(name: str, models: Path) -> None:
    said = assert_one_line(invoke("generate", models / name, "--goal", "7,2"))
    assert "-v0 cannot be made with {'goal': [7, 2]}: say what it takes, for example --task '{" in said
    told = json.loads(said.partition("--task '")[2].rstrip("\n'"))
    assert told.keys() >= PLAYED[name][0].keys()
    assert invoke("generate", models / name, "--task", json.dumps(told), "--num-episodes", 1).exit_code == 0
    assert len(said) < 300


@pytest.mark.parametrize(
    ("name", "task", "complaint"),
    [
        ("watermaze", {"platform": [600, 0]}, "must be (x, y) at most 580 from the centre"),
        ("adversarial-bandit", {"means": [0.5, 2.0]}, "means hold 2.0"),
        (
            "adversarial-bandit",
            {"means": [0.5] * 3},
            "the environment's action space is {'type': 'Discrete', 'n': 3}",
        ),
        ("dark-key-to-door", {"key": [9, 0]}, "key is [9, 0], but must be"),
    ],
)
def test_a_task_that_cannot_be_is_said_in_one_line(
    name: str, task: dict[str, Any], complaint: str, models: Path
) -> None:
    assert complaint in assert_one_line(invoke("generate", models / name, "--task", json.dumps(task)))


def test_a_line_for_a_terminal_shows_where_it_was_cut() -> None:
    walk = "→" * 100
    assert _cut(walk, 100) == walk
    assert _cut(walk, 99) == "→" * 98 + "…"


# Objectives


def test_decision_pretraining_goes_the_whole_route(
    dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    model = tmp_path / "dpt"
    result = invoke(
        "train",
        "dark-room",
        "--dataset",
        dataset_folder,
        "--output",
        model,
        "--objective",
        "dpt",
        *sets(tiny),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads((model / "config.json").read_text())["unordered_context"] is True
    result = invoke("evaluate", model, "--prompt", 0.5)
    assert result.exit_code == 0, result.stderr
    for agent in ("decision-pretrained", "from a prompt", "expert distillation", "source from scratch"):
        assert f"\n{agent} " in result.stdout
    assert "algorithm distillation" not in result.stdout
    assert json.loads((model / "ed" / "config.json").read_text())["unordered_context"] is False
    assert invoke("report", model, "--output", tmp_path / "report").exit_code == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["protocol"]["objective"] == "dpt"
    assert report["agents"].keys() == {"dpt", "prompted", "ed", "source", "random", "posterior_sampling"}
    assert len(invoke("generate", model, "--num-episodes", 2).stdout.splitlines()) == 2


def test_expert_distillation_is_not_compared_with_itself(
    dataset_folder: Path, tiny: tuple[str, ...], checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m"
    few = sets((*tiny, "train.updates=1"))
    train = invoke(
        "train", "dark-room", "--dataset", dataset_folder, "--output", model, "--objective", "ed", *few
    )
    assert train.exit_code == 0, train.stderr
    said = assert_one_line(invoke("evaluate", model, "--ed", checkpoint))
    assert f"{model} is expert distillation itself: evaluate it without --ed" in said
    result = invoke("evaluate", model, "--json")
    assert json.loads(result.stdout)["agents"].keys() == {"ed", "source", "random", "posterior_sampling"}
    assert not (model / "ed").exists()


# Splits


def test_what_is_no_held_out_split_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for split, complaint in (
        ("train", "was trained on: choose another"),
        ("even", "has no split 'even': choose"),
    ):
        arguments = ("evaluate", checkpoint, "--no-ed", "--split", split, "--output", tmp_path / "out")
        assert complaint in assert_one_line(invoke(*arguments))
    assert not (tmp_path / "out").exists()


def test_bandits_that_favour_other_arms_are_played_by_the_name_of_their_split(
    models: Path, tmp_path: Path
) -> None:
    folder = models / "adversarial-bandit"
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["collect"] |= {"source": "ucb", "num_episodes": 20}
    recipe["evaluate"] |= {"num_episodes": 20, "rollouts_per_task": 2, "bootstrap_samples": 20}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    tasks = {}
    for split in ("test", "even", "uniform"):
        result = invoke(
            "evaluate", folder, "--no-ed", "--split", split, "--json", "--output", tmp_path / split
        )
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        assert report["protocol"]["split"] == split
        tasks[split] = [task["means"] for task in report["protocol"]["test_tasks"]]
        assert len(report["agents"]["ad"]["return_per_episode"]) == 20
    assert sum(map(sum, tasks["even"])) > 0
    assert tasks["test"] != tasks["even"] != tasks["uniform"]
    shown = invoke("evaluate", folder, "--no-ed", "--split", "even", "--output", tmp_path / "even").stdout
    assert shown.startswith("ad_hf/AdversarialBandit-v0, 2 held-out tasks of the split 'even': mean return\n")
