"""How many transitions may be hidden in training: Key-to-Door.

    python scripts/reproduce_token_mask.py --scale cpu

Laskin et al. 2022: after 300 episodes 1.80 with a tenth hidden, 1.87 with .3, .20 with .9.
"""

from __future__ import annotations

from reproducing import GPU, REAL, SWEEP, Agent, Figure, reproduce, sweep_scales

PAPER = {0.0: None, 0.1: 1.8, 0.3: 1.87, 0.5: 1.86, 0.7: 1.43, 0.9: 0.2}
ON_CPU = (0.0, 0.3, 0.5, 0.9)

FIGURE = Figure(
    name="token_mask",
    title="Hidden transitions, Key-to-Door",
    points="share of the transitions that are hidden in training",
    protocol="Laskin et al. 2022, after 300 episodes.",
    agents=tuple(
        Agent(
            f"AD, {share:g} hidden",
            "dark-key-to-door",
            (*SWEEP, f"windows.token_mask={share}"),
            scales=REAL if share in ON_CPU else GPU,
            series="AD",
            x=share,
            paper=paper,
        )
        for share, paper in PAPER.items()
    ),
    scales=sweep_scales(3000),
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
