"""Watermaze from pixels: a platform under water that has to be found, and found again.

    python scripts/reproduce_watermaze.py --scale cpu

Laskin et al. 2022: after 160 episodes 0.839, expert distillation 0.18, the source 0.56.
"""

from __future__ import annotations

from reproducing import FEW_TASKS, POSTERIOR, RANDOM, SOURCE, Agent, Figure, Scale, reproduce

ED = {"cpu": ("train.updates=500",)}  # its loss is as low as it gets

FIGURE = Figure(
    name="watermaze",
    title="Watermaze, from pixels",
    protocol=(
        "Laskin et al. 2022, after 160 episodes. The geometry is DMLab's, its pictures and its physics are "
        "not, so numbers can be near the paper's at best; a step is 0.25 s. Every episode starts in the "
        "centre, facing east at the scale of CPUs."
    ),
    agents=(
        Agent(
            "AD",
            "watermaze",
            chosen=True,
            paper=0.839,
            goals={"reproduced": 0.81, "beaten": 0.87, "strong": 0.97},
        ),
        Agent("ED", "watermaze", ("objective=ed",), ED, chosen=True, paper=0.18, goals={"at most": 0.3}),
        Agent(SOURCE, "watermaze", plays="source"),
        Agent("posterior sampling", "watermaze", POSTERIOR, plays="source"),
        Agent("random", "watermaze", RANDOM, plays="source"),
    ),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=FEW_TASKS),
        "cpu": Scale(seeds=3, episodes=160),
        "paper": Scale(
            seeds=5,
            episodes=160,
            rollouts=8,
            changes=(
                "family.start=center",
                "family.num_train=8192",
                "train.updates=16000",
                "train.batch_size=128",
            ),
        ),
    },
    candidates={
        "temperature 1": ("evaluate.temperature=null",),
        "temperature 0.7": ("evaluate.temperature=0.7",),
        "temperature 0.5": ("evaluate.temperature=0.5",),
    },
    trial={"cpu": ("train.updates=1000", "evaluate.num_episodes=40", "evaluate.rollouts_per_task=1")},
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
