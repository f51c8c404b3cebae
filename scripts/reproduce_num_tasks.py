"""How many tasks have to be trained on, until others are learnt in context: Key-to-Door.

    python scripts/reproduce_num_tasks.py --scale cpu

Laskin et al. 2022: after 300 episodes .44 from a single task, 1.31 from 303, 1.89 from 2424.
"""

from __future__ import annotations

from reproducing import GPU, REAL, SWEEP, Agent, Figure, reproduce, sweep_scales

PAPER = {
    1: 0.44,
    9: 0.5,
    18: 0.52,
    37: 0.71,
    75: 0.84,
    151: 0.95,
    303: 1.31,
    606: 1.64,
    1212: 1.87,
    2424: 1.89,
}
ON_CPU = (1, 37, 303, 2424)


def learners(tasks: int) -> int:
    """How many on each task: the fewer tasks, the more, up to 32."""
    return min(2424 // tasks, 32)


FIGURE = Figure(
    name="num_tasks",
    title="Number of training tasks, Key-to-Door",
    points="tasks trained on",
    protocol=(
        "Laskin et al. 2022, after 300 episodes. Of 2424 tasks there is one learner each, of fewer as "
        "many as make 2424, but at most 32 of each task."
    ),
    agents=tuple(
        Agent(
            f"AD, {tasks} tasks",
            "dark-key-to-door",
            (*SWEEP, f"family.num_train={tasks}", f"collect.learners_per_task={learners(tasks)}"),
            {"tiny": (f"family.num_train={tasks}",)},
            scales=REAL if tasks in ON_CPU else GPU if tasks == 18 else ("paper",),
            series="AD",
            x=tasks,
            paper=paper,
        )
        for tasks, paper in PAPER.items()
    ),
    scales=sweep_scales(1000),
)

if __name__ == "__main__":
    reproduce(FIGURE, __doc__)
