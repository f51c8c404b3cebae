"""The README's Python runs as it stands, and its commands exist."""

import re
import shutil
from pathlib import Path

import pytest
from hub_server import LocalHub
from typer.testing import CliRunner

from ad_hf.cli import app
from ad_hf.runs import Destination, push_dataset, push_model

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_opens_with_the_two_commands() -> None:
    assert [line.split("#")[0].strip() for line in blocks("bash")[0].splitlines()] == [
        "make quickstart",
        "make test",
    ]


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"(?:ad-hf|-m ad_hf) ([a-z]+)", README))))
def test_every_command_it_names_exists(verb: str) -> None:
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"\| `((?:\w+/)?\w*(?:\.py|/))` \|", README)
    assert len(named) >= 10
    for path in named:
        assert (Path(__file__).parents[1] / "ad_hf" / path).exists(), path


@pytest.mark.slow
def test_its_python_runs_in_the_order_given(
    hub: LocalHub, dataset_folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_dataset(dataset_folder, Destination("org/ad-histories"))
    shutil.copytree(checkpoint, tmp_path / "pushed")
    push_model(tmp_path / "pushed", Destination("org/ad-darkroom"))
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["output"].episode_returns.shape == (1, 10)
    assert names["context"].length > 0
    assert len(names["histories"]) == 65
    assert len(names["rows"]) == 65 * 12
