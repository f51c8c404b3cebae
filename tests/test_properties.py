"""Properties: what holds for every history, environment, stream and context, on examples that are drawn.

N = histories, S = steps, B = windows or rows, L = transitions of a window, W = those of a context, K = rows.
"""

from __future__ import annotations

import itertools
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dataset import assert_same
from test_generation import Life
from test_models import lively_model
from test_streaming import write_dataset

from ad_hf.collection import Shard, write_shard
from ad_hf.dataset import load_histories
from ad_hf.histories import Histories, Recorder
from ad_hf.models import ADModel
from ad_hf.streaming import START, open_stream
from ad_hf.tasks import Task
from ad_hf.windows import draw_windows, window_batch

NUM_ACTIONS = 5
# The same examples in every run, and no limit of time: other work shares the machine.
given_alike = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
seeds = st.integers(0, 2**32 - 1)


# Windows


@st.composite
def some_histories(draw: st.DrawFn) -> Histories:
    """Up to 4 histories of up to 12 episodes of up to 6 steps; the observation of step s is s."""
    episodes = st.lists(st.integers(1, 6), min_size=1, max_size=12)
    lengths = draw(st.lists(episodes, min_size=1, max_size=4))
    steps = np.arange(sum(map(sum, lengths)))
    count = sum(map(len, lengths))
    return Histories(
        observation=np.stack([steps, steps], axis=1).astype(np.uint16),
        action=(steps % NUM_ACTIONS).astype(np.uint8),
        reward=steps.astype(np.float32),
        final_observation=np.zeros((count, 2), dtype=np.uint16),
        terminated=np.zeros(count, dtype=bool),
        truncated=np.ones(count, dtype=bool),
        episode_offsets=np.concatenate([[0], np.cumsum(list(itertools.chain(*lengths)))]),
        history_offsets=np.concatenate([[0], np.cumsum([len(history) for history in lengths])]),
        tasks=tuple(Task("counting", {"history": n}) for n in range(len(lengths))),
    )


@given_alike
@given(some_histories(), st.integers(1, 30), st.integers(1, 8), seeds)
def test_a_window_is_a_history_with_episodes_left_out(
    histories: Histories, length: int, stride: int, seed: int
) -> None:
    B = 8
    steps, begins = draw_windows(histories, B, length, stride, np.random.default_rng(seed))
    assert steps.shape == begins.shape == (B, length)
    offsets = histories.episode_offsets
    borders = offsets[histories.history_offsets]
    for row, starts in zip(steps, begins, strict=True):
        taken = row[row >= 0]
        assert (row[: len(taken)] == taken).all()  # what is empty comes last
        history = np.searchsorted(borders, taken[0], side="right") - 1
        assert len(taken) == min(length, borders[history + 1] - borders[history])
        assert (np.diff(taken) > 0).all()
        assert taken[-1] < borders[history + 1]
        assert (starts == np.isin(row, offsets[:-1])).all()
        episode = np.searchsorted(offsets, taken, side="right") - 1
        moves = np.diff(episode)
        assert (moves <= 2 * stride - 1).all()
        assert (np.diff(taken)[moves == 0] == 1).all()
        # From one episode to another: from the last step of the one to the first of the other.
        assert (taken[:-1][moves > 0] + 1 == offsets[episode[:-1][moves > 0] + 1]).all()
        assert (taken[1:][moves > 0] == offsets[episode[1:][moves > 0]]).all()


@given_alike
@given(some_histories(), st.integers(1, 12), seeds)
def test_every_start_from_which_a_window_fits_is_drawn(histories: Histories, length: int, seed: int) -> None:
    borders = histories.episode_offsets[histories.history_offsets]
    fitting = [
        np.arange(first, max(first + 1, behind - length + 1)) for first, behind in itertools.pairwise(borders)
    ]
    steps, _ = draw_windows(histories, 20_000, length, 1, np.random.default_rng(seed))
    assert set(steps[:, 0].tolist()) == set(np.concatenate(fitting).tolist())


