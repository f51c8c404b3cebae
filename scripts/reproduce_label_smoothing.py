"""Label smoothing in Dark Room Hard.

    python scripts/reproduce_label_smoothing.py --scale cpu

Laskin et al. 2022: .25 without, .36 with .1, .68 with .2, .59 with .3.
"""

from __future__ import annotations

from reproducing import ALL, Q_HARD, REAL, TINY, Agent, Figure, Scale, reproduce

PAPER = {0.0: 0.25, 0.1: 0.36, 0.2: 0.68, 0.3: 0.59}
SHORT = ("model.context_length=200", "train.batch_size=16", "evaluate.temperature=null")
FEWER = {"cpu": ("train.updates=800",)}


def smoothed(share: float) -> tuple[Agent, Agent]:
    """What is distilled with some smoothing from either source."""
    label = f"model.label_smoothing={share}"
    return (
        Agent(
            f"AD from posterior sampling, smoothing {share:g}",
            "dark-room-hard",
            (*SHORT, label),
            scales=ALL if share == 0.2 else REAL,
            series="from posterior sampling",
            x=share,
        ),
        Agent(
            f"AD from Q-learning, smoothing {share:g}",
            "dark-room-hard",
            (*SHORT, *Q_HARD, label),
            FEWER,
            scales=REAL,
            series="from Q-learning",
            x=share,
            paper=PAPER[share],
        ),
    )


FIGURE = Figure(
    name="label_smoothing",
    title="Label smoothing, Dark Room Hard",
    points="label smoothing",
    protocol=(
        "Laskin et al. 2022, after 1000 episodes. There A3C is distilled, which hardly explores, and "
        "smoothing makes the model explore for it. Q-learning, too, learns from rewards alone."
    ),
    agents=tuple(agent for share in PAPER for agent in smoothed(share)),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=3, episodes=100, changes=("train.updates=1000",)),
        "paper": Scale(seeds=5, episodes=1000, changes=("train.updates=20000",)),
    },
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
