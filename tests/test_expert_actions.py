"""Expert actions: what the optimal policy would have done, recorded where an environment knows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil  # comes with accelerate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.vector import AutoresetMode

from ad_hf.cards import load_card
from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import COLUMNS, configs_of, load_histories
from ad_hf.envs.dark_room import walk_towards
from ad_hf.histories import EPISODES, STEPS, Histories, Recorder, collect, concatenate, without_first
from ad_hf.streaming import HistoryPool, open_stream
from ad_hf.tasks import Task, TaskFamily, load_task_family, make_vec
from ad_hf.windows import expert_part

FAMILY = load_task_family("dark-room")
SMALL = TaskFamily("dark-room", {"train": FAMILY["train"][:10], "test": FAMILY["test"][:2]})
SETTINGS = CollectSettings(num_episodes=4, learners_per_task=2)  # 8 training shards
LAKE = [Task("FrozenLake-v1", {"is_slippery": slippery}) for slippery in (False, True)]  # no optimal policy


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished collection, not to be changed."""
    folder = tmp_path_factory.mktemp("collected") / "histories"
    collect_dataset(folder, SMALL, SETTINGS)
    return folder


@pytest.fixture
def copy(output: Path, tmp_path: Path) -> Path:
    """A finished collection, to be changed."""
    return shutil.copytree(output, tmp_path / "histories")


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "dark-room").glob("train-*.parquet"))


def ways_to_the_goals(histories: Histories) -> np.ndarray:
    """What the optimal policy of Dark Room does on every observation, by that alone and the task."""
    goals = np.array([task.params["goal"] for task in histories.tasks])
    steps = np.diff(histories.episode_offsets[histories.history_offsets])
    return walk_towards(histories.observation.astype(int), np.repeat(goals, steps, axis=0))


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in (*STEPS, *EPISODES, "episode_offsets", "history_offsets"):
        one, other = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert ours.tasks == theirs.tasks


