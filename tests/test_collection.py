"""Collection: a folder that says how it was made, and survives interruption."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCardData, RepoCard

from ad_hf import collection
from ad_hf.cards import is_edited, load_card
from ad_hf.collection import CollectSettings, collect_dataset, plan_shards
from ad_hf.dataset import COLUMNS, configs_of, load_histories
from ad_hf.tasks import TaskFamily, load_task_family

FAMILY = load_task_family("dark-room")  # 65 tasks to train on, 16 to test
HARD = load_task_family("dark-room-hard")
SETTINGS = CollectSettings(num_episodes=3, learners_per_task=1, lockstep=24)  # 4 lockstep runs, 32 shards


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished collection, not to be changed."""
    folder = tmp_path_factory.mktemp("collected") / "histories"
    collect_dataset(folder, FAMILY, SETTINGS)
    return folder


@pytest.fixture
def copy(output: Path, tmp_path: Path) -> Path:
    """A finished collection, to be changed."""
    return shutil.copytree(output, tmp_path / "histories")


@pytest.fixture(scope="module")
def both(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished collections in one folder, not to be changed."""
    folder = shutil.copytree(output, tmp_path_factory.mktemp("both") / "histories")
    collect_dataset(folder, HARD, replace(SETTINGS, lockstep=512))
    return folder


def collected_in(folder: Path) -> Path:
    collect_dataset(folder / "histories", FAMILY, SETTINGS)
    return folder / "histories"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_of(output: Path, split: str = "*") -> list[Path]:
    return sorted((output / "dark-room").glob(f"{split}-*.parquet"))


def metadata_of(folder: Path) -> dict[str, Any]:
    return load_card(folder / "README.md").data.to_dict()


def edit(folder: Path, old: str, new: str) -> None:
    """Change a card in an editor."""
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


def refusal(action: Callable[[], Any]) -> str:
    """The message of the ValueError, which has to be one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        action()
    return str(caught.value)


# The plan


@pytest.mark.parametrize("lockstep", [1, 5, 8, 24, 100, 512])
@pytest.mark.parametrize("learners_per_task", [1, 3, 10])
def test_a_plan_gives_every_learner_one_place_in_order_and_no_run_too_many(
    learners_per_task: int, lockstep: int
) -> None:
    settings = CollectSettings(learners_per_task=learners_per_task, lockstep=lockstep)
    runs = plan_shards(Path("x"), FAMILY, settings)
    shards = [shard for run in runs for shard in run]
    assert max(sum(len(shard.tasks) for shard in run) for run in runs) <= lockstep
    places = [place for s in shards for place in zip(s.history_ids, s.tasks, s.streams, strict=True)]
    learners = [
        (task, n) for split in FAMILY.splits for task in FAMILY[split] for n in range(learners_per_task)
    ]
    assert places == [(history_id, *learner) for history_id, learner in enumerate(learners)]
    for split in FAMILY.splits:
        names = [shard.path.name for shard in shards if shard.path.name.startswith(split)]
        assert names == [f"{split}-{n:05d}-of-{len(names):05d}.parquet" for n in range(len(names))]
        assert len(names) % 8 == 0 or lockstep == 1


def test_fewer_learners_than_eight_get_a_shard_each() -> None:
    family = TaskFamily("tiny", {"train": FAMILY["train"][:3], "test": FAMILY["test"][:1]})
    (run,) = plan_shards(Path("x"), family, CollectSettings(learners_per_task=2))
    assert [shard.path.name.partition("-of-")[2] for shard in run] == ["00006.parquet"] * 6 + [
        "00002.parquet"
    ] * 2


@pytest.mark.parametrize("setting", ["num_episodes", "learners_per_task", "lockstep"])
def test_a_collection_of_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} is 0, but must be at least 1"):
        CollectSettings(**{setting: 0})


# Interruptions


def test_the_same_settings_give_the_same_bytes(output: Path, tmp_path: Path) -> None:
    assert contents(collected_in(tmp_path)) == contents(output)


KILLED = """
import os, sys
from pathlib import Path
import pyarrow.parquet as pq
from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.tasks import load_task_family

write, written = pq.write_table, 0

def write_and_die(table, file, **options):
    global written
    written += 1
    if written == 11:
        file.write(b"PAR1 and no more")
        file.flush()
        os.kill(os.getpid(), 9)
    write(table, file, **options)

pq.write_table = write_and_die
settings = CollectSettings(num_episodes=3, learners_per_task=1, lockstep=24)
collect_dataset(Path(sys.argv[1]), load_task_family("dark-room"), settings)
"""


