"""Windows: consecutive steps of one history, whole climbs long, the same however they are shared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import torch

from ad_hf.histories import Histories
from ad_hf.models import ADConfig, ADModel
from ad_hf.streaming import START, HistoryPool, HistoryStream
from ad_hf.tasks import Task
from ad_hf.windows import (
    WindowSettings,
    check_windows,
    draw_windows,
    expert_part,
    pooled_window_batches,
    window_batch,
    window_batches,
)

NUM_ACTIONS = 7

# Steps of each episode of each history.
EVEN = [[4] * 10, [4] * 7, [4] * 12]
RAGGED = [[3, 1, 5, 2, 1, 1, 4, 6, 1, 3], [6, 2, 1, 1, 1, 1, 1, 8, 7], [1] * 30, [9, 9, 9, 1]]
KINDS = {"even": EVEN, "ragged": RAGGED}
LONGEST = {"even": 48, "ragged": 30}  # steps of the longest history


def counting_histories(lengths: list[list[int]]) -> Histories:
    """Observation and reward are history * 1000 + step, so that every value says where it came from.

    So does the expert's action, which is half a million more.
    """
    episodes = [length for history in lengths for length in history]
    value = np.concatenate([1000 * n + np.arange(sum(history)) for n, history in enumerate(lengths)])
    ends = np.concatenate([[0], np.cumsum(episodes)])
    return Histories(
        observation=value,
        action=(value % NUM_ACTIONS).astype(np.uint8),
        reward=value.astype(np.float32),
        final_observation=value[ends[1:] - 1] + 1,
        terminated=np.arange(len(episodes)) % 2 == 0,
        truncated=np.arange(len(episodes)) % 2 == 1,
        episode_offsets=ends,
        history_offsets=np.concatenate([[0], np.cumsum([len(history) for history in lengths])]),
        tasks=tuple(Task("counting", {"history": n}) for n in range(len(lengths))),
        expert_action=value + 500_000,
    )


def drawn(histories: Histories, length: int, stride: int, num: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    return draw_windows(histories, num, length, stride, np.random.default_rng(0))


def episodes_of(histories: Histories, steps: np.ndarray) -> np.ndarray:
    return np.searchsorted(histories.episode_offsets, steps, side="right") - 1


def distances(histories: Histories, steps: np.ndarray) -> np.ndarray:
    """How many episodes lie from one episode of a window to its next, over all windows."""
    moved = np.diff(episodes_of(histories, steps), axis=1)
    return moved[moved != 0]


def batches(histories: Histories, num: int, **changes: Any) -> list[dict[str, torch.Tensor]]:
    arguments = {
        "settings": WindowSettings(episode_stride=2, token_mask=0.3),
        "batch_size": 8,
        "length": 10,
        "num_actions": NUM_ACTIONS,
        "seed": 5,
    }
    return list(islice(window_batches(histories, **{**arguments, **changes}), num))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, msg=name)


# Where windows are cut


@pytest.mark.parametrize("stride", [1, 2, 5, 50])
@pytest.mark.parametrize("length", [1, 2, 9, 27])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_consecutive_steps_and_moves_on_only_from_the_end_of_an_episode_to_the_start_of_a_later(
    kind: str, length: int, stride: int
) -> None:
    histories = counting_histories(KINDS[kind])
    steps, begins = drawn(histories, length, stride)
    assert steps.shape == begins.shape == (3000, length)
    episode, offsets = episodes_of(histories, steps), histories.episode_offsets
    moved = np.diff(episode, axis=1)
    assert (np.diff(steps, axis=1)[moved == 0] == 1).all()
    assert (moved >= 0).all()
    assert (steps[:, :-1][moved > 0] == offsets[episode[:, :-1] + 1][moved > 0] - 1).all()
    assert (steps[:, 1:][moved > 0] == offsets[episode[:, 1:]][moved > 0]).all()
    np.testing.assert_array_equal(begins, steps == offsets[episode])


@pytest.mark.parametrize("stride", [1, 3, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_never_leaves_its_history_and_no_history_is_left_out(kind: str, stride: int) -> None:
    histories = counting_histories(KINDS[kind])
    steps, _ = drawn(histories, 20, stride)
    history = histories.observation[steps] // 1000
    assert (history == history[:, :1]).all()
    share = np.bincount(history[:, 0], minlength=len(histories)) / len(steps)
    np.testing.assert_allclose(share, 1 / len(histories), atol=0.05)  # long or short


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_longer_than_an_episode_crosses_into_the_next(kind: str) -> None:
    histories = counting_histories(KINDS[kind])
    episode = episodes_of(histories, drawn(histories, 10, 1)[0])
    assert (episode[:, 0] < episode[:, -1]).all()


# At larger strides a window that starts late needs gaps of 1 alone, which becomes rare.
@pytest.mark.parametrize(("length", "stride"), [*[(n, 1) for n in (1, 4, 5, 8, 9, 20, 27)], (1, 3), (4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_start_is_reachable_and_none_else(kind: str, length: int, stride: int) -> None:
    histories = counting_histories(KINDS[kind])
    steps, _ = drawn(histories, length, stride, num=20_000)
    fits = [
        1000 * n + start
        for n, history in enumerate(KINDS[kind])
        for start in range(sum(history) - length + 1)
    ]
    assert set(histories.observation[steps[:, 0]].tolist()) == set(fits)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("length", [8, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_every_transition_is_in_some_window(kind: str, length: int, stride: int) -> None:
    histories = counting_histories(KINDS[kind])
    steps, _ = drawn(histories, length, stride, num=10_000)
    assert set(steps.ravel().tolist()) == set(range(len(histories.action)))


@pytest.mark.parametrize("kind", KINDS)
def test_at_stride_one_all_starts_of_a_history_are_equally_likely(kind: str) -> None:
    histories = counting_histories(KINDS[kind])
    steps, _ = drawn(histories, 7, 1, num=40_000)
    starts, counts = np.unique(histories.observation[steps[:, 0]], return_counts=True)
    for history in range(len(histories)):
        of_history = counts[starts // 1000 == history]
        np.testing.assert_allclose(of_history / of_history.mean(), 1, atol=0.25)


@pytest.mark.parametrize("stride", [1, 7])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [1, 1, 9, 1], [1] * 12, [12]])
def test_a_history_of_exactly_one_window_gives_that_window(lengths: list[int], stride: int) -> None:
    histories = counting_histories([lengths])
    check_windows(histories, 12)
    steps, _ = drawn(histories, 12, stride, num=50)
    np.testing.assert_array_equal(steps, np.tile(np.arange(12), (50, 1)))


@pytest.mark.parametrize("stride", [1, 7])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [1, 1, 9], [1] * 11, [5], [1]])
def test_a_history_that_is_shorter_than_a_window_is_taken_whole_and_the_rest_stays_empty(
    lengths: list[int], stride: int
) -> None:
    histories = counting_histories([[3] * 20, lengths, [60]])
    steps, begins = drawn(histories, 13, stride)
    size = sum(lengths)
    short = (steps[:, 0] >= 60) & (steps[:, 0] < 60 + size)
    np.testing.assert_allclose(short.mean(), 1 / 3, atol=0.05)
    window = np.pad(60 + np.arange(size), (0, 13 - size), constant_values=-1)
    np.testing.assert_array_equal(steps[short], np.tile(window, (short.sum(), 1)))
    assert (steps[~short] >= 0).all()
    np.testing.assert_array_equal(begins, np.isin(steps, histories.episode_offsets[:-1]))


def long_history(kind: str) -> Histories:
    lengths = np.random.default_rng(1).integers(1, 6, size=6000).tolist()
    return counting_histories([[3] * 6000 if kind == "even" else lengths])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2, 10])
def test_successive_episodes_lie_one_to_twice_the_stride_less_one_apart_and_the_stride_on_average(
    kind: str, stride: int
) -> None:
    histories = long_history(kind)
    apart = distances(histories, drawn(histories, 16, stride)[0])
    values, counts = np.unique(apart, return_counts=True)
    assert values.tolist() == list(range(1, 2 * stride))
    np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.15)
    assert apart.mean() == pytest.approx(stride, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_of_one_window_are_drawn_independently(kind: str) -> None:
    histories = long_history(kind)
    episode = episodes_of(histories, drawn(histories, 16, 10)[0])
    first_two = [np.diff(np.unique(row))[:2] for row in episode]
    assert abs(np.corrcoef(np.transpose(first_two))[0, 1]) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_shrink_where_the_history_is_short_and_use_what_room_there_is(kind: str) -> None:
    # At a stride of 50 a window of 5 episodes would span 200 of the 24 there are.
    lengths = [4] * 24 if kind == "even" else [3, 5] * 12
    histories = counting_histories([lengths])
    steps, _ = drawn(histories, 20, 50)
    assert 3 < distances(histories, steps).mean() < 6
    spans = np.ptp(episodes_of(histories, steps), axis=1)
    assert spans.mean() > 15
    assert spans.max() <= 23


def test_a_window_that_does_not_fit_halves_its_own_gaps_and_leaves_those_of_the_others() -> None:
    # Three windows of the second history in four skip the long episodes, whose steps they then lack.
    histories = counting_histories([[3] * 3000, ([1] * 25 + [50] + [1] * 25) * 2])
    steps, _ = drawn(histories, 20, 10)
    roomy = steps[:, 0] < 9000
    assert distances(histories, steps[roomy]).mean() == pytest.approx(10, rel=0.03)
    assert 4 < distances(histories, steps[~roomy]).mean() < 6


@pytest.mark.parametrize("seed", range(40))
def test_any_window_of_any_histories_is_episodes_one_after_another_whole_but_for_its_two_ends(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    longest_episode, most_episodes = rng.choice([1, 5, 50]), rng.choice([2, 40])
    histories = counting_histories(
        [
            rng.integers(1, longest_episode + 1, size=rng.integers(1, most_episodes + 1)).tolist()
            for _ in range(rng.integers(1, 6))
        ]
    )
    offsets, borders = histories.episode_offsets, histories.episode_offsets[histories.history_offsets]
    length, stride = (
        int(rng.integers(1, np.diff(borders).max() + 1)),
        int(rng.choice([1, rng.integers(2, 61)])),
    )
    steps, begins = draw_windows(histories, 64, length, stride, rng)
    for window, marks in zip(steps, begins, strict=True):
        history = np.searchsorted(borders, window[0], side="right") - 1
        size = min(length, borders[history + 1] - borders[history])
        visited = np.unique(episodes_of(histories, window[:size]))
        assert (np.diff(visited) < 2 * stride).all()
        whole = np.concatenate([np.arange(*offsets[[episode, episode + 1]]) for episode in visited])
        np.testing.assert_array_equal(window[:size], whole[whole >= window[0]][:size])
        assert borders[history] <= window[0] <= window[size - 1] < borders[history + 1]
        assert (window[size:] == -1).all()
        np.testing.assert_array_equal(marks, np.isin(window, offsets[:-1]))


# Batches


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_holds_what_its_observations_say(kind: str, stride: int) -> None:
    histories = counting_histories(KINDS[kind])
    steps, begins = drawn(histories, 12, stride, num=64)
    batch = {name: tensor.numpy() for name, tensor in window_batch(histories, steps, begins, 7).items()}
    seen = batch["observation"]
    assert {values.shape for values in batch.values()} == {(64, 12)}
    np.testing.assert_array_equal(seen, histories.observation[steps])
    np.testing.assert_array_equal(batch["labels"], seen % NUM_ACTIONS)  # on every position
    np.testing.assert_array_equal(batch["previous_action"][:, 1:], seen[:, :-1] % NUM_ACTIONS)
    np.testing.assert_array_equal(batch["previous_reward"][:, 1:], seen[:, :-1])
    assert (batch["previous_action"][:, 0] == NUM_ACTIONS).all()
    assert (batch["previous_reward"][:, 0] == 0).all()
    first_steps = [
        1000 * n + step
        for n, history in enumerate(KINDS[kind])
        for step in np.concatenate([[0], np.cumsum(history)[:-1]])
    ]
    np.testing.assert_array_equal(batch["episode_start"], np.isin(seen, first_steps))


@pytest.mark.parametrize("unordered", [False, True])
def test_nothing_is_to_be_predicted_where_a_window_is_empty_and_nothing_from_there(unordered: bool) -> None:
    histories = counting_histories([[4, 4, 1], [2], [3] * 10])
    histories = replace(histories, observation=histories.observation % 10, expert_action=histories.action)
    (batch,) = batches(histories, 1, batch_size=64, length=20, unordered=unordered)
    empty = batch["labels"] == -100
    assert set(empty.sum(dim=1).tolist()) == {0, 11, 18}
    assert not empty[:, 0].any()
    assert (empty[:, 1:] >= empty[:, :-1]).all()  # at the end
    torch.manual_seed(0)
    config = ADConfig(
        observation_space={"type": "Discrete", "n": 10},
        action_space={"type": "Discrete", "n": NUM_ACTIONS},
        context_length=20,
        unordered_context=unordered,
        decoder={"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16},
    )
    model = ADModel(config).eval()
    losses = [model(**batch).loss]
    batch |= {
        "observation": batch["observation"].where(~empty, 3),
        "previous_reward": batch["previous_reward"].where(~empty, 1e3),
        "episode_start": batch["episode_start"] ^ empty,
    }
    losses.append(model(**batch).loss)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_a_batch_has_the_types_the_model_takes() -> None:
    histories = counting_histories(EVEN)
    pictures = np.zeros((len(histories.action), 6, 5, 3), np.uint8)
    steps, begins = drawn(histories, 12, 1, num=2)
    batch = window_batch(replace(histories, observation=pictures), steps, begins, 7)
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "observation": torch.uint8,
        "previous_action": torch.int8,
        "previous_reward": torch.float32,
        "episode_start": torch.bool,
        "labels": torch.int8,
    }
    assert batch["observation"].shape == (2, 12, 6, 5, 3)


@pytest.mark.parametrize(
    ("num_actions", "dtype"),
    [(2, torch.int8), (127, torch.int8), (128, torch.int16), (2**15, torch.int32), (2**31, torch.int64)],
)
def test_actions_take_as_few_bytes_as_hold_all_of_them_and_those_that_stand_for_none(
    num_actions: int, dtype: torch.dtype
) -> None:
    histories = counting_histories([[3], [1]])
    histories = replace(histories, action=np.array([0, num_actions - 1, 1, num_actions - 1]))
    steps, begins = np.array([[0, 1, 2], [3, -1, -1]]), np.zeros((2, 3), dtype=bool)
    batch = window_batch(histories, steps, begins, num_actions)
    assert batch["labels"].dtype == batch["previous_action"].dtype == dtype
    assert batch["labels"].tolist() == [[0, num_actions - 1, 1], [num_actions - 1, -100, -100]]
    assert batch["previous_action"][0].tolist() == [num_actions, 0, num_actions - 1]
    assert batch["previous_action"][1, :2].tolist() == [num_actions, num_actions - 1]


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_observations_of_any_shape_are_gathered(order: str, stride: int) -> None:
    histories = counting_histories(RAGGED)
    pictures = np.random.default_rng(0).integers(256, size=(len(histories.action), 3, 2), dtype=np.uint8)
    histories = replace(histories, observation=np.asarray(pictures, order=order))
    steps, begins = drawn(histories, 12, stride, num=64)
    np.testing.assert_array_equal(
        window_batch(histories, steps, begins, NUM_ACTIONS)["observation"], pictures[steps]
    )


def test_seed_and_update_decide_a_batch_and_each_matters() -> None:
    histories = counting_histories(EVEN)
    first, second = batches(histories, 2)
    assert_same(first, batches(histories, 1)[0])
    assert (first["observation"] != second["observation"]).any()
    assert (first["token_mask"] != second["token_mask"]).any()
    assert (first["observation"] != batches(histories, 1, seed=6)[0]["observation"]).any()


@pytest.mark.parametrize("update", [1, 4])
def test_resuming_at_an_update_gives_the_batches_from_that_update_on(update: int) -> None:
    histories = counting_histories(RAGGED)
    whole = batches(histories, 6)
    for ours, theirs in zip(batches(histories, 6 - update, first_update=update), whole[update:], strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("num_processes", [1, 2, 4, 8])
def test_processes_share_a_batch_without_overlap_and_without_rest(num_processes: int) -> None:
    histories = counting_histories(RAGGED)
    shares = [
        batches(histories, 2, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    for update, whole in enumerate(batches(histories, 2)):
        for name, values in whole.items():
            parts = [share[update][name] for share in shares]
            assert {len(part) for part in parts} == {8 // num_processes}
            together = torch.stack(parts, dim=1).flatten(0, 1)  # rows are dealt out like cards
            torch.testing.assert_close(together, values, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_transitions_are_hidden_at_the_rate_asked_for_at_every_position(rate: float) -> None:
    settings = WindowSettings(token_mask=rate)
    (batch,) = batches(counting_histories(EVEN), 1, settings=settings, batch_size=4000)
    assert batch["token_mask"].dtype == torch.bool
    np.testing.assert_allclose(batch["token_mask"].float().mean(dim=0), rate, atol=0.04)


def test_hiding_transitions_does_not_change_which_windows_are_drawn() -> None:
    histories = counting_histories(EVEN)
    masked, plain = (
        batches(histories, 1, settings=WindowSettings(token_mask=rate))[0] for rate in (0.5, 0.0)
    )
    del masked["token_mask"]
    assert_same(masked, plain)


# Names of actions


def renaming() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Windows with the names that actions have, and with others; some are partly empty."""
    histories, kinds = counting_histories([*EVEN, [3, 4]]), [{}, {"rename_actions": True}]
    settings = [WindowSettings(**kind) for kind in kinds]
    plain, renamed = (batches(histories, 1, settings=s, batch_size=600, length=14)[0] for s in settings)
    return plain, renamed


