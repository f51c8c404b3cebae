"""Noise annealing: histories end at the stated level, and it is reached when it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ad_hf.envs  # noqa: F401 (registers the environments)
from ad_hf.histories import collect
from ad_hf.tasks import Task, load_task_family

KEYS_AND_DOORS = np.random.default_rng(0).integers(9, size=(1500, 2, 2)).tolist()
TASKS = {
    "dark-room": [Task("ad_hf/DarkRoom-v0", {"goal": [x, y]}) for x in range(9) for y in range(9)] * 20,
    "dark-room-hard": [Task("ad_hf/DarkRoomHard-v0", {"goal": [x, y]}) for x in range(17) for y in range(17)]
    * 6,
    "dark-key-to-door": [
        Task("ad_hf/DarkKeyToDoor-v0", {"key": key, "door": door}) for key, door in KEYS_AND_DOORS
    ],
}
OPTIMUM = {"dark-room": 16.543, "dark-room-hard": 1.0, "dark-key-to-door": 2.0}  # means over all tasks


@pytest.mark.parametrize(
    ("name", "epsilon", "share"),
    [
        ("dark-room", 0.426, 0.5),
        ("dark-room-hard", 0.588, 0.5),
        ("dark-key-to-door", 0.830, 0.5),
        ("dark-room", 0.5, 0.4),  # the share that AD-eps names for this level
    ],
)
def test_a_history_ends_at_the_stated_share_of_the_optimum(name: str, epsilon: float, share: float) -> None:
    settings = {"epsilon_end": epsilon, "annealing": 0.5}
    returns = collect(TASKS[name], "noise", 6, settings=settings).return_matrix()[:, 2:] / OPTIMUM[name]
    assert abs(returns.mean() - share) < 3 * returns.std() / returns.size**0.5 + 0.005


@pytest.mark.parametrize(("annealing", "first_without_noise"), [(1.0, 9), (0.9, 8), (0.5, 4), (0.1, 1)])
def test_the_noise_has_faded_after_its_share_of_the_episodes(
    annealing: float, first_without_noise: int
) -> None:
    tasks = TASKS["dark-room"]
    returns = collect(tasks, "noise", 10, settings={"annealing": annealing}).return_matrix()
    best = returns[:, -1]
    assert best.mean() == pytest.approx(16.543, abs=5e-4)
    np.testing.assert_array_equal(
        returns[:, first_without_noise:], np.tile(best[:, None], 10 - first_without_noise)
    )
    means = returns[:, : first_without_noise + 1].mean(axis=0)
    assert (np.diff(means) > 0.1).all()


def test_the_noise_fades_in_every_environment_that_knows_its_optimum() -> None:
    for name in TASKS:
        returns = collect(load_task_family(name)["test"], "noise", 30).return_matrix()
        assert returns[:, :3].mean() < 0.3 * returns[:, -3:].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon_start": 1.1}, r"epsilon_start of noise is 1\.1.*from 0 to 1"),
        ({"epsilon_end": -0.1}, r"epsilon_end of noise is -0\.1.*from 0 to 1"),
        ({"annealing": 0}, r"annealing of noise is 0.*above 0 and at most 1"),
        ({"annealing": 1.5}, r"annealing of noise is 1\.5.*above 0 and at most 1"),
    ],
)
def test_impossible_noise_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(TASKS["dark-room"][:2], "noise", 2, settings=settings)