def test_a_killed_collection_keeps_whole_shards_and_ends_as_if_nothing_had_happened(
    output: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "histories"
    assert subprocess.run([sys.executable, "-c", KILLED, str(killed)]).returncode == -9
    whole, kept = contents(output), contents(killed)
    shards = {name: data for name, data in kept.items() if name.endswith(".parquet")}
    assert len(shards) == 10
    assert shards.items() <= whole.items()
    beside = {"README.md", "dark-room/.lock", "dark-room/train-00010-of-00024.partial"}
    assert kept.keys() - shards.keys() == beside
    assert "**Being collected; run the command below again to go on.**" in (killed / "README.md").read_text()
    message = refusal(lambda: load_histories(str(killed), "dark-room"))
    assert "holds 10 train shards, but by their names there are 00024: run the same" in message
    collected_in(tmp_path)
    assert contents(killed) == whole


def test_an_interruption_leaves_nothing_half_written(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table, seen = pq.write_table, []

    def write_some(table: pa.Table, file: Any, **options: Any) -> None:
        seen.append(table)
        write_table(table, file, **options)
        if len(seen) == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", write_some)
    with pytest.raises(KeyboardInterrupt):
        collected_in(tmp_path)
    kept = contents(tmp_path / "histories")
    assert len([name for name in kept if name.endswith(".parquet")]) == 29
    assert [name for name in kept if name.endswith(".partial")] == []
    monkeypatch.undo()
    assert contents(collected_in(tmp_path)) == contents(output)


def test_only_runs_with_a_missing_shard_are_collected_again(
    copy: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_of(copy, "test")[-1].unlink()
    runs: list[int] = []
    collect = collection.collect
    monkeypatch.setattr(collection, "collect", lambda *args: runs.append(len(args[0])) or collect(*args))
    collect_dataset(copy, FAMILY, SETTINGS)
    assert len(runs) == 1
    assert contents(copy) == contents(output)


def test_a_finished_collection_is_left_alone_edits_of_its_card_included(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (copy / "README.md").open("a") as card:
        card.write("\nCollected for the winter school.\n")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    monkeypatch.setattr(collection, "collect", lambda *args: pytest.fail("collected again"))
    progress: list[tuple[int, int]] = []
    collect_dataset(copy, FAMILY, SETTINGS, lambda *counts: progress.append(counts))
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before
    assert set(progress) == {(32, 32)}


def test_a_damaged_shard_is_named_and_can_be_collected_again(copy: Path, output: Path) -> None:
    collection.write_card(copy, FAMILY, SETTINGS, finished=False)
    damaged = shards_of(copy)[2]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    told = refusal(lambda: collect_dataset(copy, FAMILY, SETTINGS))
    assert told.startswith(
        f"{damaged} ({damaged.stat().st_size} bytes) is truncated, damaged or not Parquet: "
    )
    damaged.unlink()
    collect_dataset(copy, FAMILY, SETTINGS)
    assert contents(copy) == contents(output)


def test_a_collection_killed_before_its_last_card_gets_it(output: Path, copy: Path) -> None:
    collection.write_card(copy, FAMILY, SETTINGS, finished=False)
    assert contents(copy) != contents(output)
    collect_dataset(copy, FAMILY, SETTINGS)
    assert contents(copy) == contents(output)


def test_progress_counts_shards_up_to_all(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    collect_dataset(tmp_path / "h", FAMILY, SETTINGS, lambda *counts: progress.append(counts))
    assert progress[0] == (0, 32)
    assert progress[-1] == (32, 32)
    assert progress == sorted(progress)


# Several processes


@pytest.mark.slow
def test_processes_share_the_runs_that_are_missing_and_write_the_same_bytes(copy: Path, output: Path) -> None:
    for shard in (shards_of(copy, "train")[0], shards_of(copy, "test")[-1]):
        shard.unlink()
    progress: list[tuple[int, int]] = []
    processes: list[int] = []

    def on_progress(done: int, total: int) -> None:
        progress.append((done, total))
        processes.append(len(active_children()))

    collect_dataset(copy, FAMILY, SETTINGS, on_progress, num_proc=8)
    assert max(processes) == 2  # as many as there are runs to do
    assert processes[-1] == 0
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == ((30, 32), (32, 32))
    assert contents(copy) == contents(output)


def test_a_single_run_needs_no_other_process(
    copy: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "ProcessPoolExecutor", lambda *args, **kwargs: pytest.fail("started one"))
    shards_of(copy, "test")[-1].unlink()
    for _ in range(2):  # the second time there is nothing to do
        collect_dataset(copy, FAMILY, SETTINGS, num_proc=8)
    assert contents(copy) == contents(output)


@pytest.mark.slow
def test_a_process_that_dies_is_told_in_one_line_and_whole_shards_are_kept(tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_episodes=100, lockstep=8)  # 11 runs, long enough to die in one
    bystander = get_context("spawn").Process(target=time.sleep, args=(120,), daemon=True)
    bystander.start()
    killed: list[Any] = []

    def kill_one(done: int, total: int) -> None:
        if done and not killed:
            killed.append(next(child for child in active_children() if child.pid != bystander.pid))
            killed[0].kill()

    folder = tmp_path / "killed" / "histories"
    told = refusal(lambda: collect_dataset(folder, FAMILY, settings, kill_one, num_proc=2))
    assert told.startswith("one of 2 processes died, perhaps for want of memory; whole shards are kept: ")
    assert "--num-proc" in told
    assert active_children() == [bystander]  # ours are gone, and only ours
    bystander.kill()
    collect_dataset(tmp_path / "whole" / "histories", FAMILY, settings)
    kept, whole = contents(folder / "dark-room"), contents(tmp_path / "whole" / "histories" / "dark-room")
    shards = {name: data for name, data in kept.items() if name.endswith(".parquet")}
    assert 0 < len(shards) < len(whole)
    assert shards.items() <= whole.items()
    collect_dataset(folder, FAMILY, settings)
    assert contents(folder) == contents(tmp_path / "whole" / "histories")


# What a folder is refused for, when collecting into it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"with another seed \(0\)"),
        ({"num_episodes": 4}, r"with another num_episodes \(3\)"),
        ({"learners_per_task": 2, "lockstep": 25}, r"with another learners_per_task, lockstep \(1, 24\)"),
        ({"source": "noise"}, r"with another settings, source \(.*, q-learning\)"),
        ({"settings": {"discount": 0.5}}, r"with another settings \(.*'discount': 0.9"),
    ],
)
def test_other_settings_are_refused_and_named(output: Path, change: dict[str, Any], message: str) -> None:
    before = contents(output)
    told = refusal(lambda: collect_dataset(output, FAMILY, replace(SETTINGS, **change)))
    assert re.search(message + ".*: choose another --output$", told)
    assert contents(output) == before


@pytest.mark.parametrize("options", [{"fold": 1}, {"seed": 1}])
def test_other_tasks_are_refused_and_named(output: Path, options: dict[str, int]) -> None:
    family = load_task_family("dark-room", **options)
    assert "with another task_family (" in refusal(lambda: collect_dataset(output, family, SETTINGS))


@pytest.mark.parametrize("text", ["# My notes\n", "---\nlicense: mit\n---\n", "---\nad_hf:\n---\n"])
def test_a_readme_of_something_else_is_not_overwritten(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    told = refusal(lambda: collect_dataset(tmp_path, FAMILY, SETTINGS))
    holds = f"{tmp_path} holds a README.md that names no histories"
    assert told == f"{holds}: choose another --output for dark-room"
    assert contents(tmp_path) == {"README.md": text.encode()}


def test_a_readme_with_broken_metadata_is_refused(copy: Path) -> None:
    (copy / "README.md").write_text("---\nad_hf: [\n---\n")
    told = refusal(lambda: collect_dataset(copy, FAMILY, SETTINGS))
    assert told.startswith(f"the metadata at the top of {copy}/README.md cannot be read: ")


def test_shards_without_a_card_are_refused(copy: Path) -> None:
    # Whatever they are, they would be taken for those of this collection.
    (copy / "README.md").unlink()
    told = refusal(lambda: collect_dataset(copy, FAMILY, SETTINGS))
    assert told.startswith(f"{copy} holds Parquet files, but no README.md that says how they were collected")


# Several families in one folder


def test_a_second_family_is_added_and_leaves_the_first_as_it_was(output: Path, both: Path) -> None:
    before, after = contents(output), contents(both)
    assert {name: after[name] for name in before if name != "README.md"}.items() <= before.items()
    old, new = metadata_of(output), metadata_of(both)
    assert new["configs"][0] == old["configs"][0]
    assert new["dataset_info"][0] == old["dataset_info"][0]
    assert new["ad_hf"]["configs"]["dark-room"] == old["ad_hf"]["configs"]["dark-room"]
    for name in ("configs", "dataset_info"):
        assert [entry["config_name"] for entry in new[name]] == ["dark-room", "dark-room-hard"]
    assert [entry.get("default") for entry in new["configs"]] == [True, None]
    assert all(noted["complete"] for noted in configs_of(load_card(both / "README.md")).values())
    assert (old["size_categories"], new["size_categories"]) == (["n<1K"], ["1K<n<10K"])
    text = (both / "README.md").read_text()
    assert re.findall(r"^## (dark.*)$", text, re.M) == ["dark-room", "dark-room-hard"]
    assert len(load_histories(str(both), "dark-room").tasks) == 65
    assert len(load_histories(str(both), "dark-room-hard").tasks) == 231


def test_a_folder_of_several_families_is_loaded_by_datasets_too(both: Path) -> None:
    sizes = {None: (195, 48), "dark-room": (195, 48), "dark-room-hard": (693, 174)}
    for config, (train, test) in sizes.items():
        rows = datasets.load_dataset(str(both), config).num_rows
        assert rows == {"train": train, "test": test}, config


def test_the_first_family_can_be_loaded_while_a_second_is_collected(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collection, "collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        collect_dataset(copy, HARD, SETTINGS)
    assert configs_of(load_card(copy / "README.md"))["dark-room-hard"]["complete"] is False
    assert (copy / "README.md").read_text().count("**Being collected;") == 1
    assert datasets.load_dataset(str(copy)).num_rows == {"train": 195, "test": 48}
    assert datasets.load_dataset(str(copy), "dark-room").num_rows == {"train": 195, "test": 48}


def test_a_family_collected_again_keeps_its_place_and_the_default(both: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(both, tmp_path / "histories")
    edit(copy, "  default: true\n", "")
    edit(
        copy,
        "- config_name: dark-room-hard\n  desc",
        "- config_name: dark-room-hard\n  default: true\n  desc",
    )
    shards_of(copy)[0].unlink()
    collect_dataset(copy, FAMILY, SETTINGS)
    ours, theirs = metadata_of(copy), metadata_of(both)
    assert [entry["config_name"] for entry in ours["configs"]] == ["dark-room", "dark-room-hard"]
    assert [entry.get("default") for entry in ours["configs"]] == [None, True]
    assert ours["dataset_info"] == theirs["dataset_info"]
    assert 'load_dataset("histories", "dark-room-hard")' in (copy / "README.md").read_text()


# Edits of the card


def test_what_people_write_on_a_card_stays_when_a_family_is_added(copy: Path) -> None:
    edit(copy, "## Limits", "Collected for the winter school.\n\n## Limits")
    edit(copy, "license: apache-2.0", "license: cc-by-4.0\nlanguage: en")
    edit(copy, "- learning-histories", "- winter-school")
    edit(copy, "n<1K", "n>1T")  # this we know better
    collect_dataset(copy, HARD, replace(SETTINGS, lockstep=512))
    card = load_card(copy / "README.md")
    assert "Collected for the winter school." in card.text
    assert is_edited(card)
    metadata = card.data.to_dict()
    assert (metadata["license"], metadata["language"]) == ("cc-by-4.0", "en")
    assert "winter-school" in metadata["tags"]
    assert "learning-histories" not in metadata["tags"]
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert list(configs_of(card)) == ["dark-room", "dark-room-hard"]


# Format versions


def test_a_newer_format_is_not_written_into(copy: Path) -> None:
    edit(copy, "format_version: '1.2'", "format_version: '1.3'")
    before = contents(copy)
    told = refusal(lambda: collect_dataset(copy, HARD, SETTINGS))
    assert told == (
        f"{copy} has the format version 1.3, but this ad-hf reads versions up to 1.2: "
        "upgrade it with `pip install --upgrade ad-hf`"
    )
    assert contents(copy) == before


# The card of a collection


def test_the_card_tells_the_hub_what_it_asks_for(output: Path) -> None:
    text = (output / "README.md").read_text()
    card = RepoCard(text, ignore_metadata_errors=False)
    metadata = DatasetCardData(**card.data.to_dict())
    assert metadata.license == "apache-2.0"
    assert metadata.task_categories == ["reinforcement-learning"]
    assert metadata.size_categories == ["n<1K"]
    assert metadata.tags[0] == "algorithm-distillation"
    (config,) = metadata.configs
    assert (config["config_name"], config["default"]) == ("dark-room", True)
    assert config["data_files"] == [
        {"split": "train", "path": "dark-room/train-*.parquet"},
        {"split": "test", "path": "dark-room/test-*.parquet"},
    ]


@pytest.mark.parametrize("config", ["dark-room", "dark-room-hard"])
def test_the_card_announces_what_datasets_finds(config: str, both: Path) -> None:
    files = {split: sorted(map(str, (both / config).glob(f"{split}-*"))) for split in ("train", "test")}
    found = datasets.load_dataset("parquet", data_files=files)  # without the card
    told = datasets.info.DatasetInfosDict.from_directory(str(both))[config]
    assert told.features == found["train"].features == found["test"].features
    assert list(told.features) == list(COLUMNS)
    for split, rows in found.items():
        announced = told.splits[split]
        assert (announced.num_examples, announced.num_bytes) == (len(rows), rows.info.splits[split].num_bytes)
    assert told.download_size == sum(Path(path).stat().st_size for paths in files.values() for path in paths)
    assert told.dataset_size == sum(split.num_bytes for split in told.splits.values())


def test_the_card_names_everything_that_made_the_dataset(output: Path) -> None:
    noted = metadata_of(output)["ad_hf"]
    assert noted["format_version"] == "1.2"
    made = noted["configs"]["dark-room"]
    assert made["complete"] is True
    assert made["task_family"] == {"name": "dark-room", "fold": None, "seed": 0}
    assert (made["source"], made["seed"], made["lockstep"]) == ("q-learning", 0, 24)
    assert (made["num_episodes"], made["learners_per_task"], made["expert_actions"]) == (3, 1, True)
    assert made["settings"]["learning_rate"] == 0.5  # defaults too: they may change one day
    assert made["tasks"] == {"train": 65, "test": 16}


def test_the_card_explains_every_column_and_leaves_no_blank(both: Path) -> None:
    text = load_card(both / "README.md").text
    for name, meaning in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in text
    assert "65 histories of 3 episodes in `train`:\n1 learner on each of 65 tasks." in text
    assert "231 histories of 3 episodes in `train`:\n1 learner on each of 231 tasks." in text
    assert "Environment: `ad_hf/DarkRoom-v0`, observation space `MultiDiscrete([9 9])`" in text
    assert "Environment: `ad_hf/DarkRoomHard-v0`, observation space `MultiDiscrete([17 17])`" in text
    assert text.count(", seed 0.\n") == 2
    assert "Format version 1.2." in text
    assert not re.search(r"\{\{|\{%|nan|None|Undefined|` `|\n\n\n|Being collected", text)


def test_several_learners_are_told_in_the_plural(tmp_path: Path) -> None:
    family = TaskFamily("dark-room", {"train": FAMILY["train"][:3], "test": FAMILY["test"][:1]})
    collect_dataset(tmp_path, family, replace(SETTINGS, learners_per_task=2))
    text = (tmp_path / "README.md").read_text()
    assert "6 histories of 3 episodes in `train`:\n2 learners on each of 3 tasks." in text


def test_the_card_shows_the_learning_curves(tmp_path: Path) -> None:
    settings = CollectSettings(num_episodes=81, learners_per_task=1)
    output = tmp_path / "histories"
    collect_dataset(output, FAMILY, settings)
    rows = re.findall(r"^\| (\d+) % \| ([\d.]+) \| ([\d.]+) \|$", (output / "README.md").read_text(), re.M)
    shown = np.array(rows, dtype=float)
    assert shown[:, 0].tolist() == list(range(0, 101, 10))
    noted = metadata_of(output)["ad_hf"]["configs"]["dark-room"]["learning_curves"]
    for column, split in enumerate(("train", "test"), start=1):
        returns = load_histories(str(output), "dark-room", split).return_matrix()
        around = [returns[:, max(8 * n - 2, 0) : 8 * n + 3].mean() for n in range(11)]  # 81 / 20 episodes
        np.testing.assert_allclose(shown[:, column], around, atol=0.001)
        assert noted[split] == shown[:, column].tolist()


COLLECTIONS: dict[str, tuple[CollectSettings, TaskFamily]] = {
    "plain": (SETTINGS, FAMILY),
    "far from the defaults": (
        replace(SETTINGS, seed=7, learners_per_task=2, settings={"epsilon_start": 0.5, "discount": 0.95}),
        load_task_family("dark-room", fold=2, seed=3),
    ),
    "without a recipe": (replace(SETTINGS, lockstep=512), HARD),
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
    command, *_ = re.findall(r"^(ad-hf collect .*)$", load_card(original / "README.md").text, re.M)
    assert '"learning_rate": 0.5' in command  # defaults too: those of recipes and sources may change
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "here" / "my histories") == contents(original)


def test_a_folder_given_as_a_dot_is_named_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my histories").mkdir()
    monkeypatch.chdir(tmp_path / "my histories")
    collect_dataset(Path(), FAMILY, SETTINGS)
    text = Path("README.md").read_text()
    assert 'load_dataset("my histories", "dark-room")' in text
    assert "ad-hf train dark-room --dataset 'my histories' --output" in text
    assert "--output 'my histories' " in text