@given_alike
@given(some_histories(), st.integers(1, 30), st.integers(1, 8), seeds)
def test_a_batch_holds_what_happened_and_asks_for_what_was_done(
    histories: Histories, length: int, stride: int, seed: int
) -> None:
    steps, begins = draw_windows(histories, 4, length, stride, np.random.default_rng(seed))
    batch = {
        name: values.numpy() for name, values in window_batch(histories, steps, begins, NUM_ACTIONS).items()
    }
    there = steps >= 0
    np.testing.assert_array_equal(batch["labels"], np.where(there, steps % NUM_ACTIONS, -100))
    np.testing.assert_array_equal(batch["observation"][there], np.stack([steps[there]] * 2, axis=1))
    np.testing.assert_array_equal(batch["episode_start"], begins)
    assert (batch["previous_action"][:, 0] == NUM_ACTIONS).all()
    assert (batch["previous_reward"][:, 0] == 0).all()
    before, there = steps[:, :-1], there[:, 1:]
    np.testing.assert_array_equal(batch["previous_action"][:, 1:][there], before[there] % NUM_ACTIONS)
    np.testing.assert_array_equal(batch["previous_reward"][:, 1:][there], before[there])


# The recorder


class Scripted(VectorEnv):
    """K rows whose episodes have the lengths they are told, in turn; no observation occurs twice.

    It keeps books of its own, row by row: `finished` holds the steps of every whole episode and its end.
    """

    def __init__(self, lengths: list[list[int]], mode: AutoresetMode) -> None:
        self.num_envs, self.lengths, self.mode = len(lengths), lengths, mode
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = spaces.Discrete(10**6), spaces.Discrete(100)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.seen = np.zeros(self.num_envs, dtype=np.int64)
        self.clock = 0
        self.episodes, self.over = [-1] * self.num_envs, [False] * self.num_envs
        self.steps: list[list[tuple]] = [[] for _ in lengths]
        self.finished: list[list[tuple]] = [[] for _ in lengths]

    def _show(self, row: int) -> None:
        self.clock += 1
        self.seen[row] = self.clock

    def _begin(self, row: int) -> None:
        self.episodes[row] += 1
        self.over[row], self.steps[row] = False, []
        self._show(row)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        for row in np.flatnonzero(mask):
            self._begin(row)
        return self.seen.copy(), {}

    def step(self, actions: np.ndarray) -> Any:
        reward, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), dtype=bool)
        final = np.full(self.num_envs, None, dtype=object)
        for row in range(self.num_envs):
            if self.over[row]:  # with NEXT_STEP; elsewhere it has been reset
                self._begin(row)
                continue
            reward[row] = self.clock % 7
            self.steps[row].append((self.seen[row], actions[row], reward[row]))
            self._show(row)
            lengths = self.lengths[row]
            if len(self.steps[row]) == lengths[self.episodes[row] % len(lengths)]:
                ends = self.clock % 2 == 0
                terminated[row], truncated[row], self.over[row] = ends, not ends, True
                self.finished[row].append((self.steps[row], self.seen[row], ends))
                if self.mode == AutoresetMode.SAME_STEP:
                    final[row] = self.seen[row].copy()
                    self._begin(row)
        return self.seen.copy(), reward, terminated, truncated, {"final_obs": final}


