"""Format versions: what older ones wrote is read, gone on with, added to and published for ever."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hub_server import LocalHub
from huggingface_hub import RepoCard

from ad_hf import collection
from ad_hf.cards import about, load_card
from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import configs_of, load_histories, publish
from ad_hf.histories import Histories
from ad_hf.recipes import load_recipe
from ad_hf.runs import run_train
from ad_hf.streaming import open_stream
from ad_hf.tasks import TaskFamily, load_task_family

REPO = "org/ad-histories"
FAMILY = load_task_family("dark-room")
CORRIDOR = TaskFamily("corridor", {"train": FAMILY["train"][:2], "test": FAMILY["test"][:1]})
SETTINGS = CollectSettings(num_episodes=3, learners_per_task=1, lockstep=24)
# Cards of the same collection. Neither version had expert actions, nor q-learning's `remember_rewards`.
CARDS = {version: Path(__file__).with_name(f"dataset_card_{version}.md") for version in ("1.0", "1.1")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both versions collected, byte for byte but for the card; not to be changed."""
    folder = tmp_path_factory.mktemp("collected") / "histories"
    collect_dataset(folder, FAMILY, replace(SETTINGS, expert_actions=False))
    return folder


@pytest.fixture(params=CARDS)
def old(request: pytest.FixtureRequest, plain: Path, tmp_path: Path) -> Path:
    """A finished collection of each version, to be changed."""
    folder = shutil.copytree(plain, tmp_path / "histories")
    shutil.copy(CARDS[request.param], folder / "README.md")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".parquet")}


def edit(folder: Path, text: str, instead: str) -> None:
    """Change a card in an editor."""
    card = (folder / "README.md").read_text()
    assert card.count(text) == 1
    (folder / "README.md").write_text(card.replace(text, instead))


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in Histories.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


# In a folder


@pytest.mark.parametrize("complete", [True, False])
def test_an_old_version_is_read(complete: bool, old: Path, plain: Path) -> None:
    edit(old, "complete: true", f"complete: {str(complete).lower()}")
    histories = load_histories(str(old), "dark-room")
    assert_same(histories, load_histories(str(plain), "dark-room"))
    assert histories.expert_action is None
    (noted,) = configs_of(load_card(old / "README.md")).values()
    assert noted["complete"] == complete


def test_an_old_version_is_streamed(old: Path) -> None:
    found = [histories for histories, _ in islice(open_stream(str(old), "dark-room").read(0), 65)]
    assert {histories.tasks[0] for histories in found} == set(FAMILY["train"])
    assert all(histories.expert_action is None for histories in found)


def test_a_finished_collection_is_left_alone(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(old)
    monkeypatch.setattr(collection, "collect", lambda *args: pytest.fail("collected again"))
    collect_dataset(old, FAMILY, SETTINGS)
    assert contents(old) == before


def test_a_collection_that_was_begun_goes_on_without_expert_actions(old: Path, plain: Path) -> None:
    edit(old, "complete: true", "complete: false")
    for number in (3, 20):
        (old / "dark-room" / f"train-{number:05d}-of-00024.parquet").unlink()
    collect_dataset(old, FAMILY, SETTINGS)
    assert shards(old) == shards(plain)
    ours, theirs = (load_card(folder / "README.md") for folder in (old, plain))
    assert about(ours)["format_version"] == "1.2"
    assert ours.text == theirs.text
    noted = dict(configs_of(theirs)["dark-room"])
    del noted["expert_actions"]  # by which it is known as old the next time
    assert configs_of(ours)["dark-room"] == noted
    after = contents(old)
    collect_dataset(old, FAMILY, SETTINGS)
    assert contents(old) == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"with another seed \(0\)"),
        ({"settings": {"discount": 0.5}}, r"with another settings \(.*'discount': 0.9"),
        ({"settings": {"remember_rewards": 2}}, r"with another settings \(.*'remember_rewards': 0"),
        ({"source": "noise"}, r"with another settings, source \(.*, q-learning\)"),
    ],
)
def test_an_old_collection_is_not_gone_on_with_by_other_settings(
    change: dict[str, Any], message: str, old: Path
) -> None:
    before = contents(old)
    with pytest.raises(ValueError, match=rf"^[^\n]+{message}[^\n]*: choose another --output$"):
        collect_dataset(old, FAMILY, replace(SETTINGS, **change))
    assert contents(old) == before