def test_a_window_renames_every_action_one_to_one() -> None:
    plain, renamed = renaming()
    assert (plain["labels"] != renamed["labels"]).any()
    for before, after in zip(plain["labels"], renamed["labels"], strict=True):
        pairs = set(zip(before.tolist(), after.tolist(), strict=True))
        assert len(pairs) == len(before.unique()) == len(after.unique())


def test_an_action_has_one_name_as_a_label_and_afterwards() -> None:
    _, renamed = renaming()
    taken, seen = renamed["labels"][:, :-1], renamed["previous_action"][:, 1:]
    torch.testing.assert_close(seen[taken >= 0], taken[taken >= 0], rtol=0, atol=0)


def test_what_is_no_action_keeps_its_name() -> None:
    plain, renamed = renaming()
    assert (renamed["previous_action"][:, 0] == NUM_ACTIONS).all()
    torch.testing.assert_close(renamed["labels"] < 0, plain["labels"] < 0)
    assert renamed["labels"].min() == -100


def test_renaming_changes_actions_alone() -> None:
    plain, renamed = renaming()
    assert_same(renamed | {name: plain[name] for name in ("labels", "previous_action")}, plain)


def test_all_names_are_alike() -> None:
    plain, renamed = renaming()
    first = renamed["labels"][:, 0][plain["labels"][:, 0] == 1]
    shares = torch.bincount(first.long(), minlength=NUM_ACTIONS) / len(first)
    np.testing.assert_allclose(shares, 1 / NUM_ACTIONS, atol=0.1)


