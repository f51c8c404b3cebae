"""Dark Room: learning in context, against expert distillation, the sources and what is possible.

    python scripts/reproduce_dark_room.py --scale cpu

Laskin et al. 2022: after 1000 episodes 14.11 of 16.54, expert distillation 0.74, the source 0.77.
"""

from __future__ import annotations

from reproducing import A2C, FEW, GPU, PAPER, POSTERIOR, RANDOM, TINY, Agent, Figure, Scale, reproduce

# What posterior sampling needs few episodes for is in every window whole.
BEST = (
    "collect.source=posterior-sampling",
    'collect.settings={"resample": "refuted"}',
    *("collect.num_episodes=30", "collect.learners_per_task=32"),
    *("model.context_length=200", "windows.episode_stride=1"),
    *("train.updates=800", "train.batch_size=16", "train.learning_rate=3e-3"),
)
FAITHFUL = (*A2C, *PAPER, "model.context_length=80")
SIZES = {
    "tiny": (*TINY, "collect.num_episodes=10"),
    "paper": ("train.updates=50000", "collect.learners_per_task=31"),
}

FIGURE = Figure(
    name="dark_room",
    title="Dark Room",
    measure="mean return over the last tenth of the episodes",
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
        Agent("AD's source: posterior sampling until refuted", "dark-room", BEST, plays="source"),
        Agent(
            "AD, faithful",
            "dark-room",
            FAITHFUL,
            SIZES,
            scales=GPU,
            paper=14.11,
            goals={"reproduced": 13.4, "beaten": 14.86},
        ),
        Agent(
            "ED, faithful",
            "dark-room",
            (*FAITHFUL, "objective=ed"),
            SIZES,
            scales=GPU,
            paper=0.74,
            goals={"at most": 3},
        ),
        Agent(
            "faithful AD's source: A2C",
            "dark-room",
            A2C,
            FEW,
            "source",
            scales=GPU,
            paper=0.77,
            goals={"at most": 3},
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