@given_alike
@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from(list(AutoresetMode)),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 15), st.integers(0, 3)), min_size=1, max_size=25),
)
def test_a_recording_is_what_happened_also_once_it_was_written_and_read(
    lengths: list[list[int]], mode: AutoresetMode, moves: list[tuple[int, int, int]]
) -> None:
    world = Scripted(lengths, mode)
    K = world.num_envs
    envs = Recorder(world)
    envs.reset()
    for action, rows, luck in moves:
        _, _, terminated, truncated, _ = envs.step((action + np.arange(K)) % 100)
        mask = np.array([rows >> row & 1 == 1 for row in range(K)]) & (luck == 0)  # in the middle of episodes
        if mode == AutoresetMode.DISABLED:
            mask |= terminated | truncated
        if mask.any():
            envs.reset(options={"reset_mask": mask})
    tasks = tuple(Task("scripted", {"row": row}) for row in range(K))
    if not all(world.finished):
        with pytest.raises(ValueError, match=r"a row finished 0 episodes, but 1 were asked for"):
            envs.histories(tasks)
        return
    histories = envs.histories(tasks)
    episodes = list(itertools.chain(*world.finished))
    columns = zip(*itertools.chain(*(steps for steps, _, _ in episodes)), strict=True)
    for name, column in zip(("observation", "action", "reward"), columns, strict=True):
        np.testing.assert_array_equal(getattr(histories, name), column, err_msg=name)
    np.testing.assert_array_equal(
        np.diff(histories.episode_offsets), [len(steps) for steps, _, _ in episodes]
    )
    np.testing.assert_array_equal(np.diff(histories.history_offsets), [len(row) for row in world.finished])
    np.testing.assert_array_equal(histories.final_observation, [last for _, last, _ in episodes])
    np.testing.assert_array_equal(histories.terminated, [ends for _, _, ends in episodes])
    np.testing.assert_array_equal(histories.truncated, ~histories.terminated)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scripted").mkdir()
        shard = Path(folder) / "scripted" / "train-00000-of-00001.parquet"
        write_shard(Shard(shard, tuple(range(K)), tasks, (0,) * K), histories, 0)
        assert_same(load_histories(folder, "scripted"), histories)


# Streaming


@pytest.mark.slow
@settings(given_alike, max_examples=15)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(1, 5),
    seeds,
    st.data(),
)
def test_processes_share_an_epoch_and_go_on_where_they_stopped(
    sizes: list[int], row_group: int, num_processes: int, seed: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stream = open_stream(str(write_dataset(Path(folder) / "d", tuple(sizes), row_group)), "counting")

        def read(process: int, position: dict[str, Any] = START) -> Any:
            for histories, behind in stream.read(seed, process, num_processes, position):
                yield int(histories.reward[0]) // 1000, behind

        read_once: list[int] = []
        for process in range(num_processes):
            mine = list(islice(read(process), 3 * sum(sizes)))
            read_once += [number for number, behind in mine if behind["epoch"] == 0]
            if process == 0:
                place = data.draw(st.integers(0, len(mine) - 2))
                again = list(islice(read(process, mine[place][1]), len(mine) - place - 1))
                assert again == mine[place + 1 :]
        assert sorted(read_once) == list(range(sum(sizes)))


# The context

MODELS: dict[tuple[int, int], ADModel] = {}


def model_of(W: int, tokens: int) -> ADModel:
    """One model for each shape: to make it takes longer than an example."""
    if (W, tokens) not in MODELS:
        MODELS[W, tokens] = lively_model(context_length=W, tokens_per_transition=tokens)
    return MODELS[W, tokens]


@settings(given_alike, max_examples=30)
@given(
    st.sampled_from([2, 3, 6, 9]),
    st.sampled_from([1, 3]),
    st.integers(1, 3),
    st.lists(st.integers(0, 15), min_size=1, max_size=30),
    seeds,
)
def test_a_cached_prediction_is_that_of_a_plain_pass_whoever_rests(
    W: int, tokens: int, num_envs: int, resting: list[int], seed: int
) -> None:
    model = model_of(W, tokens)
    life, context = Life(model, num_envs, seed), model.start(num_envs)
    for rests in resting:  # a bit for each row; at 8 and above nobody does
        active = torch.tensor([rests >= 8 or rests >> row & 1 == 0 for row in range(num_envs)])
        logits = life.live(context, active)
        for row in active.nonzero()[:, 0].tolist():
            kept = (
                context.length
                if context.is_real is None
                else int(context.is_real[row, : context.length].sum())
            )
            torch.testing.assert_close(logits[row], life.full_pass(row, kept), atol=1e-5, rtol=1e-5)
