"""Dark Room: learning in context, against expert distillation, the sources and what is possible.

    python scripts/reproduce_dark_room.py --scale cpu

Laskin et al. 2022: after 1000 episodes 14.11 of 16.54, expert distillation 0.74, the source 0.77.
"""

from __future__ import annotations

from reproducing import (
    A2C,
    PAPER,
    POSTERIOR,
    RANDOM,
    REFUTED,
    SOURCE,
    TINY,
    Agent,
    Figure,
    Scale,
    faithful,
    reproduce,
)

# What posterior sampling needs few episodes for is in every window whole.
BEST = (
    *REFUTED,
    *("collect.num_episodes=30", "collect.learners_per_task=32"),
    *("model.context_length=200", "windows.episode_stride=1"),
    *("train.updates=800", "train.batch_size=16", "train.learning_rate=3e-3"),
)
FAITHFUL = (*A2C, *PAPER, "model.context_length=80")
SIZES = {"paper": ("train.updates=50000", "collect.learners_per_task=31")}

FIGURE = Figure(
    name="dark_room",
    title="Dark Room",
    protocol="Laskin et al. 2022, after 1000 episodes; which goals they held out is not known.",
    agents=(
        Agent(
            "AD",
            "dark-room",
            BEST,
            chosen=True,
            paper=14.11,
            goals={"reproduced": 13.4, "beaten": 14.86, "strong": 16.3},
        ),
        Agent("ED", "dark-room", (*BEST, "objective=ed"), chosen=True, paper=0.74, goals={"at most": 3}),
        Agent(SOURCE, "dark-room", BEST, plays="source"),
        *faithful(
            "dark-room",
            FAITHFUL,
            SIZES,
            (14.11, 0.74, 0.77),
            ({"reproduced": 13.4, "beaten": 14.86}, {"at most": 3}, {"at most": 3}),
        ),
        Agent("Q-learning", "dark-room", plays="source"),
        Agent("posterior sampling", "dark-room", POSTERIOR, plays="source"),
        Agent("random", "dark-room", RANDOM, plays="source"),
    ),
    levels=(8.27, 12.7, 14.89, 16.3),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=5, episodes=1000),
        "paper": Scale(seeds=5, episodes=1000, rollouts=16),
    },
    candidates={
        "temperature 1": (),
        "temperature 0.7": ("evaluate.temperature=0.7",),
    },
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
