"""Prompts: models that are shown a policy of some skill, in Dark Room.

    python scripts/reproduce_prompting.py --scale cpu

Laskin et al. 2022: AD improves on every prompt (13.6 from a policy at 5 % of the optimum, 16.5 from one at
95 %), expert distillation stays where the prompt is (1.7 and 16.6).
"""

from __future__ import annotations

from reproduce_dark_room import BEST
from reproduce_dark_room import FIGURE as DARK_ROOM
from reproducing import ALL, REAL, TINY, Agent, Figure, Scale, reproduce

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
AD = (13.6, 15.9, 16.2, 16.45, 16.5)
ED = (1.7, 6.6, 11.4, 13.9, 16.6)
OPTIMUM = 16.5

FIGURE = Figure(
    name="prompting",
    title="Prompts of some skill, Dark Room",
    points="return of the policy in the prompt, as a share of the optimum",
    protocol=(
        "Laskin et al. 2022, after 25,000 steps. The prompt fills half of the context with a policy that "
        "earns that share: the optimal one behind noise. The models are those of the figure for Dark Room."
    ),
    agents=(
        *(
            Agent(
                f"AD, from {share:.0%}",
                "dark-room",
                BEST,
                chosen=True,
                prompt=share,
                scales=ALL if share == 0.5 else REAL,
                series="AD",
                x=share,
                paper=paper,
                goals={"reproduced": 0.95 * paper, "strong": 16.2},
            )
            for share, paper in zip(SHARES, AD, strict=True)
        ),
        *(
            Agent(
                f"ED, from {share:.0%}",
                "dark-room",
                (*BEST, "objective=ed"),
                chosen=True,
                prompt=share,
                scales=ALL if share == 0.5 else REAL,
                series="ED",
                x=share,
                paper=paper,
                goals={"at most": share * OPTIMUM + 3.5},
            )
            for share, paper in zip(SHARES, ED, strict=True)
        ),
    ),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=5, episodes=100),
        "paper": Scale(seeds=5, episodes=1250, rollouts=4),
    },
    candidates=DARK_ROOM.candidates,
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
