"""History filtering: of each task, histories that improve most and fall back least are drawn more often."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest

from ad_hf.histories import Histories
from ad_hf.streaming import START, HistoryPool, HistoryStream
from ad_hf.tasks import Task
from ad_hf.windows import (
    WindowSettings,
    draw_windows,
    history_weights,
    pooled_window_batches,
    window_batches,
)

# Episode returns of each history and its task; all have ten episodes.
RISING = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # improves by 4 and never falls back
BUMPY = [0, 0, 3, 3, 1, 1, 4, 4, 4, 4]  # improves by 4 and falls back by 2 on the way
FLAT = [2] * 10
FALLING = [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]  # improves by -4 and falls back by 4


def climbing_histories(returns: Sequence[Sequence[float]], tasks: Sequence[int], first: int = 0) -> Histories:
    """Histories with these returns in episodes of two steps; their observation is their number."""
    counts = [len(history) for history in returns]
    episodes = np.concatenate([np.asarray(history, dtype=np.float32) for history in returns])
    number = first + np.repeat(np.arange(len(returns)), counts)
    return Histories(
        observation=np.repeat(number, 2),
        action=np.zeros(2 * len(episodes), np.uint8),
        reward=np.stack([episodes - 1, np.ones_like(episodes)], axis=1).ravel(),
        final_observation=number,
        terminated=np.zeros(len(episodes), bool),
        truncated=np.ones(len(episodes), bool),
        episode_offsets=2 * np.arange(len(episodes) + 1),
        history_offsets=np.cumsum([0, *counts]),
        tasks=tuple(Task("climbing", {"task": task}) for task in tasks),
    )


def weights(returns: Sequence[Sequence[float]], tasks: Sequence[int], **settings: float) -> list[float]:
    found = history_weights(climbing_histories(returns, tasks), WindowSettings(**settings))  # type: ignore[arg-type]
    assert found is not None
    assert found.sum() == pytest.approx(1)
    return found.tolist()


# The weights


def test_without_weights_all_histories_are_drawn_alike_and_the_same_windows_as_ever() -> None:
    histories = climbing_histories([RISING, FLAT, FALLING], [0, 0, 1])
    assert history_weights(histories, WindowSettings()) is None
    ours = draw_windows(histories, 30_000, 5, 1, np.random.default_rng(0), None)[0]
    theirs = draw_windows(histories, 30_000, 5, 1, np.random.default_rng(0))[0]
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(np.bincount(histories.observation[ours[:, 0]]) / 30_000, 1 / 3, atol=0.01)


@pytest.mark.parametrize("weight", [0.5, 1.0, 9.0])
def test_who_improves_most_is_drawn_one_plus_the_weight_times_as_often_as_who_improves_least(
    weight: float,
) -> None:
    falling, flat, rising, bumpy = weights(
        [FALLING, FLAT, RISING, BUMPY], [0, 0, 0, 0], improvement_weight=weight
    )
    assert rising == bumpy == pytest.approx((1 + weight) * falling)
    assert flat == pytest.approx((1 + weight / 2) * falling)


@pytest.mark.parametrize("weight", [0.5, 9.0])
def test_who_falls_back_least_is_drawn_one_plus_the_weight_times_as_often_as_who_does_most(
    weight: float,
) -> None:
    falling, flat, rising, bumpy = weights(
        [FALLING, FLAT, RISING, BUMPY], [0, 0, 0, 0], stability_weight=weight
    )
    assert rising == flat == pytest.approx((1 + weight) * falling)
    assert bumpy == pytest.approx((1 + weight / 2) * falling)


def test_improvement_and_stability_add_up() -> None:
    falling, flat, rising, bumpy = weights(
        [FALLING, FLAT, RISING, BUMPY], [0, 0, 0, 0], improvement_weight=2.0, stability_weight=4.0
    )
    assert np.array([flat, rising, bumpy]) / falling == pytest.approx([1 + 1 + 4, 1 + 2 + 4, 1 + 2 + 2])


def test_every_task_keeps_its_share_and_is_measured_by_its_own_scale() -> None:
    steep = [[100 * value for value in history] for history in (RISING, FLAT, FALLING)]
    returns = [RISING, FALLING, *steep, FALLING, FLAT]  # not sorted by task
    tasks = [0, 0, 1, 1, 1, 2, 0]
    found = np.array(weights(returns, tasks, improvement_weight=3.0, stability_weight=1.0))
    shares = [found[np.array(tasks) == task].sum() for task in range(3)]
    assert shares == pytest.approx([3 / 7, 3 / 7, 1 / 7])
    assert found[[0, 6, 1]] == pytest.approx(found[[2, 3, 4]])


@pytest.mark.parametrize("number", range(1, 13))
def test_histories_of_any_length_that_only_rise_are_all_stable(number: int) -> None:
    # With fewer than five episodes, fifths share some.
    rising = [list(range(2, 2 + count)) for count in (number, 10)]
    assert weights(rising, [0, 0], stability_weight=5.0) == pytest.approx([0.5, 0.5])


def test_short_histories_improve_from_their_first_to_their_last_episode() -> None:
    up, down, alike = weights([[1, 3, 5], [5, 3, 1], [3]], [0, 0, 0], improvement_weight=1.0)
    assert (up / down, alike / down) == pytest.approx((2, 1.5))


def test_histories_that_are_alike_are_drawn_alike() -> None:
    found = weights([RISING] * 4 + [FLAT] * 2, [0] * 4 + [1] * 2, improvement_weight=9, stability_weight=9)
    assert found == pytest.approx([1 / 6] * 6)


# Windows


def drawn(batches: Any, num: int) -> np.ndarray:
    """How often each history is drawn."""
    numbers = np.concatenate([batch["observation"][:, 0].numpy() for batch in islice(batches, num)])
    return np.bincount(numbers) / len(numbers)


def test_windows_are_drawn_as_often_as_the_weights_say_and_every_task_alike() -> None:
    histories = climbing_histories([FALLING, FLAT, RISING, FALLING, BUMPY, FLAT], [0, 0, 0, 1, 1, 2])
    settings = WindowSettings(improvement_weight=3.0, stability_weight=1.0)
    share = drawn(window_batches(histories, settings, 20_000, 5, 3, seed=0), 2)
    np.testing.assert_allclose(share, history_weights(histories, settings), atol=0.01)
    assert share[2] > 2 * share[0]
    np.testing.assert_allclose(
        [share[:3].sum(), share[3:5].sum(), share[5]], [1 / 2, 1 / 3, 1 / 6], atol=0.01
    )


class ClimbingStream(HistoryStream):
    """Histories of one task by turns: three that fall, then one that rises."""

    def read(self, seed: int, process: int = 0, num_processes: int = 1, position: Any = START) -> Any:
        number = position["turn"]
        while True:
            history = RISING if number % 4 == 3 else FALLING
            number += 1
            yield climbing_histories([history], [0], number - 1), {**START, "turn": number}


def test_while_streaming_the_histories_in_memory_are_weighed() -> None:
    pool = HistoryPool(ClimbingStream("climbing", (), False), 16, seed=0)
    settings = WindowSettings(improvement_weight=9.0, pool=16)
    batches = pooled_window_batches(pool, settings, 4000, 5, 3, seed=0)
    for exchanged in range(2):  # one of 16 histories, after 16 updates
        share = drawn(islice(batches, 16), 16)[exchanged:]
        rises = np.arange(exchanged, exchanged + 16) % 4 == 3
        np.testing.assert_allclose(share, np.where(rises, 10, 1) / (4 * 10 + 12), atol=0.01)
    pool.close()
