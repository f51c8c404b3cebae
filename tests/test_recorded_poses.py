"""Environments that show pictures and record poses, and other large observations in histories and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from ad_hf import collection, dataset
from ad_hf.collection import CollectSettings, Shard, collect_dataset, write_shard
from ad_hf.dataset import load_histories, rows_at_once
from ad_hf.envs.lockstep import LockstepVectorEnv, SingleEnv
from ad_hf.histories import Histories, Recorder, collect, observations
from ad_hf.streaming import open_stream
from ad_hf.tasks import Task, TaskFamily, load_task_family, make_vec
from ad_hf.windows import WindowSettings, draw_windows, window_batch, window_batches

ENV_ID = "tests/Corridor-v0"
LENGTH = 7


class CorridorVectorEnv(LockstepVectorEnv):
    """K corridors of seven cells, seen as rows of pixels whose brightness is the distance to each cell.

    Action 1 goes to the right, action 0 to the left; the goal pays and ends an episode of at most six steps.
    """

    def __init__(
        self,
        num_envs: int = 1,
        goal: Any = 0,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        seen = spaces.Box(0, 255, (2, LENGTH, 3), np.uint8)
        super().__init__(num_envs, seen, 2, 6, render_mode, autoreset_mode)
        self.goals = np.broadcast_to(goal, num_envs)
        self.recorded_space = spaces.Box(0, LENGTH, (2,), np.float32)
        self.poses = np.zeros((num_envs, 2), np.float32)  # the cell, and a phase that only the eye sees

    def _begin(self, rows: np.ndarray) -> None:
        for row in rows:
            self.poses[row] = self.generators[row].integers(1, LENGTH - 1), self.generators[row].random()

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.poses = np.stack(
            [np.clip(self.poses[:, 0] + 2 * actions - 1, 0, LENGTH - 1), self.poses[:, 1]], axis=1
        ).astype(np.float32)
        there = self.poses[:, 0] == self.goals
        return there.astype(np.float64), there

    def _observe(self) -> np.ndarray:
        return self.observe_recorded(self.poses)

    def recorded(self) -> np.ndarray:
        return self.poses  # which later steps replace: who keeps it has to copy it, or may

    def observe_recorded(self, poses: np.ndarray) -> np.ndarray:
        distance = np.abs(np.arange(LENGTH) - poses[..., :1])  # (..., LENGTH)
        light = np.stack([distance * 20, poses[..., 1:] * 200 + 0 * distance], axis=-2)  # (..., 2, LENGTH)
        return light[..., None].repeat(3, axis=-1).astype(np.uint8)

    def optimal_actions(self) -> np.ndarray:
        return (self.goals > self.poses[:, 0]).astype(np.int64)


class CorridorEnv(SingleEnv):
    vector = CorridorVectorEnv


TASKS = [Task(ENV_ID, {"goal": goal}) for goal in (0, 6, 3)]
FAMILY = TaskFamily("corridor", {"train": tuple(TASKS[:2]), "test": tuple(TASKS[2:])})


@pytest.fixture(scope="module", autouse=True)
def corridors() -> Iterator[None]:
    """Such environments can be made here, and nowhere else."""
    gym.register(ENV_ID, entry_point=CorridorEnv, vector_entry_point=CorridorVectorEnv)
    yield
    del gym.registry[ENV_ID]


class Eyes(VectorWrapper):
    """Keeps what is seen; with NEXT_STEP and DISABLED, all of it but what resets show is a step's."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.seen: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(**kwargs)
        self.now = observation.copy()
        return observation, info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        self.seen.append(self.now)
        found = self.env.step(actions)
        self.now = found[0].copy()
        return found


def played(mode: AutoresetMode) -> tuple[Histories, list[np.ndarray]]:
    """Histories of random actions, and what was seen at each recorded step of each row."""
    eyes = Eyes(make_vec(TASKS, mode))
    envs = Recorder(eyes, expert_actions=True)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    done = np.zeros(3, dtype=bool)
    real = []
    for _ in range(60):
        if mode == AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
        real.append(~done | (mode == AutoresetMode.DISABLED))
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        done = terminated | truncated
    seen = np.stack(eyes.seen, axis=1)  # (3, steps, 2, LENGTH, 3)
    return envs.histories(TASKS), [seen[row][np.array(real)[:, row]] for row in range(3)]


