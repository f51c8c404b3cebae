"""The dataset: what was put into a folder comes back, and what is no learning histories is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil  # comes with accelerate
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hub_server import LocalHub
from huggingface_hub import RepoCard

from ad_hf import collection
from ad_hf.collection import CollectSettings, Shard, collect_dataset, write_shard
from ad_hf.dataset import COLUMNS, add_to_card, configs_of, load_histories, publish
from ad_hf.histories import EPISODES, STEPS, Histories
from ad_hf.hub import HubError
from ad_hf.tasks import Task, load_task_family

FAMILY = load_task_family("dark-room")  # 65 tasks to train on, 16 to test
SETTINGS = CollectSettings(num_episodes=3, learners_per_task=1, lockstep=24)  # 4 lockstep runs, 32 shards
FIELDS = [name for name in Histories.__dataclass_fields__ if name != "tasks"]


def collected_in(folder: Path, settings: CollectSettings = SETTINGS) -> Path:
    collect_dataset(folder / "histories", FAMILY, settings)
    return folder / "histories"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished collection, not to be changed."""
    return collected_in(tmp_path_factory.mktemp("collected"))


@pytest.fixture
def copy(output: Path, tmp_path: Path) -> Path:
    """A finished collection, to be changed."""
    return shutil.copytree(output, tmp_path / "histories")


def shards_of(output: Path, split: str = "*") -> list[Path]:
    return sorted((output / "dark-room").glob(f"{split}-*.parquet"))


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in FIELDS:
        one, other = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert ours.tasks == theirs.tasks