def refusal(action: Callable[[], Any]) -> str:
    """The message of the ValueError, which has to be one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        action()
    return str(caught.value)


# Recording


@pytest.mark.parametrize("mode", AutoresetMode)
def test_they_are_the_optimal_policys_on_what_was_observed_whichever_way_episodes_restart(
    mode: AutoresetMode,
) -> None:
    room = {"start": "random", "horizon": 7, "size": 4, "terminate_on_goal": True}
    tasks = [Task("ad_hf/DarkRoom-v0", {"goal": goal, **room}) for goal in ([0, 0], [1, 3], [2, 0])]
    envs = Recorder(make_vec(tasks, mode), expert_actions=True)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    done = np.zeros(3, dtype=bool)
    for _ in range(100):
        if mode == AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        done = terminated | truncated
    envs.reset(options={"reset_mask": np.ones(3, dtype=bool)})  # leaves an episode unfinished in most rows
    for histories in (envs.histories(tasks), envs.histories(tasks, 4)):
        np.testing.assert_array_equal(histories.expert_action, ways_to_the_goals(histories))
        assert histories.expert_action.dtype == histories.action.dtype == np.uint8  # type: ignore[union-attr]
        assert len(np.unique(histories.expert_action)) > 3


def test_a_learner_does_not_notice_that_they_are_recorded() -> None:
    tasks = FAMILY["train"][:3]
    plain, recorded = (collect(tasks, "q-learning", 30, 1, {}, expert) for expert in (False, True))
    assert plain.expert_action is None
    np.testing.assert_array_equal(recorded.expert_action, ways_to_the_goals(recorded))
    assert (recorded.expert_action != recorded.action).any()
    assert_same(replace(recorded, expert_action=None), plain)


def test_who_follows_them_is_the_noiseless_source() -> None:
    histories = collect(FAMILY["train"][:5], "noise", 2, settings={"epsilon_start": 0.0}, expert_actions=True)
    np.testing.assert_array_equal(histories.expert_action, histories.action)


def test_an_environment_that_does_not_know_them_is_refused() -> None:
    told = refusal(lambda: Recorder(make_vec(LAKE), expert_actions=True))
    assert told == (
        "expert actions need an environment with optimal_actions(), and SyncVectorEnv(num_envs=2) has none"
    )


# Some of many, and many from some


def test_parts_of_histories_keep_theirs() -> None:
    whole = collect(FAMILY["train"][:3], "q-learning", 8, expert_actions=True)
    rest, last = without_first(whole, 1), expert_part(whole, 0.25)
    for part in (rest, last, concatenate([rest, last, whole])):
        np.testing.assert_array_equal(part.expert_action, ways_to_the_goals(part))
    assert_same(concatenate([expert_part(whole, 1.0)]), whole)


# Datasets


def test_they_come_back_from_a_dataset(output: Path) -> None:
    for split in ("train", "test"):
        histories = load_histories(str(output), "dark-room", split)
        assert len(histories) == 2 * len(SMALL[split])
        np.testing.assert_array_equal(histories.expert_action, ways_to_the_goals(histories))
        assert histories.expert_action.dtype == np.uint8  # type: ignore[union-attr]


def test_they_come_back_from_a_stream(output: Path) -> None:
    found = [histories for histories, _ in islice(open_stream(str(output), "dark-room").read(0), 20)]
    for histories in found:
        np.testing.assert_array_equal(histories.expert_action, ways_to_the_goals(histories))
    read = concatenate(sorted(found, key=lambda histories: histories.tasks[0].json))
    loaded = load_histories(str(output), "dark-room")
    assert sorted(read.expert_action) == sorted(loaded.expert_action)  # type: ignore[type-var, arg-type]
    assert read.expert_action.flags.owndata  # type: ignore[union-attr]


def test_they_can_be_left_out(output: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, expert_actions=False)
    collect_dataset(tmp_path / "h", SMALL, settings)
    ours, theirs = (load_histories(str(folder), "dark-room") for folder in (tmp_path / "h", output))
    assert_same(ours, replace(theirs, expert_action=None))
    for histories, _ in islice(open_stream(str(tmp_path / "h"), "dark-room").read(0), 20):
        assert histories.expert_action is None
    columns = datasets.load_dataset(str(tmp_path / "h"))["train"].column_names
    assert columns == [name for name in COLUMNS if name != "expert_action"]
    text = (tmp_path / "h" / "README.md").read_text()
    assert "--set collect.expert_actions=false" in load_card(tmp_path / "h" / "README.md").text
    collect_dataset(tmp_path / "h", SMALL, settings)
    assert (tmp_path / "h" / "README.md").read_text() == text
    told = refusal(lambda: collect_dataset(tmp_path / "h", SMALL, SETTINGS))
    assert "dark-room histories with another expert_actions (False): choose another --output" in told


def test_what_does_not_know_them_is_collected_without(tmp_path: Path) -> None:
    family = TaskFamily("lake", {"train": tuple(LAKE[:1]), "test": tuple(LAKE[1:])})
    for _ in range(2):  # the second time nothing is left to do
        collect_dataset(tmp_path, family, SETTINGS)
    histories = load_histories(str(tmp_path), "lake")
    assert (len(histories), histories.num_episodes, histories.expert_action) == (2, 8, None)
    assert configs_of(load_card(tmp_path / "README.md"))["lake"]["expert_actions"] is True  # where it could


def change(shards: Sequence[Path], edit: Callable[[pa.Table], pa.Table]) -> None:
    for shard in shards:
        pq.write_table(edit(pq.read_table(shard)), shard)


def without(table: pa.Table) -> pa.Table:
    return table.drop_columns(["expert_action"])


def test_shards_with_and_without_them_are_no_dataset(copy: Path) -> None:
    shards = shards_of(copy)
    first = shards[0].read_bytes()
    change(shards[:1], without)
    told = refusal(lambda: load_histories(str(copy), "dark-room"))
    assert told == f"{shards[1]} has other types than {shards[0].name}: expert_action (list<element: uint8>)"
    streamed = refusal(lambda: HistoryPool(open_stream(str(copy), "dark-room"), 20, seed=0))
    assert streamed == "histories of one dataset hold different types of expert_action: none, uint8[]"
    shards[0].write_bytes(first)
    change(shards[2:3], without)
    told = refusal(lambda: load_histories(str(copy), "dark-room"))
    assert told == f"{shards[2]} has other types than {shards[0].name}: expert_action (missing)"


def set_column(
    value: Callable[[list], list], kind: pa.DataType | None = None
) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        column = table["expert_action"]
        values = pa.array(value(column.to_pylist()), kind or column.type)
        return table.set_column(table.column_names.index("expert_action"), "expert_action", values)

    return edit


# What happens to the column in every training shard, and what is said about it.
DAMAGE: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "none at all": (
        set_column(lambda rows: [None] * len(rows), pa.null()),
        "one list per episode, but is null",
    ),
    "one missing": (set_column(lambda rows: [None, *rows[1:]]), "holds missing episodes"),
    "fewer": (
        set_column(lambda rows: [row[1:] for row in rows]),
        "holds episodes without steps, or with more of one column than of another",
    ),
    "words": (
        set_column(lambda rows: [["left"] * len(row) for row in rows], pa.list_(pa.string())),
        "has to hold numbers, but holds string",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_are_none_are_refused_in_one_line(kind: str, copy: Path) -> None:
    harm, message = DAMAGE[kind]
    change(shards_of(copy), harm)
    for read in (
        lambda: load_histories(str(copy), "dark-room"),
        lambda: next(open_stream(str(copy), "dark-room").read(0)),
    ):
        told = refusal(read)
        assert str(copy) in told
        assert message in told


def test_they_count_when_a_dataset_is_larger_than_memory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(shards_of(copy), set_column(lambda rows: rows, pa.list_(pa.int64())))
    free = psutil.virtual_memory()
    steps = 20 * 4 * 20
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=8 * steps))
    assert "more than is free" in refusal(lambda: load_histories(str(copy), "dark-room"))
