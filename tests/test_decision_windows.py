"""Windows for DPT: a query first, then what happened elsewhere in its history, in no order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_windows import (
    KINDS,
    NUM_ACTIONS,
    RAGGED,
    CountingStream,
    assert_same,
    batches,
    counting_histories,
)

from ad_hf.histories import Histories
from ad_hf.models import ADConfig
from ad_hf.recipes import load_recipe
from ad_hf.runs import run_train
from ad_hf.streaming import HistoryPool
from ad_hf.training import LOG, TrainSettings, train
from ad_hf.windows import WindowSettings, check_windows, pooled_window_batches

PLAIN = WindowSettings(episode_stride=2)


def decisions(histories: Histories, num: int = 1, **changes: Any) -> list[dict[str, np.ndarray]]:
    found = batches(histories, num, **{"settings": PLAIN, "unordered": True, **changes})
    return [{name: values.numpy() for name, values in batch.items()} for batch in found]


def starts_of(lengths: list[list[int]]) -> list[int]:
    """The observations that begin an episode."""
    return [
        1000 * n + int(step) for n, history in enumerate(lengths) for step in np.cumsum([0, *history[:-1]])
    ]


# What is in a batch


@pytest.mark.parametrize("kind", KINDS)
def test_the_query_comes_first_and_nothing_led_to_it(kind: str) -> None:
    (batch,) = decisions(counting_histories(KINDS[kind]), batch_size=64)
    assert {values.shape for values in batch.values()} == {(64, 10)}
    assert (batch["previous_action"][:, 0] == NUM_ACTIONS).all()
    assert (batch["previous_reward"][:, 0] == 0).all()
    assert not batch["episode_start"][:, 0].any()
    assert set(batch["observation"][:, 0]) & set(starts_of(KINDS[kind]))  # though it may begin an episode


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_position_the_experts_action_on_the_query_is_asked_for(kind: str) -> None:
    (batch,) = decisions(counting_histories(KINDS[kind]), batch_size=64)
    np.testing.assert_array_equal(batch["labels"], np.tile(batch["observation"][:, :1] + 500_000, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_query_and_context_are_of_one_history(kind: str) -> None:
    (batch,) = decisions(counting_histories(KINDS[kind]), batch_size=1000)
    history = batch["observation"] // 1000
    assert (history == history[:, :1]).all()
    assert set(history[:, 0]) == set(range(len(KINDS[kind])))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_transition_says_what_led_to_its_observation(kind: str, stride: int) -> None:
    (batch,) = decisions(
        counting_histories(KINDS[kind]), batch_size=300, settings=WindowSettings(episode_stride=stride)
    )
    seen, action, reward, begins = (
        batch[name][:, 1:] for name in ("observation", "previous_action", "previous_reward", "episode_start")
    )
    np.testing.assert_array_equal(begins, np.isin(seen, starts_of(KINDS[kind])))
    np.testing.assert_array_equal(reward[~begins], seen[~begins] - 1)
    np.testing.assert_array_equal(action[~begins], (seen[~begins] - 1) % NUM_ACTIONS)
    # Only a reset led to an episode's start; before it stands the end of an earlier episode.
    ends = [start - 1 for start in starts_of(KINDS[kind])]
    assert np.isin(reward[begins], ends).all()
    assert (reward[begins] < seen[begins]).all()
    np.testing.assert_array_equal(action[begins], reward[begins] % NUM_ACTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_is_the_window_that_would_have_been_cut_less_its_order_and_its_first(kind: str) -> None:
    histories = counting_histories(KINDS[kind])
    (batch,) = decisions(histories, batch_size=200)
    (ordered,) = decisions(histories, batch_size=200, unordered=False)
    order = batch["observation"][:, 1:].argsort(axis=1)
    assert (order != np.arange(9)).any(axis=1).mean() > 0.99
    for name in ("observation", "previous_action", "previous_reward", "episode_start"):
        found = np.take_along_axis(batch[name][:, 1:], order, axis=1)
        np.testing.assert_array_equal(found, ordered[name][:, 1:], err_msg=name)


def test_all_orders_of_the_context_are_equally_likely() -> None:
    (batch,) = decisions(counting_histories(RAGGED), batch_size=12_000, length=4)
    counts = Counter(map(tuple, batch["observation"][:, 1:].argsort(axis=1).tolist()))
    assert len(counts) == 6
    np.testing.assert_allclose([count / 2000 for count in counts.values()], 1, atol=0.1)


@pytest.mark.parametrize("length", [1, 2, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_the_query_is_any_step_of_the_history_wherever_the_context_is(kind: str, length: int) -> None:
    (batch,) = decisions(counting_histories(KINDS[kind]), batch_size=40_000, length=length)
    query, context = batch["observation"][:, 0], batch["observation"][:, 1:]
    for number, history in enumerate(KINDS[kind]):
        mine = query // 1000 == number
        counts = np.bincount(query[mine] - 1000 * number, minlength=sum(history))
        np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.25)
        if length > 1:
            assert abs(np.corrcoef(query[mine], context[mine].mean(axis=1))[0, 1]) < 0.03


def test_of_a_short_history_all_is_the_context_and_the_rest_stays_empty() -> None:
    short = [4, 1, 3]
    (batch,) = decisions(counting_histories([[3] * 10, short]), batch_size=4000)
    mine = batch["observation"][:, 0] // 1000 == 1
    seen, labels = batch["observation"][mine], batch["labels"][mine]
    assert set(seen[:, 0]) == set(range(1000, 1008))
    np.testing.assert_array_equal(np.sort(seen[:, 1:8]), np.tile(np.arange(1001, 1008), (mine.sum(), 1)))
    assert len({tuple(order) for order in seen[:, 1:8]}) > 1000  # of 5040
    np.testing.assert_array_equal(labels[:, :8], np.tile(seen[:, :1] + 500_000, 8))
    assert (labels[:, 8:] == -100).all()
    assert (batch["labels"][~mine] >= 0).all()


def test_a_batch_has_the_types_the_model_takes_pictures_included() -> None:
    histories = counting_histories(RAGGED)
    pictures = (
        np.zeros((len(histories.action), 6, 5, 3), np.uint8) + (histories.reward % 251)[:, None, None, None]
    )
    picked = replace(
        histories,
        observation=pictures.astype(np.uint8),
        expert_action=(histories.observation % NUM_ACTIONS).astype(np.uint8),
    )
    ours, theirs = batches(picked, 1, unordered=True)[0], batches(histories, 1, unordered=True)[0]
    assert {name: tensor.dtype for name, tensor in ours.items()} == {
        "observation": torch.uint8,
        "previous_action": torch.int64,
        "previous_reward": torch.float32,
        "episode_start": torch.bool,
        "labels": torch.int64,
        "token_mask": torch.bool,
    }
    assert ours["observation"].shape == (8, 10, 6, 5, 3)
    torch.testing.assert_close(
        ours["observation"][..., 0, 0, 0], (theirs["observation"] % 251).to(torch.uint8)
    )
    torch.testing.assert_close(ours["labels"], (theirs["labels"] - 500_000) % NUM_ACTIONS)


def test_the_query_is_never_hidden_and_the_context_at_the_rate_asked_for() -> None:
    settings = WindowSettings(token_mask=0.3)
    (batch,) = decisions(counting_histories(RAGGED), batch_size=4000, settings=settings)
    assert not batch["token_mask"][:, 0].any()
    np.testing.assert_allclose(batch["token_mask"][:, 1:].mean(axis=0), 0.3, atol=0.04)


# The same however they are shared


def test_seed_and_update_decide_a_batch_and_each_matters() -> None:
    histories = counting_histories(RAGGED)
    first, second = batches(histories, 2, unordered=True)
    assert_same(first, batches(histories, 1, unordered=True)[0])
    assert (first["labels"] != second["labels"]).any()
    assert (first["labels"] != batches(histories, 1, unordered=True, seed=6)[0]["labels"]).any()


@pytest.mark.parametrize("update", [1, 4])
def test_resuming_at_an_update_gives_the_batches_from_that_update_on(update: int) -> None:
    histories = counting_histories(RAGGED)
    resumed = batches(histories, 6 - update, unordered=True, first_update=update)
    for ours, theirs in zip(resumed, batches(histories, 6, unordered=True)[update:], strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("num_processes", [1, 2, 8])
def test_processes_share_a_batch_without_overlap_and_without_rest(num_processes: int) -> None:
    histories = counting_histories(RAGGED)
    shares = [
        batches(histories, 2, unordered=True, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    for update, whole in enumerate(batches(histories, 2, unordered=True)):
        for name, values in whole.items():
            together = torch.stack([share[update][name] for share in shares], dim=1).flatten(0, 1)
            torch.testing.assert_close(together, values, rtol=0, atol=0, msg=name)


def test_from_a_stream_they_are_cut_from_the_histories_in_memory() -> None:
    pool = HistoryPool(CountingStream("counting", (), False), 32, seed=0)
    arguments = {"batch_size": 200, "length": 10, "num_actions": NUM_ACTIONS, "seed": 5, "unordered": True}
    made = pooled_window_batches(pool, PLAIN, **arguments)  # type: ignore[arg-type]
    for update, batch in enumerate(islice(made, 18)):
        history = batch["observation"] // 1000
        assert (history == history[:, :1]).all()
        oldest = update // 16 * 2
        assert set(history[:, 0].tolist()) <= set(range(oldest, oldest + 32))
        assert batch["previous_action"][:, 0].eq(NUM_ACTIONS).all()
    pool.close()


# Training on them


def test_histories_without_expert_actions_are_refused_for_dpt_alone() -> None:
    histories = replace(counting_histories(RAGGED), expert_action=None)
    check_windows(histories, 10)
    message = (
        r"^DPT learns from the actions of an optimal policy, and these histories hold none: collect them in "
        r"an environment that knows it, without collect\.expert_actions=false$"
    )
    for action in (
        lambda: check_windows(histories, 10, True),
        lambda: batches(histories, 1, unordered=True),
    ):
        with pytest.raises(ValueError, match=message):
            action()


def test_they_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = ADConfig(context_length=10, unordered_context=True)
    histories = replace(counting_histories(RAGGED), expert_action=None)
    with pytest.raises(ValueError, match=r"^DPT learns from the actions of an optimal policy"):
        train(histories, config, WindowSettings(), TrainSettings(updates=1), tmp_path / "run")
    with pytest.raises(ValueError, match="a window has 31 transitions, but the longest history has 30"):
        check_windows(counting_histories(RAGGED), 31, True)
    assert not list(tmp_path.iterdir())


class ExpertStream(CountingStream):
    """Whatever was done, the expert would have done 3."""

    def read(self, *args: Any, **kwargs: Any) -> Any:
        for histories, position in super().read(*args, **kwargs):
            value = histories.observation % 10
            yield replace(histories, observation=value, expert_action=np.full_like(value, 3)), position


@pytest.mark.parametrize("streaming", [False, True])
def test_a_model_learns_what_the_expert_would_have_done_and_not_what_was_done(
    streaming: bool, tmp_path: Path
) -> None:
    stream: Any = ExpertStream("expert", (), False)
    histories = stream if streaming else next(stream.read(0))[0]
    spaces = {
        "observation_space": {"type": "Discrete", "n": 10},
        "action_space": {"type": "Discrete", "n": NUM_ACTIONS},
    }
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    settings = TrainSettings(updates=30, batch_size=8, learning_rate=0.03, warmup=1, log_every=30)
    losses = []
    for unordered in (False, True):
        config = ADConfig(context_length=10, unordered_context=unordered, decoder=dict(decoder), **spaces)
        output = tmp_path / str(unordered)
        train(histories, config, WindowSettings(pool=16), settings, output)
        losses.append(json.loads((output / LOG).read_text())["loss"])
    assert losses[1] < 0.1 < losses[0]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_trains_on_them_and_a_resumed_one_repeats_it(
    streaming: bool, dataset_folder: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = load_recipe("dark-room", (*tiny, "objective=dpt", "windows.token_mask=0.3"))
    logs = []

    def stop(line: dict[str, Any]) -> None:
        if line["update"] == 5:
            raise KeyboardInterrupt

    run_train(recipe, str(dataset_folder), tmp_path / "whole", streaming=streaming)
    with pytest.raises(KeyboardInterrupt):
        run_train(recipe, str(dataset_folder), tmp_path / "resumed", on_update=stop, streaming=streaming)
    run_train(recipe, str(dataset_folder), tmp_path / "resumed", resume=True, streaming=streaming)
    for name in ("whole", "resumed"):
        lines = (tmp_path / name / LOG).read_text().splitlines()
        logs.append([json.loads(line)["loss"] for line in lines])
    assert logs[0] == logs[1]
    assert len(logs[0]) == 6
    assert ADConfig.from_pretrained(tmp_path / "whole").unordered_context
