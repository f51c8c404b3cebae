"""Label smoothing in Dark Room Hard.

    python scripts/reproduce_label_smoothing.py --scale cpu

Laskin et al. 2022: .25 without, .36 with .1, .68 with .2, .59 with .3.
"""

from __future__ import annotations

from reproducing import ALL, REAL, TINY, Agent, Figure, Scale, reproduce

PAPER = {0.0: 0.25, 0.1: 0.36, 0.2: 0.68, 0.3: 0.59}

FIGURE = Figure(
    name="label_smoothing",
    title="Label smoothing, Dark Room Hard",
    points="label smoothing",
    protocol=(
        "Laskin et al. 2022, after 1000 episodes. There the source hardly explores, and smoothing makes the "
        "model explore for it; here posterior sampling is distilled, which explores by itself."
    ),
    agents=tuple(
        Agent(
            f"AD, smoothing {smoothing:g}",
            "dark-room-hard",
            (
                f"model.label_smoothing={smoothing}",
                "model.context_length=200",
                "train.batch_size=16",
                "evaluate.temperature=null",
            ),
            scales=ALL if smoothing == 0.2 else REAL,
            series="AD",
            x=smoothing,
            paper=paper,
        )
        for smoothing, paper in PAPER.items()
    ),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=3, episodes=100, changes=("train.updates=1000",)),
        "paper": Scale(seeds=5, episodes=1000, changes=("train.updates=20000",)),
    },
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