# Batches from a stream


class CountingStream(HistoryStream):
    """Histories of 40 steps, each with the observations 1000 * its number in the stream + step."""

    def read(self, seed: int, process: int = 0, num_processes: int = 1, position: Any = START) -> Any:
        for number in count(position["turn"]):
            histories = counting_histories([[4] * 10])
            value = histories.observation + 1000 * number
            yield replace(histories, observation=value), {**START, "turn": number + 1}


@pytest.fixture
def pool() -> Iterator[HistoryPool]:
    pool = HistoryPool(CountingStream("counting", (), False), 32, seed=0)
    yield pool
    pool.close()


def pooled(pool: HistoryPool, num: int, **changes: Any) -> list[dict[str, torch.Tensor]]:
    settings = WindowSettings(episode_stride=2, token_mask=0.3, pool=32)
    arguments = {"batch_size": 8, "length": 10, "num_actions": NUM_ACTIONS, "seed": 5, **changes}
    return list(islice(pooled_window_batches(pool, settings, **arguments), num))


def test_windows_come_from_all_histories_in_memory_which_are_exchanged_every_16_updates(
    pool: HistoryPool,
) -> None:
    found = pooled(pool, 48, batch_size=500)
    for update, batch in enumerate(found):
        oldest = update // 16 * 2  # a 16th of 32
        history = batch["observation"] // 1000
        assert set(history.flatten().tolist()) == set(range(oldest, oldest + 32))
        assert (history == history[:, :1]).all()


