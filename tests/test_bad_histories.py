"""Bad histories: a dataset that is damaged, swapped or somebody else's is never trained on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_bad_input import filled
from test_cli import assert_one_line, contents, invoke, sets

Rows = list[Any]


def change(name: str, change_rows: Callable[[Rows], Rows], kind: pa.DataType | None = None) -> Any:
    """Damage to a shard: other rows in a column, of another type if one is given."""

    def harm(table: pa.Table) -> pa.Table:
        column = table.column(name)
        rows = pa.array(change_rows(column.to_pylist()), kind or column.type)
        return table.set_column(table.schema.get_field_index(name), name, rows)

    return harm


def first(value: Any) -> Callable[[Rows], Rows]:
    """The first row is another."""
    return lambda rows: [value, *rows[1:]]


def first_step(value: Any) -> Callable[[Rows], Rows]:
    """The first step of the first row is another."""
    return lambda rows: [[value, *rows[0][1:]], *rows[1:]]


def task(**parts: Any) -> Callable[[Rows], Rows]:
    """All tasks with other parts."""
    return lambda rows: [json.dumps(json.loads(row) | parts) for row in rows]


def listed(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind)


def without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


COLLECT_AGAIN = "collect it again"
NUMBERS = "holds missing values, NaN or infinity"
SORTED = "is not sorted by history and episode"
# What is done to the rows of the training shard -> what is said of it.
ROWS: dict[str, tuple[Callable[[pa.Table], pa.Table], str, str]] = {
    "action of another room": (
        change("action", first_step(5)),
        "action in {0} holds values from 0 to 5",
        COLLECT_AGAIN,
    ),
    "action far out": (change("action", first_step(255)), "holds values from 0 to 255", COLLECT_AGAIN),
    "action below 0": (
        change("action", first_step(-1), listed(pa.int64())),
        "holds values from -1 to 4",
        COLLECT_AGAIN,
    ),
    "action of half": (
        change("action", first_step(0.5), listed(pa.float32())),
        "action in {0} is float32",
        "must hold whole numbers from 0 up to, not including, 5",
    ),
    "actions in pairs": (
        change(
            "action", lambda rows: [[[a, a] for a in row] for row in rows], listed(pa.list_(pa.uint8(), 2))
        ),
        "action in {0} is uint8 [2]",
        "must hold whole numbers from 0 up to, not including, 5",
    ),
    "actions as text": (
        change("action", lambda rows: [[str(a) for a in row] for row in rows], listed(pa.string())),
        "holds string",
        "has to hold numbers",
    ),
    "observation outside": (
        change("observation", first_step([9, 0])),
        "observation in {0} holds values from 0 to 9",
        "from 0 up to, not including, 9, 9",
    ),
    "observation far outside": (change("observation", first_step([0, 255])), " to 255", COLLECT_AGAIN),
    "observation below 0": (
        change("observation", first_step([-1, 0]), listed(pa.list_(pa.int16(), 2))),
        "holds values from -1 to ",
        COLLECT_AGAIN,
    ),
    "observation of halves": (
        change("observation", first_step([0.5, 0]), listed(pa.list_(pa.float32(), 2))),
        "observation in {0} is float32",
        "must hold whole numbers",
    ),
    "observations of three": (
        change(
            "observation",
            lambda rows: [[[*o, 0] for o in row] for row in rows],
            listed(pa.list_(pa.uint8(), 3)),
        ),
        "observation in {0} has the shape (3,)",
        "name the environment it was collected in",
    ),
    "observations of one number": (
        change("observation", lambda rows: [[o[0] for o in row] for row in rows], listed(pa.uint8())),
        "observation in {0} has the shape ()",
        "but the model sees (2,)",
    ),
    "ragged observations": (
        change("observation", first_step([1]), listed(listed(pa.uint8()))),
        "observation in {0}",
        "arrays of different sizes",
    ),
    "missing observation": (change("observation", first_step(None)), "observation in {0}", "different sizes"),
    "final observation of another size": (
        change("final_observation", lambda rows: [[1], *rows[1:]], listed(pa.uint8())),
        "final_observation in {0}",
        "arrays of different sizes",
    ),
    "reward NaN": (change("reward", first_step(np.nan)), "reward in {0}", NUMBERS),
    "reward infinite": (change("reward", first_step(-np.inf)), "reward in {0}", NUMBERS),
    "reward missing": (change("reward", first_step(None)), "reward in {0}", NUMBERS),
    "reward too large": (
        change("reward", first_step(1e300), listed(pa.float64())),
        "holds 1e+300",
        "too much for float32",
    ),
    "rewards in pairs": (
        change(
            "reward", lambda rows: [[[r, r] for r in row] for row in rows], listed(pa.list_(pa.float32(), 2))
        ),
        "holds [2]",
        "has to hold one number a step",
    ),
    "rewards as text": (
        change("reward", lambda rows: [["1"] * len(row) for row in rows], listed(pa.string())),
        "holds string",
        "has to hold numbers",
    ),
    "one reward short": (
        change("reward", lambda rows: [rows[0][1:], *rows[1:]]),
        "{0}",
        "more of one column than of another",
    ),
    "episode without steps": (
        lambda table: change("observation", first([]))(
            change("action", first([]))(
                change("reward", first([]))(change("expert_action", first([]))(table))
            )
        ),
        "{0}",
        "episodes without steps",
    ),
    "large lists": (
        change("action", lambda rows: rows, pa.large_list(pa.uint8())),
        "is large_list<",
        "has to be one list per episode",
    ),
    "missing episode": (change("action", first(None)), "action in {0}", "holds missing episodes"),
    "history as text": (
        change("history_id", lambda rows: [str(row) for row in rows], pa.string()),
        "holds string",
        "history_id in {0} has to hold",
    ),
    "history as float": (
        change("history_id", lambda rows: rows, pa.float64()),
        "holds double",
        "history_id in {0} has to hold integers",
    ),
    "history missing": (change("history_id", first(None)), "history_id in {0}", ""),
    "episode as float": (
        change("episode", lambda rows: rows, pa.float32()),
        "holds float",
        "episode in {0} has to hold integers",
    ),
    "episode twice": (change("episode", lambda rows: [0, 0, *rows[2:]]), "{0} " + SORTED, "told apart"),
    "first episode lost": (lambda table: table[1:], "{0} " + SORTED, "told apart"),
    "episodes backwards": (lambda table: table[::-1], "{0} " + SORTED, "told apart"),
    "episodes below 0": (
        change("episode", lambda rows: [row - 1 for row in rows]),
        "{0} " + SORTED,
        "told apart",
    ),
    "terminated as text": (
        change("terminated", lambda rows: ["no"] * len(rows), pa.string()),
        "holds string",
        "terminated in {0} has to hold numbers",
    ),
    "truncated in pairs": (
        change("truncated", lambda rows: [[row, row] for row in rows], pa.list_(pa.bool_(), 2)),
        "truncated in {0}",
        "has to hold",
    ),
    "task no JSON": (
        change("task", lambda rows: ["dark room"] * len(rows)),
        "'dark room' is no task",
        '"params"',
    ),
    "task a list": (change("task", lambda rows: ["[1]"] * len(rows)), "'[1]' is no task", '"env_id"'),
    "task without parameters": (
        change("task", lambda rows: ['{"env_id": "ad_hf/DarkRoom-v0"}'] * len(rows)),
        "is no task",
        '"params"',
    ),
    "task with more": (change("task", task(seed=1)), '"seed": 1', "which looks like"),
    "task of a number": (change("task", task(env_id=7)), '"env_id": 7', "which looks like"),
    "task missing": (change("task", first(None)), "task in {0}", "missing values"),
    "task of two": (
        change("task", lambda rows: [rows[-1], *rows[1:]]),
        "{0} holds a history of several tasks",
        "each history has to have one",
    ),
    "task of another environment": (
        change("task", task(env_id="ad_hf/DarkKeyToDoor-v0")),
        "of ad_hf/DarkKeyToDoor-v0, not of ad_hf/DarkRoom-v0",
        "into another folder",
    ),
    "task of an environment nobody has": (
        change("task", task(env_id="Mine/Attic-v3")),
        "of Mine/Attic-v3, not of ad_hf/DarkRoom-v0",
        "into another folder",
    ),
    "task as number": (
        change("task", lambda rows: [7] * len(rows), pa.int64()),
        "holds int64",
        "task in {0} has to hold text",
    ),
    **{
        f"no column {name}": (
            without(name),
            f"it lacks the columns {name}",
            "does not hold learning histories",
        )
        for name in (
            "history_id",
            "task",
            "episode",
            "observation",
            "reward",
            "final_observation",
            "truncated",
        )
    },
    "no rows": (lambda table: table[:0], "holds no episodes", ""),
    "foreign": (
        lambda table: pa.table({"text": ["to be"]}),
        "does not hold learning histories",
        "lacks the col",
    ),
}


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def name_of(folder: Path, split: str, number: int, total: int = 8) -> Path:
    return folder / "dark-room" / f"{split}-{number:05d}-of-{total:05d}.parquet"


def swap_splits(folder: Path) -> None:
    shutil.copy(name_of(folder, "test", 1), name_of(folder, "train", 1))


def repeat_shard(folder: Path) -> None:
    shutil.copy(name_of(folder, "train", 1), name_of(folder, "train", 2))


def folder_for_shard(folder: Path) -> None:
    name_of(folder, "train", 1).unlink()
    name_of(folder, "train", 1).mkdir()


def edit_card(old: str, new: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        text = (folder / "README.md").read_text()
        assert re.search(old, text)
        (folder / "README.md").write_text(re.sub(old, new, text))

    return harm


GET_ANEW = "is truncated, damaged or not Parquet"
CARD = "the metadata at the top of {dataset}/README.md cannot be read"
# What is done to the folder -> what is said of it.
FOLDERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a test shard for a training shard": (
        swap_splits,
        "{dataset} holds histories of held-out tasks",
        COLLECT_AGAIN,
    ),
    "a training shard twice": (repeat_shard, "{dataset}", "its histories cannot be told apart"),
    "no bytes": (lambda folder: cut(name_of(folder, "train", 0), 0), "00000-of-00008.parquet", GET_ANEW),
    "three bytes": (lambda folder: cut(name_of(folder, "train", 0), 3), "00000-of-00008.parquet", GET_ANEW),
    "half": (lambda folder: cut(name_of(folder, "train", 3), 2000), "00003-of-00008.parquet", GET_ANEW),
    "text": (
        lambda folder: name_of(folder, "train", 0).write_text("PAR1 but not so PAR1"),
        "00000-of-00008.parquet",
        GET_ANEW,
    ),
    "a folder for a shard": (folder_for_shard, "00001-of-00008.parquet", GET_ANEW),
    "a lost shard": (
        lambda folder: name_of(folder, "train", 7).unlink(),
        "holds 7 train shards, but by their names there are 00008",
        "run the same `ad-hf collect` again",
    ),
    "another total": (
        lambda folder: name_of(folder, "train", 0).rename(name_of(folder, "train", 0, 9)),
        "by their names there are 00008 or 00009",
        "run the same `ad-hf collect` again",
    ),
    "a number twice": (
        lambda folder: name_of(folder, "train", 7).rename(
            folder / "dark-room" / "train-00006-of-00008-of-00008.parquet"
        ),
        "00008-of-00008",
        "run the same `ad-hf collect` again",
    ),
    "no training shards": (
        lambda folder: [shard.unlink() for shard in folder.glob("dark-room/train-*")] and None,
        "dark-room has no split 'train'",
        "choose one of test",
    ),
    "card of a newer format": (
        edit_card(r"format_version: '1.2'", "format_version: '9.0'"),
        "has the format version 9.0",
        "pip install --upgrade ad-hf",
    ),
    "card without a colon": (edit_card(r"license: apache-2.0", "license apache-2.0"), CARD, "line"),
    "card of tabs": (edit_card(r"license: ", "\\tlicense: "), CARD, "line"),
    "card that is no text": (
        lambda folder: (folder / "README.md").write_bytes(b"---\n\xff\xfe\n---\n") and None,
        CARD,
        "",
    ),
    "card of a number": (
        edit_card(r"num_episodes: 12", "num_episodes: many"),
        "num_episodes is 'many'",
        "the card of {dataset} does not say how",
    ),
    "card of NaN": (
        edit_card(r"discount: 0.9", "discount: .nan"),
        "discount of q-learning is nan",
        "from 0 to 1",
    ),
    "card of no source": (
        edit_card(r"source: q-learning", "source: dreams"),
        "unknown source 'dreams'",
        "choose one",
    ),
    "card of other tasks": (
        edit_card(r"fold: null", "fold: 7"),
        "fold is 7, but there are 5",
        "choose 0 to 4",
    ),
}


@pytest.fixture
def places(dataset_folder: Path, tmp_path: Path) -> dict[str, Path]:
    shutil.copytree(dataset_folder, tmp_path / "histories")
    return {"dataset": tmp_path / "histories", "output": tmp_path / "output"}


def refusal(places: dict[str, Path], tiny: tuple[str, ...], *options: str) -> str:
    """What `ad-hf train` says of a dataset, which it leaves as it is."""
    before = contents(places["dataset"])
    command = ["train", "dark-room", "--dataset", places["dataset"], "--output", places["output"], *options]
    line = assert_one_line(invoke(*command, *sets(tiny)))
    assert len(line) < 700
    assert contents(places["dataset"]) == before
    assert not places["output"].exists()
    return line


def rewrite(folder: Path, harm: Callable[[pa.Table], pa.Table]) -> None:
    """Leave one training shard only, with other rows; nothing else is needed to train."""
    table = pq.read_table(name_of(folder, "train", 0))
    shutil.rmtree(folder)
    (folder / "dark-room").mkdir(parents=True)
    pq.write_table(harm(table), name_of(folder, "train", 0, 1))


@pytest.mark.parametrize("damage", ROWS)
def test_rows_that_are_no_histories_of_this_model_are_refused(
    damage: str, places: dict[str, Path], tiny: tuple[str, ...]
) -> None:
    harm, said, way_out = ROWS[damage]
    rewrite(places["dataset"], harm)
    for options in ((), ("--streaming",)):
        line = refusal(places, tiny, *options)
        # Streamed, a message names the shard, and what it says of a value is of one history.
        place = r".*histories\S*"
        assert re.search(re.escape(said).replace(r"\{0\}", place), line), line
        assert re.search(re.escape(way_out).replace(r"\{0\}", place), line), line


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_folder_that_is_damaged_or_put_together_is_refused(
    damage: str, places: dict[str, Path], tiny: tuple[str, ...]
) -> None:
    harm, said, way_out = FOLDERS[damage]
    harm(places["dataset"])
    line = refusal(places, tiny)
    assert filled(said, places) in line
    assert filled(way_out, places) in line


def test_the_dataset_that_all_these_are_made_from_is_fine(
    places: dict[str, Path], tiny: tuple[str, ...]
) -> None:
    rewrite(places["dataset"], change("action", lambda rows: rows))
    command = ["train", "dark-room", "--dataset", places["dataset"], "--output", places["output"]]
    assert invoke(*command, *sets((*tiny, "train.updates=1"))).exit_code == 0
