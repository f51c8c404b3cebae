"""What later work reports after 100 episodes, and what ad-hf reaches: Dark Room and Key-to-Door.

    python scripts/reproduce_modern.py --scale cpu

Their protocols differ, in tasks, lengths, sources and sizes: see the page. The numbers are no contest.
"""

from __future__ import annotations

from reproduce_dark_room import BEST
from reproducing import FEW_TASKS, Q_KEY_TO_DOOR, TINY, Agent, Figure, Scale, reproduce

FILTERED = ("windows.improvement_weight=1", "windows.stability_weight=1")
NOISE = ("collect.source=noise", "collect.num_episodes=200", "windows.episode_stride=20")
SHORT = ("family.horizon=40", "family.terminate_at_door=true", "family.num_test=64")

FIGURE = Figure(
    name="modern",
    title="Beside later work, after 100 episodes",
    measure="mean return over episodes 91 to 100, as a share of the optimum",
    protocol=(
        "What stands under *paper* is what others report, as a share of the optimum. Dark Room, of 16.54: AD "
        "11.2, DICP (Son et al. 2025) 14.1, and 16.3 with learning history filtering (Chen et al. 2025); "
        "AD-eps (Zisman et al. 2024) 16.30 after 250 episodes on 16 goals. Key-to-Door, of 2, with 40 steps "
        "and ending at the door: AD from tabular Q-learning 1.98, CQL 2.00, AD-eps 1.82."
    ),
    agents=(
        Agent("Dark Room, AD from posterior sampling", "dark-room", BEST, paper=0.985),
        Agent("Dark Room, AD from Q-learning", "dark-room", paper=0.677),
        Agent("Dark Room, AD from Q-learning, filtered", "dark-room", FILTERED, paper=0.985),
        Agent("Dark Room, AD from noise (AD-eps)", "dark-room", NOISE, paper=0.985),
        Agent(
            "Key-to-Door, AD from Q-learning",
            "dark-key-to-door",
            (*Q_KEY_TO_DOOR, *SHORT),
            {"tiny": FEW_TASKS, "cpu": ("train.updates=4000",)},
            paper=0.99,
        ),
        Agent(
            "Key-to-Door, AD from posterior sampling",
            "dark-key-to-door",
            SHORT,
            {"tiny": FEW_TASKS, "cpu": ("train.updates=2000",)},
            paper=0.99,
        ),
    ),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=3, episodes=100),
        "paper": Scale(seeds=5, episodes=100, rollouts=8, changes=("train.updates=5000",)),
    },
    relative=True,
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