@pytest.mark.parametrize("update", [1, 15, 16, 17, 40])
def test_resuming_with_the_pool_of_an_update_gives_the_batches_from_that_update_on(
    update: int, pool: HistoryPool
) -> None:
    whole = pooled_window_batches(
        pool, WindowSettings(pool=32), batch_size=8, length=10, num_actions=NUM_ACTIONS, seed=5
    )
    for _ in range(update):
        next(whole)
    stream = CountingStream("counting", (), False)
    again = HistoryPool(stream, 32, seed=0, position=pool.position)
    resumed = pooled_window_batches(again, WindowSettings(pool=32), 8, 10, NUM_ACTIONS, 5, update)
    for _ in range(18):
        assert_same(next(resumed), next(whole))
    again.close()


def test_each_process_draws_its_own_share_from_its_own_histories(pool: HistoryPool) -> None:
    shares = [pooled(pool, 1, process=process, num_processes=2)[0] for process in range(2)]
    assert {len(share["observation"]) for share in shares} == {4}
    assert (shares[0]["observation"] % 1000 != shares[1]["observation"] % 1000).any()
    assert_same(shares[1], pooled(pool, 1, process=1, num_processes=2)[0])
    assert (shares[0]["observation"] != pooled(pool, 1, batch_size=4, seed=6)[0]["observation"]).any()
    with pytest.raises(ValueError, match="batch_size is 8, which 3 processes cannot share equally"):
        pooled(pool, 1, num_processes=3)


