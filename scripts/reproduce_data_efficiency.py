"""How many episodes a distilled model needs, and how many the learner that it was distilled from.

    python scripts/reproduce_data_efficiency.py --scale cpu

Laskin et al. 2022: until it is as good as AD in the end the source takes 7.0 times the steps in Dark Room,
5.9 in Dark Room Hard and 94 in Key-to-Door, where the steps of all its 100 actors count.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from benchmarking import markdown
from reproduced import pace, resamples
from reproducing import Q_HARD, Q_KEY_TO_DOOR, TINY, Agent, Figure, Scale, reproduce

SHARES = (0.5, 0.8, 0.9)
HARD = (*Q_HARD, "model.context_length=200", "train.batch_size=16")
# name -> recipe, changes in it, what else is changed at a scale, histories of each task
ROOMS: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[str, ...]], int]] = {
    "Dark Room": ("dark-room", (), {}, 6),
    "Dark Room Hard": ("dark-room-hard", HARD, {"cpu": ("train.updates=800",)}, 8),
    "Key-to-Door": (
        "dark-key-to-door",
        (*Q_KEY_TO_DOOR, "family.num_test=48"),
        {"cpu": ("train.updates=3000",)},
        1,
    ),
}


def ratios(returns: Mapping[str, np.ndarray]) -> list[str]:
    """How many times the episodes of the model the source takes, as a table."""
    rows = [
        ("environment", "share of the optimum", "AD", "source", "per stream", "95 % interval", "aggregate")
    ]
    for name, (*_, streams) in ROOMS.items():
        model, source = returns[f"AD, {name}"], returns[f"Q-learning, {name}"]
        for share in SHARES:
            counts = [pace(values, share) for values in (model, source)]
            if None in counts:
                rows.append((name, f"{share:.0%}", *(str(count or "-") for count in counts), "-", "-", "-"))
                continue
            ratio = counts[1] / counts[0]  # type: ignore[operator]
            low, high = _interval(model, source, share)
            rows.append(
                (
                    *(name, f"{share:.0%}", str(counts[0]), str(counts[1])),
                    *(f"{ratio:.1f}x", f"{low:.1f} to {high:.1f}", f"{streams * ratio:.1f}x"),
                )
            )
    return [
        "Episodes until the mean return has reached a share of the optimum. *Per stream* is one learner "
        "against one rollout; *aggregate* counts the episodes of all learners that a task's histories came "
        "from, as the paper counts those of all actors.",
        "",
        *markdown(rows),
    ]


def _interval(model: np.ndarray, source: np.ndarray, share: float) -> tuple[float, float]:
    """95 % bootstrap interval of a ratio over seeds and tasks, both sides on the same."""
    S, G, E = model.shape
    found = [
        (pace(source[drawn], share) or E) / (pace(model[drawn], share) or E) for drawn in resamples(S, G, 500)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


FIGURE = Figure(
    name="data_efficiency",
    title="Data efficiency against the source",
    measure="mean return over the last tenth of the episodes, as a share of the optimum",
    protocol=(
        "Laskin et al. 2022. Q-learning is distilled, which knows nothing but rewards; in the last two rooms "
        "it starts from optimistic values, without which it is slower by far."
    ),
    agents=tuple(
        agent
        for name, (recipe, changes, at, _) in ROOMS.items()
        for agent in (
            Agent(f"AD, {name}", recipe, changes, at),
            Agent(f"Q-learning, {name}", recipe, changes, plays="source"),
        )
    ),
    relative=True,
    remarks=ratios,
    levels=SHARES,
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=3, episodes=300),
        "paper": Scale(seeds=5, episodes=1000, rollouts=4, changes=("train.updates=5000",)),
    },
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