# Poses


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_poses_are_recorded_and_give_back_what_was_seen(mode: AutoresetMode) -> None:
    histories, seen = played(mode)
    assert histories.observation.shape == (len(histories.action), 2)
    assert histories.observation.dtype == histories.final_observation.dtype == np.float32
    borders = histories.episode_offsets[histories.history_offsets]
    for row in range(3):
        steps = np.arange(borders[row], borders[row + 1])
        pictures = observations(histories, steps)
        assert pictures.dtype == np.uint8
        np.testing.assert_array_equal(pictures, seen[row][: len(steps)])
        goal = TASKS[row].params["goal"]
        expert = histories.observation[steps, 0] < goal
        np.testing.assert_array_equal(histories.expert_action[steps], expert)  # type: ignore[index]
    moves = np.where(histories.action == 1, 1, -1)
    ends = histories.episode_offsets[1:] - 1
    last = np.clip(histories.observation[ends, 0] + moves[ends], 0, LENGTH - 1)
    np.testing.assert_array_equal(histories.final_observation[:, 0], last)
    assert histories.terminated.any()
    assert histories.truncated.any()


def test_same_step_is_refused_because_the_last_pose_would_be_gone() -> None:
    message = (
        r"^CorridorVectorEnv\(.*num_envs=3.*\) cannot be recorded with SAME_STEP: choose another autoreset"
    )
    with pytest.raises(ValueError, match=message):
        Recorder(make_vec(TASKS, AutoresetMode.SAME_STEP))


@pytest.mark.parametrize("unordered", [False, True])
def test_windows_show_pictures(unordered: bool) -> None:
    histories = collect(TASKS, "noise", 30, settings={"epsilon_end": 1.0}, expert_actions=True)
    plain = replace(histories, tasks=(Task("tests/nowhere", {}),) * 3)
    arguments = {"batch_size": 5, "length": 9, "num_actions": 2, "seed": 0, "unordered": unordered}
    pictures, poses = (
        next(window_batches(found, WindowSettings(), **arguments))  # type: ignore[arg-type]
        for found in (histories, plain)
    )
    assert pictures["observation"].shape == (5, 9, 2, LENGTH, 3)
    shown = CorridorVectorEnv().observe_recorded(poses["observation"].numpy())
    np.testing.assert_array_equal(pictures["observation"], shown)
    assert pictures["observation"].dtype == torch.uint8
    for name in pictures.keys() - {"observation"}:
        torch.testing.assert_close(pictures[name], poses[name], rtol=0, atol=0)


def test_poses_go_through_a_dataset_and_come_out_as_pictures(tmp_path: Path) -> None:
    settings = CollectSettings(source="noise", num_episodes=5, learners_per_task=4)
    collect_dataset(tmp_path, FAMILY, settings)
    histories = load_histories(str(tmp_path), "corridor")
    assert histories.observation.shape[1:] == (2,)
    picture = observations(histories, np.array([[0, 1], [2, 3]]))
    assert picture.shape == (2, 2, 2, LENGTH, 3)
    for streamed, _ in islice(open_stream(str(tmp_path), "corridor").read(0), 8):
        assert observations(streamed, np.arange(3)).shape == (3, 2, LENGTH, 3)
    assert "observation space `Box(0, 255, (2, 7, 3), uint8)`" in (tmp_path / "README.md").read_text()


# What is seen as it is recorded


@pytest.mark.parametrize(
    "task",
    [
        Task("ad_hf/DarkRoom-v0", {"goal": [0, 0]}),
        Task("CartPole-v1", {}),
        Task("tests/nowhere", {}),
        Task("ad_hf/DarkRoom-v0", {"wallpaper": "red"}),  # nobody is made to make the tasks of others
        Task("no_such_module:Room-v0", {}),
    ],
    ids=lambda task: task.json,
)
def test_what_is_recorded_is_seen_wherever_nothing_else_is_said(task: Task) -> None:
    rooms = collect([Task("ad_hf/DarkRoom-v0", {"goal": [0, 0]})], "noise", 3)
    histories = replace(rooms, tasks=(task,))
    steps, begins = draw_windows(histories, 4, 10, 1, np.random.default_rng(0))
    batch = window_batch(histories, steps, begins, 5)
    np.testing.assert_array_equal(batch["observation"], rooms.observation[steps])


