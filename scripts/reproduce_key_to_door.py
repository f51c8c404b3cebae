"""Dark Key-to-Door: a key, then a door, from another start in every episode.

    python scripts/reproduce_key_to_door.py --scale cpu

Laskin et al. 2022: after 1000 episodes 1.812 of 2, expert distillation 0.58, the source 0.70.
"""

from __future__ import annotations

from reproducing import (
    A2C,
    FEW_TASKS,
    PAPER,
    POSTERIOR,
    Q_KEY_TO_DOOR,
    RANDOM,
    SOURCE,
    Agent,
    Figure,
    Scale,
    faithful,
    reproduce,
)

FAITHFUL = (*A2C, *PAPER, "collect.learners_per_task=1", "family.num_train=2000", "model.context_length=200")
SIZES = {"paper": ("train.updates=50000",)}
ED = {"cpu": ("train.updates=1000",)}  # its loss is as low as it gets

FIGURE = Figure(
    name="key_to_door",
    title="Dark Key-to-Door",
    protocol=(
        "Laskin et al. 2022, after 1000 episodes; the best of their ablations reach 1.93. Episodes have "
        "50 steps, start anywhere and do not end at the door."
    ),
    agents=(
        Agent(
            "AD",
            "dark-key-to-door",
            chosen=True,
            paper=1.812,
            goals={"reproduced": 1.77, "beaten": 1.93, "strong": 1.98},
        ),
        Agent("ED", "dark-key-to-door", ("objective=ed",), ED, chosen=True, paper=0.58, goals={"at most": 1}),
        Agent(SOURCE, "dark-key-to-door", plays="source"),
        *faithful(
            "dark-key-to-door",
            FAITHFUL,
            SIZES,
            (1.812, 0.58, 0.7),
            ({"reproduced": 1.77, "beaten": 1.93}, {"at most": 1}, {"at most": 0.9}),
        ),
        Agent("Q-learning", "dark-key-to-door", Q_KEY_TO_DOOR, plays="source"),
        Agent("posterior sampling", "dark-key-to-door", POSTERIOR, plays="source"),
        Agent("random", "dark-key-to-door", RANDOM, plays="source"),
    ),
    levels=(1.0, 1.63, 1.8, 1.93),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=FEW_TASKS),
        "cpu": Scale(seeds=3, episodes=100, changes=("family.num_test=128",)),
        "paper": Scale(seeds=5, episodes=1000),
    },
    candidates={
        f"temperature {temperature:g}": (f"evaluate.temperature={temperature:g}",)
        for temperature in (1, 0.7, 0.5)
    },
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
