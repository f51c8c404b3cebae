"""How long a context has to be: Key-to-Door with 20 to 200 transitions, of which an episode has 50.

    python scripts/reproduce_context.py --scale cpu

Laskin et al. 2022: .54 with 20 transitions, .64, .88, 1.12, 1.76 with 100, 1.84 with 200.
"""

from __future__ import annotations

from reproducing import ALL, REAL, SWEEP, Agent, Figure, reproduce, sweep_scales

PAPER = {20: 0.54, 30: 0.64, 40: 0.88, 50: 1.12, 100: 1.76, 200: 1.84}
GOALS = {20: {"at most": 0.75}, 50: {"beaten": 1.84}, 100: {"reproduced": 1.7}, 200: {"reproduced": 1.7}}
TRANSITIONS = 3200  # in a batch, whatever the context

FIGURE = Figure(
    name="context",
    title="Length of the context, Key-to-Door",
    points="context, in transitions; an episode has 50",
    protocol="Laskin et al. 2022, after 1000 episodes. Every model is trained on as many transitions.",
    agents=tuple(
        Agent(
            f"AD, {length} transitions",
            "dark-key-to-door",
            (*SWEEP, f"model.context_length={length}", f"train.batch_size={TRANSITIONS // length}"),
            scales=("paper",) if length in (30, 40) else REAL if length in (50, 100) else ALL,
            series="AD",
            x=length,
            paper=paper,
            goals=GOALS.get(length, {}),
        )
        for length, paper in PAPER.items()
    ),
    scales=sweep_scales(3000),
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