def refusal(action: Callable[[], Any]) -> str:
    """The message of the ValueError, which has to be one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        action()
    return str(caught.value)


# What is collected is what is loaded


def test_loading_gives_back_bit_for_bit_what_was_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, seeds, collect = [], set(), collection.collect

    def record(tasks: list[Task], source: str, num_episodes: int, seed: int, *others: Any) -> Histories:
        seeds.add(seed)
        recorded.append(collect(tasks, source, num_episodes, seed, *others))
        return recorded[-1]

    monkeypatch.setattr(collection, "collect", record)
    output = collected_in(tmp_path)
    assert len(recorded) == len(seeds) == 4  # lockstep runs with random numbers of their own
    train, test = (load_histories(str(output), "dark-room", split) for split in ("train", "test"))
    assert (train.tasks, test.tasks) == (FAMILY["train"], FAMILY["test"])
    for name in (*STEPS, *EPISODES):
        before = np.concatenate([getattr(run, name) for run in recorded])
        after = np.concatenate([getattr(train, name), getattr(test, name)])
        assert after.dtype == before.dtype, name
        np.testing.assert_array_equal(after, before, err_msg=name)
    assert train.episode_offsets.tolist() == list(range(0, 65 * 3 * 20 + 1, 20))
    assert test.history_offsets.tolist() == list(range(0, 16 * 3 + 1, 3))


LOADER = """
import json, sys
import datasets
named, default = datasets.load_dataset(sys.argv[1], "dark-room"), datasets.load_dataset(sys.argv[1])
print(json.dumps({
    "columns": {split: rows.column_names for split, rows in named.items()},
    "default": {split: rows.num_rows for split, rows in default.items()},
    "types": {name: repr(feature) for name, feature in named["train"].features.items()},
    "tasks": {split: sorted(set(rows["task"])) for split, rows in named.items()},
    "row": named["test"][0],
}))
"""


def test_datasets_alone_loads_the_folder(output: Path) -> None:
    python = [sys.executable, "-c", LOADER, str(output)]
    found = json.loads(subprocess.run(python, capture_output=True, check=True, cwd=output).stdout)
    assert found["columns"] == {"train": list(COLUMNS), "test": list(COLUMNS)}
    assert found["default"] == {"train": 65 * 3, "test": 16 * 3}
    for split in ("train", "test"):
        assert found["tasks"][split] == sorted(task.json for task in FAMILY[split])
    assert found["types"]["observation"] == "List(List(Value('uint8'), length=2))"
    assert found["types"]["action"] == found["types"]["expert_action"] == "List(Value('uint8'))"
    row = found["row"]
    assert (row["task_id"], row["task"]) == (FAMILY["test"][0].id, FAMILY["test"][0].json)
    assert (row["history_id"], row["stream"], row["episode"], row["learner_step"]) == (65, 0, 0, 0)
    assert len(row["observation"]) == len(row["action"]) == len(row["reward"]) == 20
    assert row["episode_return"] == sum(row["reward"])
    assert (row["terminated"], row["truncated"]) == (False, True)


def test_folders_of_the_same_name_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    # The cache of datasets 5.2 knows a local folder by its last name and its card alone.
    outputs = [collected_in(tmp_path / str(seed), replace(SETTINGS, seed=seed)) for seed in (0, 1)]
    loaded = [load_histories(str(output), "dark-room").action.tolist() for output in outputs]
    by_datasets = [
        np.ravel(datasets.load_dataset(str(output), "dark-room", split="train")["action"]).tolist()
        for output in outputs
    ]
    assert loaded[0] != loaded[1]
    assert loaded == by_datasets


def counting_histories(observation: np.ndarray, action: np.ndarray) -> Histories:
    """Three histories of 2, 3 and 1 ragged episodes; the expert does what is done six steps later.

    The reward is the number of the step.
    """
    return Histories(
        observation=observation[:12],
        action=action[:12],
        reward=np.arange(12, dtype=np.float32),
        final_observation=observation[12:18],
        terminated=np.array([True, False, False, True, False, True]),
        truncated=np.array([False, True, True, False, True, True]),
        episode_offsets=np.array([0, 1, 4, 6, 7, 8, 12]),
        history_offsets=np.array([0, 2, 5, 6]),
        tasks=tuple(Task("counting", {"history": n}) for n in range(3)),
        expert_action=action[6:18],
    )


def write_counting(folder: Path, histories: Histories) -> Path:
    """Two shards, of one history and of two, the way a lockstep run fills them."""
    (folder / "counting").mkdir(parents=True)
    first, second = (folder / "counting" / f"train-{n:05d}-of-00002.parquet" for n in range(2))
    write_shard(Shard(first, (7,), histories.tasks[:1], (0,)), histories, 0)
    write_shard(Shard(second, (8, 9), histories.tasks[1:], (0, 3)), histories, 1)
    return folder


OBSERVATIONS = {
    "Discrete": np.arange(18, dtype=np.uint16) + 300,
    "MultiDiscrete": np.arange(36, dtype=np.int8).reshape(18, 2),
    "vector": np.random.default_rng(0).normal(size=(18, 3)).astype(np.float32),
    "one number": np.random.default_rng(1).normal(size=(18, 1)).astype(np.float32),
    "picture": np.random.default_rng(2).integers(256, size=(18, 4, 5, 3), dtype=np.uint8),
    "switches": np.random.default_rng(3).random((18, 4)) < 0.5,
}
ACTIONS = {
    "Discrete": np.arange(18, dtype=np.uint8),
    "Box": np.random.default_rng(4).normal(size=(18, 2)).astype(np.float32),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_kind_of_space_and_ragged_episodes_come_back(
    observation: str, action: str, tmp_path: Path
) -> None:
    histories = counting_histories(OBSERVATIONS[observation], ACTIONS[action])
    assert_same(load_histories(str(write_counting(tmp_path, histories)), "counting"), histories)


def test_rows_say_where_they_belong(tmp_path: Path) -> None:
    histories = counting_histories(OBSERVATIONS["Discrete"], ACTIONS["Discrete"])
    folder = write_counting(tmp_path, histories) / "counting"
    rows = pa.concat_tables(pq.read_table(shard) for shard in sorted(folder.iterdir())).to_pydict()
    assert list(rows) == list(COLUMNS)
    assert rows["history_id"] == [7, 7, 8, 8, 8, 9]
    assert rows["stream"] == [0, 0, 0, 0, 0, 3]
    assert rows["episode"] == [0, 1, 0, 1, 2, 0]
    assert rows["learner_step"] == [0, 1, 0, 2, 3, 0]
    assert rows["reward"] == [[0], [1, 2, 3], [4, 5], [6], [7], [8, 9, 10, 11]]
    assert rows["episode_return"] == [0, 6, 9, 6, 7, 38]
    assert rows["expert_action"] == [[6], [7, 8, 9], [10, 11], [12], [13], [14, 15, 16, 17]]
    assert rows["final_observation"] == [312, 313, 314, 315, 316, 317]
    assert rows["terminated"] == [True, False, False, True, False, True]
    assert rows["truncated"] == [False, True, True, False, True, True]
    assert rows["task"] == [histories.tasks[n].json for n in (0, 0, 1, 1, 1, 2)]
    assert rows["task_id"] == [histories.tasks[n].id for n in (0, 0, 1, 1, 1, 2)]


# What a dataset is refused for, when loading it


def rewrite(output: Path, change: Callable[[pa.Table], pa.Table], num_shards: int = 24) -> None:
    for shard in shards_of(output, "train")[:num_shards]:
        pq.write_table(change(pq.read_table(shard)), shard)


def with_column(name: str, change: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, change(table[name]))


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return with_column(name, lambda column: column.cast(kind))


def with_rows(
    name: str, change: Callable[[list], list], kind: pa.DataType | None = None
) -> Callable[[pa.Table], pa.Table]:
    return with_column(name, lambda column: pa.array(change(column.to_pylist()), kind or column.type))


def overwrite_the_middle(shard: Path) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data[:100] + bytes(400) + data[500:])


# What happens to the training shards, and what is said about it.
FILE_DAMAGE: dict[str, tuple[Callable[[list[Path]], Any], str]] = {
    "cut off": (
        lambda shards: os.truncate(shards[3], 900),
        "train-00003-of-00024.parquet (900 bytes) is truncated, damaged or not Parquet: "
        "remove it and run the same `ad-hf collect` again",
    ),
    "emptied": (lambda shards: os.truncate(shards[0], 0), "(0 bytes) is truncated, damaged or not Parquet"),
    "overwritten": (lambda shards: overwrite_the_middle(shards[1]), "is truncated, damaged or not Parquet"),
    "one lost": (
        lambda shards: shards[5].unlink(),
        "holds 23 train shards, but by their names there are 00024: run the same `ad-hf collect` again",
    ),
    "two collections": (
        lambda shards: shards[0].with_name("train-00000-of-00008.parquet").touch(),
        "holds 25 train shards, but by their names there are 00008 or 00024",
    ),
    "all lost": (
        lambda shards: [shard.unlink() for shard in shards],
        "dark-room has no split 'train': choose one of test",
    ),
    "everything lost": (
        lambda shards: [shard.unlink() for shard in shards[0].parent.iterdir()],
        "dark-room holds no Parquet files: collect histories with `ad-hf collect` first",
    ),
}

UNSORTED = "is not sorted by history and episode, so its histories cannot be told apart"
NUMBERS = "holds missing values, NaN or infinity"
# What happens to the rows of every training shard, and what is said about it.
ROW_DAMAGE: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "another dataset": (
        lambda table: pa.table({"text": ["to be or not to be"]}),
        "does not hold learning histories: it lacks the columns history_id, task_id, task, stream, episode",
    ),
    "no actions": (lambda table: table.drop_columns(["action"]), "it lacks the columns action"),
    "no rows": (lambda table: table[:0], "holds no episodes"),
    "backwards": (lambda table: table[::-1], UNSORTED),
    "by episode": (lambda table: table.sort_by("episode"), UNSORTED),
    "out of order": (lambda table: table.take([0, 2, 1, *range(3, len(table))]), UNSORTED),
    "one twice": (lambda table: table.take([0, *range(len(table))]), UNSORTED),
    "text": (cast("reward", pa.list_(pa.string())), "reward in {0} has to hold numbers, but holds string"),
    "no lists": (
        with_column("reward", lambda column: pc.list_element(column, 0)),
        "reward in {0} has to be one list per episode, but is float",
    ),
    "no end": (with_rows("truncated", lambda rows: [None, *rows[1:]]), "truncated in {0} " + NUMBERS),
    "no rewards": (
        with_rows("reward", lambda rows: [None, *rows[1:]]),
        "reward in {0} holds missing episodes",
    ),
    "no reward": (
        with_rows("reward", lambda rows: [[None, *row[1:]] for row in rows]),
        "reward in {0} " + NUMBERS,
    ),
    "nan": (
        with_rows("reward", lambda rows: [[np.nan, *row[1:]] for row in rows]),
        "reward in {0} " + NUMBERS,
    ),
    "fewer rewards": (
        with_rows("reward", lambda rows: [row[1:] for row in rows]),
        "holds episodes without steps, or with more of one column than of another",
    ),
    "two sizes": (
        with_rows(
            "observation",
            lambda rows: [[[0, 0], *row[1:-1], [0]] for row in rows],
            pa.list_(pa.list_(pa.uint8())),
        ),
        "observation in {0} holds arrays of different sizes",
    ),
}


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_damaged_and_incomplete_datasets_are_refused_in_one_line(damage: str, copy: Path) -> None:
    harm, message = FILE_DAMAGE[damage]
    harm(shards_of(copy, "train"))
    told = refusal(lambda: load_histories(str(copy), "dark-room"))
    assert told.startswith(str(copy))
    assert message in told


@pytest.mark.parametrize("damage", ROW_DAMAGE)
def test_rows_that_are_no_learning_histories_are_refused_in_one_line(damage: str, copy: Path) -> None:
    harm, message = ROW_DAMAGE[damage]
    rewrite(copy, harm)
    told = refusal(lambda: load_histories(str(copy), "dark-room"))
    assert str(copy) in told
    assert message.format(copy) in told


def test_shards_of_different_types_are_refused(copy: Path) -> None:
    rewrite(copy, cast("action", pa.list_(pa.int64())), num_shards=1)
    told = refusal(lambda: load_histories(str(copy), "dark-room"))
    shards = [str(shards_of(copy, "train")[1]), "train-00000-of-00024.parquet"]
    assert told == "{} has other types than {}: action (list<element: uint8>)".format(*shards)


def test_a_dataset_stored_wider_than_it_needs_is_read(copy: Path, output: Path) -> None:
    # As other tools write it: lists of any length, 64-bit numbers.
    rewrite(copy, cast("observation", pa.list_(pa.list_(pa.int64()))))
    rewrite(copy, cast("reward", pa.list_(pa.float64())))
    ours, theirs = (load_histories(str(folder), "dark-room") for folder in (copy, output))
    np.testing.assert_array_equal(ours.observation, theirs.observation)
    np.testing.assert_array_equal(ours.reward, theirs.reward)
    assert ours.reward.dtype == np.float32


def test_every_other_episode_is_a_dataset_too(copy: Path) -> None:
    rewrite(copy, lambda table: table.filter(pc.not_equal(table["episode"], 1)))
    assert np.diff(load_histories(str(copy), "dark-room").history_offsets).tolist() == [2] * 65


def test_names_that_do_not_exist_are_refused(output: Path) -> None:
    told = refusal(lambda: load_histories(str(output), "watermaze"))
    assert told.startswith(f"{output}/watermaze holds no Parquet files")
    told = refusal(lambda: load_histories(str(output), "dark-room", "validation"))
    assert told == f"{output}/dark-room has no split 'validation': choose one of test, train"


def test_more_than_fits_into_memory_is_refused_with_a_way_out(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = load_histories(str(output), "dark-room")
    size = sum(getattr(needed, name).nbytes for name in FIELDS[:3])
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=10 * size))
    load_histories(str(output), "dark-room")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=size))
    told = refusal(lambda: load_histories(str(output), "dark-room"))
    assert "GiB, more than is free: train with --streaming" in told


def test_columns_of_others_are_neither_read_nor_counted(
    copy: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = pa.array([list(range(10_000))])
    rewrite(copy, lambda table: table.append_column("my.notes", notes.take(np.zeros(len(table), int))))
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=2**20))
    assert_same(load_histories(str(copy), "dark-room"), load_histories(str(output), "dark-room"))


@pytest.mark.parametrize("path", ["./nothing", "/no/thing", "~/nothing", "nothing", "a/b/c", "org/a b"])
def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(path: str) -> None:
    with pytest.raises(HubError) as caught:
        load_histories(path, "dark-room")
    told = f"there is no folder {path}, and no repository on the Hub can have this name"
    assert str(caught.value) == told


# Format versions


@pytest.mark.parametrize("version", ["1.3", "2.0", "1.10", "10.0"])
def test_a_newer_format_is_refused_in_a_line_that_says_what_to_upgrade(version: str, copy: Path) -> None:
    card = copy / "README.md"
    card.write_text(card.read_text().replace("format_version: '1.2'", f"format_version: '{version}'"))
    assert refusal(lambda: load_histories(str(copy), "dark-room")) == (
        f"{copy} has the format version {version}, but this ad-hf reads versions up to 1.2: "
        "upgrade it with `pip install --upgrade ad-hf`"
    )


def test_a_folder_without_a_card_is_read(copy: Path, output: Path) -> None:
    (copy / "README.md").unlink()
    assert_same(load_histories(str(copy), "dark-room"), load_histories(str(output), "dark-room"))


# Cards of several configs


def part(config: str, rows: int = 10, **entry: Any) -> dict[str, Any]:
    """What a collection notes of itself; the least that a card can be made from."""
    return {
        "configs": [{"config_name": config, "data_files": [], **entry}],
        "dataset_info": [{"config_name": config, "splits": [{"name": "train", "num_examples": rows}]}],
        "ad_hf": {"configs": {config: {"complete": True, "source": f"source of {config}"}}},
    }


def card_of(*parts: dict[str, Any]) -> RepoCard:
    card = None
    for mine in parts:
        card = RepoCard(str(add_to_card(mine, card, "org/histories")))
    assert card is not None
    return card


def defaults(card: RepoCard) -> list[str]:
    return [entry["config_name"] for entry in card.data.configs if entry.get("default")]


def test_configs_gather_on_a_card_in_the_order_they_come_in() -> None:
    card = card_of(part("b"), part("a"), part("c"))
    assert [entry["config_name"] for entry in card.data.configs] == ["b", "a", "c"]
    assert [info["config_name"] for info in card.data.dataset_info] == ["b", "a", "c"]
    assert list(configs_of(card)) == ["b", "a", "c"]
    assert defaults(card) == ["b"]


def test_a_config_that_comes_again_takes_its_own_place() -> None:
    once, twice = card_of(part("b"), part("a")), card_of(part("b"), part("a"), part("b"))
    assert str(once) == str(twice)
    changed = card_of(part("b"), part("a"), part("b", rows=5000, description="new"))
    assert [entry.get("description") for entry in changed.data.configs] == ["new", None]
    assert changed.data.size_categories == ["1K<n<10K"]


def test_there_is_one_default_whatever_comes() -> None:
    assert defaults(card_of(part("a"), part("b", default=True))) == ["a"]
    assert defaults(card_of(part("a", default=True), part("a"))) == ["a"]
    both: dict[str, Any] = {
        key: part("a")[key] + part("b", default=True)[key] for key in ("configs", "dataset_info")
    }
    both["ad_hf"] = {"configs": {"a": {}, "b": {}}}
    assert defaults(card_of(both)) == ["b"]
    assert defaults(card_of(part("a"), both)) == ["a"]


@pytest.mark.parametrize(
    "metadata",
    [
        "configs: []\ndataset_info: []",
        "configs:\n- config_name: text\n  data_files: '*.txt'\ndataset_info:\n- config_name: text",
        "dataset_info:\n  features:\n  - name: text\n    dtype: string",
        "configs: text\ndataset_info: 5\nad_hf: yes",
        "ad_hf:\n  format_version: new\n  configs: [1, 2]",
        "ad_hf:\n  configs:\n    text: 5\n",
    ],
)
def test_whatever_stands_on_a_card_ours_is_added(metadata: str) -> None:
    card = RepoCard(str(add_to_card(part("a"), RepoCard(f"---\n{metadata}\n---\n"), "org/histories")))
    assert card.data.configs[-1]["config_name"] == card.data.dataset_info[-1]["config_name"] == "a"
    assert len(defaults(card)) == 1
    assert list(configs_of(card)) == ["a"]


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999_999, "1M<n<10M"), (10**13, "n>1T")],
)
def test_sizes_are_named_as_the_hub_names_them(rows: int, category: str) -> None:
    assert card_of(part("a", rows=rows)).data.size_categories == [category]


# What is not published


def edit(folder: Path, old: str, new: str) -> None:
    """Change a card in an editor."""
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


# What happens to a folder, and what is said about it when it is to be published.
UNFINISHED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not collected to the end": (
        lambda copy: edit(copy, "complete: true", "complete: false"),
        "holds dark-room histories that are not complete: run the same `ad-hf collect` again",
    ),
    "a shard lost": (
        lambda copy: shards_of(copy, "train")[0].unlink(),
        "/dark-room holds 23 train shards, but by their names there are 00024: run the same",
    ),
    "a split lost": (
        lambda copy: [shard.unlink() for shard in shards_of(copy, "test")],
        "/dark-room has no split 'test': choose one of train",
    ),
    "everything lost": (
        lambda copy: shutil.rmtree(copy / "dark-room"),
        "/dark-room holds no Parquet files: collect histories with `ad-hf collect` first",
    ),
    "a shard cut off": (
        lambda copy: os.truncate(shards_of(copy)[7], 900),
        "(900 bytes) is truncated, damaged or not Parquet: remove it and run the same `ad-hf collect` again",
    ),
    "a shard overwritten": (
        lambda copy: overwrite_the_middle(shards_of(copy)[1]),
        "is truncated, damaged or not Parquet",
    ),
    "without its card": (
        lambda copy: (copy / "README.md").unlink(),
        "holds no learning histories: collect some with `ad-hf collect`",
    ),
    "something else's card": (
        lambda copy: (copy / "README.md").write_text("---\nlicense: mit\n---\n# Poems\n"),
        "holds no learning histories: collect some with `ad-hf collect`",
    ),
    "of a newer format": (
        lambda copy: edit(copy, "format_version: '1.2'", "format_version: '1.3'"),
        "upgrade it with `pip install --upgrade ad-hf`",
    ),
}


@pytest.mark.parametrize("harm", UNFINISHED)
def test_what_is_not_whole_is_not_published(harm: str, hub: LocalHub, copy: Path) -> None:
    damage, message = UNFINISHED[harm]
    damage(copy)
    told = refusal(lambda: publish(copy, "org/histories"))
    assert told.startswith(str(copy))
    assert message in told
    assert not hub.requests