def test_histories_that_are_too_short_are_refused_when_no_other_is_left(pool: HistoryPool) -> None:
    pool.histories = counting_histories([*EVEN, [4, 4, 1]])
    assert (pooled(pool, 1, batch_size=100)[0]["labels"] == -100).any()
    pool.histories = counting_histories([[4, 4, 1], [1]])
    with pytest.raises(ValueError, match="a window has 10 transitions, but the longest history has 9"):
        pooled(pool, 1)


# Expert distillation


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_part_is_the_last_share_of_every_history(kind: str, share: float) -> None:
    whole = counting_histories(KINDS[kind])
    part = expert_part(whole, share)
    kept = [history[-max(int(len(history) * share), 1) :] for history in KINDS[kind]]
    values = [
        1000 * n + np.arange(sum(history) - sum(last), sum(history))
        for n, (history, last) in enumerate(zip(KINDS[kind], kept, strict=True))
    ]
    np.testing.assert_array_equal(part.observation, np.concatenate(values))
    np.testing.assert_array_equal(part.reward, part.observation)
    np.testing.assert_array_equal(part.action, part.observation % NUM_ACTIONS)
    np.testing.assert_array_equal(part.expert_action, part.observation + 500_000)
    np.testing.assert_array_equal(np.diff(part.episode_offsets), np.concatenate(kept))
    np.testing.assert_array_equal(np.diff(part.history_offsets), [len(last) for last in kept])
    np.testing.assert_array_equal(part.final_observation, part.observation[part.episode_offsets[1:] - 1] + 1)
    last_rows = np.isin(whole.final_observation, part.final_observation)
    np.testing.assert_array_equal(part.terminated, whole.terminated[last_rows])
    np.testing.assert_array_equal(part.truncated, whole.truncated[last_rows])
    assert part.tasks == whole.tasks


