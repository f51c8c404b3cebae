"""Dark Room Hard: one cell of 289 that pays once an episode.

    python scripts/reproduce_dark_room_hard.py --scale cpu

Laskin et al. 2022: after 1000 episodes 0.678 of 1, expert distillation 0.066, the source 0.089.
"""

from __future__ import annotations

from reproducing import (
    A2C,
    PAPER,
    POSTERIOR,
    Q_HARD,
    RANDOM,
    SOURCE,
    TINY,
    Agent,
    Figure,
    Scale,
    faithful,
    reproduce,
)

FAITHFUL = (
    *(*A2C, *PAPER, "model.context_length=80"),
    *("windows.token_mask=0.5", "model.label_smoothing=0.2", "model.decoder.attention_dropout=0"),
)
SIZES = {"paper": ("train.updates=50000", "collect.learners_per_task=9")}
# In the last tenth of AD's histories one learner in twenty still searches, and ED would learn that from it.
EXPERTS = ("objective=ed", "collect.num_episodes=200")
ED = {"cpu": ("train.updates=1000",)}  # its loss is as low as it gets

FIGURE = Figure(
    name="dark_room_hard",
    title="Dark Room Hard",
    protocol="Laskin et al. 2022, after 1000 episodes; which goals they held out is not known.",
    agents=(
        Agent(
            "AD",
            "dark-room-hard",
            chosen=True,
            paper=0.678,
            goals={"reproduced": 0.63, "beaten": 0.73, "strong": 0.95},
        ),
        Agent("ED", "dark-room-hard", EXPERTS, ED, chosen=True, paper=0.066),
        Agent(SOURCE, "dark-room-hard", plays="source"),
        *faithful(
            "dark-room-hard",
            FAITHFUL,
            SIZES,
            (0.678, 0.066, 0.089),
            ({"reproduced": 0.63, "beaten": 0.73}, {}, {}),
        ),
        Agent("Q-learning", "dark-room-hard", Q_HARD, plays="source"),
        Agent("posterior sampling", "dark-room-hard", POSTERIOR, plays="source"),
        Agent("random", "dark-room-hard", RANDOM, plays="source"),
    ),
    levels=(0.5, 0.8, 0.9, 0.95),
    scales={
        "tiny": Scale(seeds=1, episodes=2, changes=TINY),
        "cpu": Scale(seeds=3, episodes=300),
        "paper": Scale(seeds=5, episodes=1000, rollouts=4),
    },
    candidates={
        "context of 200": ("model.context_length=200", "train.batch_size=16", "evaluate.temperature=null"),
        "context of 400": ("model.context_length=400", "train.batch_size=8", "evaluate.temperature=null"),
        "context of 400, temperature 0.7": (
            *("model.context_length=400", "train.batch_size=8"),
            "evaluate.temperature=0.7",
        ),
    },
    trial={"cpu": ("train.updates=1000",)},
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
