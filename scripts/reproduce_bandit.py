"""The Adversarial Bandit: 100 pulls of ten arms, where other arms pay than in training.

    python scripts/reproduce_bandit.py --scale cpu

Laskin et al. 2022: from random play (0) to UCB (1) AD earns .98 where odd arms pay, as in training,
.83 where even ones do, and .87 where all may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from reproducing import FEW_TASKS, GPU, PAPER, RANDOM, REAL, Agent, Figure, Scale, reproduce

SPLITS = {"odd": "test", "even": "even", "uniform": "uniform"}
AD = {  # split -> the paper's, reproduced, beaten
    "odd": (0.98, {"reproduced": 0.95, "beaten": 1.0}),
    "even": (0.83, {"reproduced": 0.75, "beaten": 0.95}),
    "uniform": (0.87, {"reproduced": 0.8, "beaten": 0.95}),
}
ED = {"odd": 0.48, "even": -0.47, "uniform": 0.01}
FAITHFUL = (*PAPER, "model.context_length=100")
SIZES = {
    "cpu": ("train.updates=600", "train.batch_size=32", "train.learning_rate=1e-3"),
    "paper": ("train.updates=50000",),
}
LONGER = dict.fromkeys(REAL, ("train.updates=4000",))
ED_SIZES = {"cpu": ("train.updates=300",)}  # its loss is as low as it gets
GREEDY = ("collect.source=epsilon-greedy", 'collect.settings={"epsilon_start": 0.0}')
RENAMED = ("windows.rename_actions=true",)
OPTIMAL = ("collect.source=noise", 'collect.settings={"epsilon_start": 0.0}')
THOMPSON = ("collect.source=thompson",)


def summarise(returns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean reward of a pull, from that of random play (0) to that of UCB (1).

    What counts is the distance to UCB on the same bandit: the luck of bandits is in no interval.
    """
    numbers = {}
    for label, values in returns.items():
        split = label.rpartition(", ")[2]
        random, ucb = (returns[f"{name}, {split}"].mean(axis=-1) for name in ("random", "UCB"))
        numbers[label] = 1 + (values.mean(axis=-1) - ucb) / (ucb.mean() - random.mean())
    return numbers


def on(split: str) -> tuple[Agent, ...]:
    """Every agent on one kind of bandit; a model is trained once, where odd arms pay."""

    def agent(
        series: str, changes: tuple[str, ...] = (), at: Mapping[str, tuple[str, ...]] = {}, **more: Any
    ) -> Agent:
        changes = (*changes, f"evaluate.split={SPLITS[split]}")
        return Agent(f"{series}, {split}", "adversarial-bandit", changes, at, series=series, x=split, **more)

    paper, goals = AD[split]
    return (
        agent("AD", (), LONGER, chosen=True, paper=paper, goals=goals),
        agent("AD, arms renamed", RENAMED, LONGER, chosen=True, paper=paper, goals=goals),
        agent("ED", ("objective=ed",), ED_SIZES, paper=ED[split]),
        agent("AD, faithful", FAITHFUL, SIZES, paper=paper, goals=goals),
        agent("ED, faithful", (*FAITHFUL, "objective=ed"), SIZES, scales=GPU, paper=ED[split]),
        agent("UCB", plays="source"),
        agent("greedy by Beta", GREEDY, plays="source"),
        agent("Thompson sampling", THOMPSON, plays="source"),
        agent("random", RANDOM, plays="source"),
        agent("optimum", OPTIMAL, plays="source"),
    )


FIGURE = Figure(
    name="bandit",
    title="Adversarial Bandit",
    measure="reward over 100 pulls, from random play (0) to UCB (1)",
    points="arms that pay",
    protocol=(
        "Laskin et al. 2022. Bandits are drawn by formula G; UCB, the source of all models, is tuned (its "
        "exploration is .03)."
    ),
    agents=(*on("odd"), *on("even"), *on("uniform")),
    summarise=summarise,
    has_optimum=False,
    scales={
        "tiny": Scale(seeds=1, episodes=40, changes=(*FEW_TASKS, "collect.num_episodes=100")),
        "cpu": Scale(seeds=3, episodes=100, rollouts=4),
        "paper": Scale(seeds=5, episodes=100, rollouts=32),
    },
    candidates={
        "temperature 1": (),
        "temperature 0.7": ("evaluate.temperature=0.7",),
        "temperature 0.4": ("evaluate.temperature=0.4",),
    },
    trial={"cpu": ("train.updates=1000",)},
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