def test_the_expert_part_of_histories_without_expert_actions_has_none_either() -> None:
    assert expert_part(replace(counting_histories(EVEN), expert_action=None), 0.5).expert_action is None


def test_windows_of_the_expert_part_show_nothing_earlier() -> None:
    part = expert_part(counting_histories(EVEN), 0.5)
    steps, _ = drawn(part, 12, 1)
    earliest = [1000 * n + 4 * (len(history) - len(history) // 2) for n, history in enumerate(EVEN)]
    seen = part.observation[steps]
    assert (seen >= np.array(earliest)[seen // 1000]).all()


# Refusals


@pytest.mark.parametrize(("kind", "longest"), LONGEST.items())
def test_windows_longer_than_the_longest_history_are_refused(kind: str, longest: int) -> None:
    histories = counting_histories(KINDS[kind])
    check_windows(histories, longest)
    message = (
        f"a window has {longest + 1} transitions, but the longest history has {longest}: "
        f"lower the context to {longest} or collect more episodes"
    )
    with pytest.raises(ValueError, match=message):
        batches(histories, 1, length=longest + 1)


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    message = "batch_size is 8, which 3 processes cannot share equally: choose a multiple of 3"
    with pytest.raises(ValueError, match=message):
        batches(counting_histories(EVEN), 1, num_processes=3)


@pytest.mark.parametrize(
    ("setting", "value", "limit"),
    [
        ("episode_stride", 0, "at least 1"),
        ("token_mask", 1.0, "from 0 up to, not including, 1"),
        ("token_mask", -0.1, "from 0 up to, not including, 1"),
        ("expert_share", 0.0, "above 0 and at most 1"),
        ("expert_share", 1.5, "above 0 and at most 1"),
        ("improvement_weight", -0.1, "at least 0"),
        ("stability_weight", -1.0, "at least 0"),
        ("pool", 15, "at least 16"),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {value}( histories)?, but must be {limit}"):
        WindowSettings(**{setting: value})  # type: ignore[arg-type]