# Large observations in files


def large_histories(num_episodes: int) -> Histories:
    """Two histories whose episodes take a bit over 8 kB each: four steps of 2 kB."""
    rng = np.random.default_rng(0)
    steps = 8 * num_episodes
    return Histories(
        observation=rng.integers(256, size=(steps, 32, 21, 3), dtype=np.uint8),
        action=np.arange(steps, dtype=np.uint16),
        reward=np.arange(steps, dtype=np.float32),
        final_observation=rng.integers(256, size=(2 * num_episodes, 32, 21, 3), dtype=np.uint8),
        terminated=np.ones(2 * num_episodes, bool),
        truncated=np.zeros(2 * num_episodes, bool),
        episode_offsets=np.arange(2 * num_episodes + 1) * 4,
        history_offsets=np.array([0, num_episodes, 2 * num_episodes]),
        tasks=(Task("large", {"n": 0}), Task("large", {"n": 1})),
    )


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Histories]:
    """A dataset written and read with at most 64 kB of episodes at once: six of them."""
    for module in (collection, dataset):
        monkeypatch.setattr(module, "ROW_GROUP_BYTES", 2**16)
    histories = large_histories(20)
    (tmp_path / "large").mkdir()
    shard = tmp_path / "large" / "train-00000-of-00001.parquet"
    write_shard(Shard(shard, (0, 1), histories.tasks, (0, 0)), histories, 0)
    return shard, histories


def assert_same(ours: Histories, theirs: Histories) -> None:
    for name in Histories.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def test_large_observations_make_small_row_groups(large: tuple[Path, Histories]) -> None:
    metadata = pq.ParquetFile(large[0]).metadata
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert rows == [6] * 6 + [4]
    assert_same(load_histories(str(large[0].parents[1]), "large"), large[1])


@pytest.mark.parametrize("row_group", [6, 1000])
def test_large_observations_are_streamed_a_few_episodes_at_once_whatever_the_row_groups(
    row_group: int, large: tuple[Path, Histories], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pq.read_table(large[0]), large[0], row_group_size=row_group)
    sizes = []
    iterate = pq.ParquetFile.iter_batches

    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in iterate(*args, **kwargs):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    stream = open_stream(str(large[0].parents[1]), "large")
    for number, (histories, _) in enumerate(islice(stream.read(0), 2)):
        steps = slice(80 * number, 80 * (number + 1))
        np.testing.assert_array_equal(histories.observation, large[1].observation[steps])
        np.testing.assert_array_equal(histories.reward, large[1].reward[steps])
    assert sizes == [6] * 6 + [4]
    assert rows_at_once(pq.ParquetFile(large[0]), 3) == 3


def test_an_episode_larger_than_that_is_read_alone(
    large: tuple[Path, Histories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (collection, dataset):
        monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1000)
    shard, histories = large
    write_shard(Shard(shard, (0, 1), histories.tasks, (0, 0)), histories, 0)
    file = pq.ParquetFile(shard)
    assert file.metadata.num_row_groups == 40
    assert rows_at_once(file, 1000) == 1
    assert_same(load_histories(str(tmp_path), "large"), histories)
    for number, (streamed, _) in enumerate(islice(open_stream(str(tmp_path), "large").read(0), 2)):
        np.testing.assert_array_equal(streamed.action, histories.action[80 * number :][:80])


def test_small_episodes_stay_together(tmp_path: Path) -> None:
    rooms = collect([Task("ad_hf/DarkRoom-v0", {"goal": [0, 0]})], "noise", 20)
    shard = tmp_path / "rooms.parquet"
    write_shard(Shard(shard, (0,), rooms.tasks, (0,)), rooms, 0)
    file = pq.ParquetFile(shard)
    assert file.metadata.num_row_groups == 1
    assert rows_at_once(file, 1000) == 1000


def test_the_card_says_that_poses_are_recorded_and_learned_from(tmp_path: Path) -> None:
    family = load_task_family("watermaze", num_train=8, num_test=8)
    collect_dataset(tmp_path, family, CollectSettings("noise", num_episodes=2, learners_per_task=1))
    text = (tmp_path / "README.md").read_text()
    assert "hold poses in `Box(" in text
    assert "The source learned from the poses." in text
    assert load_histories(str(tmp_path), "watermaze").observation.shape[1:] == (3,)