def test_a_family_that_is_added_has_expert_actions_and_the_old_one_stays_without(old: Path) -> None:
    collect_dataset(old, CORRIDOR, SETTINGS)
    card = load_card(old / "README.md")
    assert about(card)["format_version"] == "1.2"
    assert "complete" not in about(card)
    assert [noted["complete"] for noted in configs_of(card).values()] == [True, True]
    assert "| 100 % | 1.615 | 1.438 |" in card.text
    assert load_histories(str(old), "dark-room").expert_action is None
    assert load_histories(str(old), "corridor").expert_action is not None
    columns = {name: datasets.load_dataset(str(old), name)["train"].column_names for name in configs_of(card)}
    assert columns["corridor"] == [*columns["dark-room"], "expert_action"]
    before = contents(old)
    collect_dataset(old, FAMILY, SETTINGS)
    assert contents(old) == before


def test_an_old_dataset_is_trained_on_and_not_for_dpt(
    old: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    short = (*tiny, "train.updates=1", "train.checkpoint_every=0", "windows.episode_stride=1")
    run_train(load_recipe("dark-room", short), str(old), tmp_path / "ad")
    collected = load_recipe(str(tmp_path / "ad")).collect
    assert replace(collected, settings={}) == replace(SETTINGS, expert_actions=False)
    assert collected.settings["learning_rate"] == 0.5
    dpt = load_recipe("dark-room", (*short, "objective=dpt"))
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"^DPT learns from the actions of an optimal policy, [^\n]+$"):
            run_train(dpt, str(old), tmp_path / "dpt", streaming=streaming)
        assert not (tmp_path / "dpt").exists()


# On the Hub


def card_on(hub: LocalHub) -> RepoCard:
    return RepoCard(hub.files("dataset", REPO)["README.md"].decode())


def test_a_collection_is_published_in_this_version(hub: LocalHub, old: Path, plain: Path) -> None:
    publish(old, REPO)
    card, ours = card_on(hub), load_card(plain / "README.md")
    assert card.data.configs == [{**ours.data.configs[0], "description": card.data.configs[0]["description"]}]
    assert card.data.dataset_info == ours.data.dataset_info
    assert card.data.ad_hf["format_version"] == "1.2"
    assert configs_of(card)["dark-room"]["complete"] is True
    assert f'load_dataset("{REPO}", "dark-room")' in card.text
    assert hub.refs("dataset", REPO)["tags"] == {"v1.2": hub.commits("dataset", REPO)[0].id}
    assert datasets.load_dataset(REPO, "dark-room").num_rows == {"train": 195, "test": 48}


def test_a_repository_is_read_and_added_to(hub: LocalHub, old: Path, plain: Path, tmp_path: Path) -> None:
    hub.add_repo("dataset", REPO, contents(old))
    assert_same(load_histories(REPO, "dark-room"), load_histories(str(plain), "dark-room"))
    collect_dataset(tmp_path / "new", CORRIDOR, SETTINGS)
    publish(tmp_path / "new", REPO)
    card = card_on(hub)
    assert card.data.ad_hf["format_version"] == "1.2"
    assert [noted["complete"] for noted in configs_of(card).values()] == [True, True]
    assert [entry["config_name"] for entry in card.data.configs if entry.get("default")] == ["dark-room"]
    assert load_histories(REPO, "dark-room").expert_action is None
    assert load_histories(REPO, "corridor").expert_action is not None
    for config, rows in (("dark-room", (195, 48)), ("corridor", (6, 3))):
        assert tuple(datasets.load_dataset(REPO, config).num_rows.values()) == rows
