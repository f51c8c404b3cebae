"""Distilling a single stream, of which every tenth episode is kept: Key-to-Door.

    python scripts/reproduce_single_stream.py --scale cpu

Laskin et al. 2022: after 1000 episodes AD 1.82, its source 1.35.
"""

from __future__ import annotations

from reproducing import FEW_TASKS, RANDOM, STREAM, SWEEP, Agent, Figure, Scale, reproduce, sweep_scales

FIGURE = Figure(
    name="single_stream",
    title="A single stream, every tenth episode, Key-to-Door",
    protocol=(
        "Laskin et al. 2022, after 1000 episodes. The source here is tabular Q-learning from optimistic "
        "values, one learner per task, which is faster than A3C: hence fewer episodes. The distance between "
        "two episodes of a window is 10 on average."
    ),
    agents=(
        Agent("AD", "dark-key-to-door", SWEEP, paper=1.82),
        Agent("AD, no episode left out", "dark-key-to-door", (*STREAM, "windows.episode_stride=1")),
        Agent("source: Q-learning", "dark-key-to-door", STREAM, plays="source", paper=1.35),
        Agent("random", "dark-key-to-door", RANDOM, plays="source"),
    ),
    levels=(1.0, 1.6, 1.8),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=FEW_TASKS),
        "cpu": sweep_scales(1000)["cpu"],
        "paper": Scale(seeds=5, episodes=1000, changes=("train.updates=20000",)),
    },
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
