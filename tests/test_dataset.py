"""The dataset: a folder that says how it was made, survives interruption, and gives back what was put in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ad_hf import collection
from ad_hf.collection import CollectSettings, Shard, collect_dataset, plan_shards, write_shard
from ad_hf.dataset import COLUMNS, load_histories
from ad_hf.histories import Histories
from ad_hf.tasks import Task, TaskFamily, load_task_family

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
    for file in contents(output):
        (tmp_path / "histories" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "histories" / file).write_bytes(contents(output)[file])
    return tmp_path / "histories"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_of(output: Path, split: str = "*") -> list[Path]:
    return sorted((output / "dark-room").glob(f"{split}-*.parquet"))


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in FIELDS:
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype, name
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.tasks == theirs.tasks


def rows_of(output: Path, split: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(shard) for shard in shards_of(output, split))


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

    def record(tasks: list[Task], source: str, num_episodes: int, seed: int, settings: Any) -> Histories:
        seeds.add(seed)
        recorded.append(collect(tasks, source, num_episodes, seed, settings))
        return recorded[-1]

    monkeypatch.setattr(collection, "collect", record)
    output = collected_in(tmp_path)
    assert len(recorded) == len(seeds) == 4  # lockstep runs with random numbers of their own
    train, test = (load_histories(str(output), "dark-room", split) for split in ("train", "test"))
    assert (train.tasks, test.tasks) == (FAMILY["train"], FAMILY["test"])
    for name in FIELDS[:6]:
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
    assert found["types"]["action"] == "List(Value('uint8'))"
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


def test_a_dataset_on_the_hub_is_read_like_a_folder(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = datasets.load_dataset(str(output), "dark-room", split="train")
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config, split: download)
    assert_same(load_histories("org/histories", "dark-room"), load_histories(str(output), "dark-room"))
    foreign = download.remove_columns(["action", "reward"])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config, split: foreign)
    told = refusal(lambda: load_histories("org/histories", "dark-room"))
    assert told == "org/histories does not hold learning histories: it lacks the columns action, reward"


def counting_histories(observation: np.ndarray, action: np.ndarray) -> Histories:
    """Three histories of 2, 3 and 1 ragged episodes; the reward is the number of the step."""
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
    assert rows["final_observation"] == [312, 313, 314, 315, 316, 317]
    assert rows["terminated"] == [True, False, False, True, False, True]
    assert rows["truncated"] == [False, True, True, False, True, True]
    assert rows["task"] == [histories.tasks[n].json for n in (0, 0, 1, 1, 1, 2)]
    assert rows["task_id"] == [histories.tasks[n].id for n in (0, 0, 1, 1, 1, 2)]


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
    assert kept.keys() - shards.keys() == {"README.md", "dark-room/train-00010-of-00024.partial"}
    assert "being collected; run the command below again" in (killed / "README.md").read_text()
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
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    monkeypatch.setattr(collection, "collect", lambda *args: pytest.fail("collected again"))
    progress: list[tuple[int, int]] = []
    collect_dataset(copy, FAMILY, SETTINGS, lambda *counts: progress.append(counts))
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert set(progress) == {(32, 32)}


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


def test_a_second_family_is_refused(output: Path) -> None:
    before = contents(output)
    told = refusal(lambda: collect_dataset(output, load_task_family("dark-room-hard"), SETTINGS))
    assert told == f"{output} holds dark-room histories: choose another --output for dark-room-hard"
    assert contents(output) == before


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
        "dark-room holds no Parquet files: collect histories into it with `ad-hf collect` first",
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


@pytest.mark.parametrize("path", ["nothing", "./nothing", "/no/thing", "~/nothing", "a/b/c"])
def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(path: str) -> None:
    told = refusal(lambda: load_histories(path, "dark-room"))
    assert told == f"{path} is neither a folder nor the id of a dataset on the Hub: check --dataset"


def test_a_mistyped_folder_that_looks_like_a_name_on_the_hub_is_told_both_ways() -> None:
    told = refusal(lambda: load_histories("runs/nothing", "dark-room"))
    assert told.startswith("there is no folder runs/nothing, and the split 'train' of 'dark-room' cannot be")
