"""Cards: what is written at the top comes back, and a dataset's card tells the truth."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ad_hf import hub
from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import COLUMNS, load_histories
from ad_hf.hub import card_template, load_card, make_card, save_card
from ad_hf.tasks import TaskFamily, load_task_family

ROOT = Path(__file__).parent.parent
FAMILY = load_task_family("dark-room")
SETTINGS = CollectSettings(num_episodes=3, learners_per_task=1, lockstep=24)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished collection, not to be changed."""
    folder = tmp_path_factory.mktemp("collected") / "histories"
    collect_dataset(folder, FAMILY, SETTINGS)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Writing and reading cards


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A template in the cards/ of an installed package."""
    cards = tmp_path / "installed" / "ad_hf" / "cards"
    cards.mkdir(parents=True)
    (cards / "card.md").write_text("---\n{{ card_data }}\n---\n\n# {{ title }}\n\n{{ text }}\n")
    monkeypatch.setattr(hub, "__file__", str(cards.parent / "hub.py"))
    return "card.md"


@pytest.mark.parametrize("path", sorted(ROOT.glob("cards/*.md")), ids=lambda path: path.name)
def test_every_template_is_found_in_a_checkout(path: Path) -> None:
    assert card_template(path.name) == path


def test_templates_are_found_in_an_installed_package(template: str, tmp_path: Path) -> None:
    assert card_template(template) == tmp_path / "installed" / "ad_hf" / "cards" / "card.md"


def test_an_installed_package_does_not_take_templates_from_beside_it(template: str, tmp_path: Path) -> None:
    beside = tmp_path / "installed" / "cards"
    beside.mkdir()
    (beside / template).write_text("of some other package")
    assert card_template(template).parent != beside


def test_a_missing_template_says_what_to_do() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"the template nothing\.md is missing .*: install ad-hf again"
    ):
        card_template("nothing.md")


def test_metadata_comes_back_as_it_was(template: str, tmp_path: Path) -> None:
    metadata = {
        "license": "apache-2.0",
        "configs": [{"config_name": "dark-room", "default": True}],
        "ad_hf": {
            "fold": None,
            "learning_rate": 1e-5,
            "discount": 0.9,
            "version": "1.0",
            "words": ["no", "yes", "007", "ä: b #c"],
        },
    }
    path = tmp_path / "README.md"
    write_card(path, template, metadata, title="Histories", text="Line one.\n\nLine two, ä.")
    assert read_card(path) == metadata
    assert path.read_text(encoding="utf-8").endswith("---\n\n# Histories\n\nLine one.\n\nLine two, ä.")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["README.md"]


def test_a_card_that_cannot_be_filled_leaves_the_old_one(template: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("as it was")
    card_template(template).write_text("---\n{{ card_data }}\n---\n{{ 1 / number }}\n")
    with pytest.raises(ZeroDivisionError):
        write_card(path, template, {}, number=0)
    assert path.read_text() == "as it was"


def test_a_card_without_metadata_has_none(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Only text\n")
    assert read_card(path) == {}


@pytest.mark.parametrize("metadata", ["a: [", "a: b: c", "- a list", "a: 1\na: @"])
def test_metadata_that_cannot_be_read_is_refused_in_one_line(metadata: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"---\n{metadata}\n---\n# Text\n")
    with pytest.raises(ValueError, match=rf"^the metadata at the top of {path} cannot be read: [^\n]+$"):
        read_card(path)


# The card of a dataset


def test_the_card_declares_one_default_config_with_a_pattern_per_split(output: Path) -> None:
    (config,) = read_card(output / "README.md")["configs"]
    assert config["config_name"] == "dark-room"
    assert config["default"] is True
    assert config["data_files"] == [
        {"split": "train", "path": "dark-room/train-*.parquet"},
        {"split": "test", "path": "dark-room/test-*.parquet"},
    ]


def test_the_card_names_everything_that_made_the_dataset(output: Path) -> None:
    about = read_card(output / "README.md")["ad_hf"]
    assert (about["format_version"], about["complete"]) == ("1.0", True)
    made = about["configs"]["dark-room"]
    assert made["task_family"] == {"name": "dark-room", "fold": None, "seed": 0}
    assert (made["source"], made["seed"], made["lockstep"]) == ("q-learning", 0, 24)
    assert (made["num_episodes"], made["learners_per_task"]) == (3, 1)
    assert made["settings"]["learning_rate"] == 0.5  # defaults too: they may change one day


def test_the_card_explains_every_column_and_leaves_no_blank(output: Path) -> None:
    text = (output / "README.md").read_text()
    for name, meaning in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in text
    assert "81 histories of 3 episodes: 1 learners on each of\n81 tasks" in text
    assert "Environment: `ad_hf/DarkRoom-v0`, observation space `MultiDiscrete([9 9])`" in text
    assert "Status: complete." in text
    assert "seed 0. Format version 1.0." in text
    assert not re.search(r"\{\{|\{%|nan|None|` `", text)


def test_the_card_shows_the_learning_curves(tmp_path: Path) -> None:
    settings = CollectSettings(num_episodes=81, learners_per_task=1)
    output = tmp_path / "histories"
    collect_dataset(output, FAMILY, settings)
    rows = re.findall(r"^\| (\d+) % \| ([\d.]+) \| ([\d.]+) \|", (output / "README.md").read_text(), re.M)
    shown = np.array(rows, dtype=float)
    assert shown[:, 0].tolist() == list(range(0, 101, 10))
    for column, split in enumerate(("train", "test"), start=1):
        returns = load_histories(str(output), "dark-room", split).return_matrix()
        around = [returns[:, max(8 * n - 2, 0) : 8 * n + 3].mean() for n in range(11)]  # 81 / 20 episodes
        np.testing.assert_allclose(shown[:, column], around, atol=0.001)


COLLECTIONS: dict[str, tuple[CollectSettings, TaskFamily]] = {
    "plain": (SETTINGS, FAMILY),
    "far from the defaults": (
        replace(SETTINGS, seed=7, learners_per_task=2, settings={"epsilon_start": 0.5, "discount": 0.95}),
        load_task_family("dark-room", fold=2, seed=3),
    ),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_the_command_on_the_card_makes_the_same_dataset(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from ad_hf.cli import app

    settings, family = COLLECTIONS[name]
    original = tmp_path / "there" / "my histories"
    collect_dataset(original, family, settings)
    (command,) = re.findall(r"^```bash\n(.*)\n```", (original / "README.md").read_text(), re.M)
    program, *arguments = shlex.split(command)
    assert program == "ad-hf"
    assert '"learning_rate": 0.5' in command  # defaults too: those of recipes and sources may change
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "here" / "my histories") == contents(original)


def test_a_folder_given_as_a_dot_is_named_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    collect_dataset(Path(), FAMILY, SETTINGS)
    text = (tmp_path / "README.md").read_text()
    assert f'load_dataset("{tmp_path.name}", "dark-room")' in text
    assert f"--output {tmp_path.name} " in text
