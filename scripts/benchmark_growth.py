"""Growth: what more of everything costs, on one core: steps of `generate`, transitions collected, histories.

Plays a small model for 100,000 steps and compares the last tenth with the first, in time and in peak memory;
collects tabular Q-learning in Dark Room to Parquet, in lockstep runs of one size, so that more transitions
are more runs; and cuts windows from more and more histories, the same ones again and again. A ratio of 1 is
flat: what a step, a transition or a batch costs does not depend on how many there are.

    python scripts/benchmark_growth.py
    python scripts/benchmark_growth.py --steps 1000000 --collect 1e5 1e8
"""

from __future__ import annotations

from benchmarking import Row, finish, interleaved, parser

# isort: split
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.histories import EPISODES as PER_EPISODE
from ad_hf.histories import STEPS, Histories, collect
from ad_hf.models import ADConfig, ADModel
from ad_hf.tasks import load_task_family, make_vec
from ad_hf.windows import WindowSettings, window_batches

HORIZON = 20  # steps of an episode
NUM_ENVS, W = 4, 40  # that play, transitions in the context
BLOCK = 500  # steps between two looks at the clock, many times W / 2
LOCKSTEP, EPISODES = 162, 32  # two learners on each task in a run, which is 1e5 transitions
B, L, NUM_ACTIONS, BATCHES = 64, 1000, 5, 8  # windows, transitions in each, batches in a repeat


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--steps", type=int, default=100_000, help="of generate")
    command.add_argument("--collect", type=float, nargs="*", default=[1e5, 1e6, 1e7], metavar="TRANSITIONS")
    command.add_argument("--windows", type=float, nargs="*", default=[1e6, 1e7, 1e8], metavar="TRANSITIONS")
    command.add_argument(
        "--repeats", type=int, default=2, help="of collections; windows are 10 times as many"
    )
    arguments = command.parse_args()
    # Peaks of memory only ever rise, so what needs most comes last.
    rows = generate_rows(arguments.steps)
    rows += collect_rows(arguments.collect, arguments.repeats)
    rows += window_rows(arguments.windows, 10 * arguments.repeats)
    finish(rows, arguments)


def peak() -> float:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Watched(VectorWrapper):
    """Looks at the clock and at the memory every `BLOCK` steps."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.num_steps = 0
        self.seen: list[tuple[float, float]] = []  # CPU seconds and peaks

    def step(self, actions: np.ndarray) -> Any:
        if self.num_steps % BLOCK == 0:
            self.seen.append((time.process_time(), peak()))
        self.num_steps += 1
        return self.env.step(actions)


def generate_rows(num_steps: int) -> list[Row]:
    model = ADModel(ADConfig(context_length=W, decoder={"num_hidden_layers": 2, "hidden_size": 32})).eval()
    envs = Watched(make_vec(load_task_family("dark-room")["test"][:NUM_ENVS]))
    model.generate(envs, num_episodes=num_steps // HORIZON, seed=0)
    seconds, peaks = np.array(envs.seen[1:]).T  # without the first block, in which the context fills
    tenth = max(len(seconds) // 10, 2)
    first, last = (BLOCK / np.median(np.diff(part)) for part in (seconds[:tenth], seconds[-tenth:]))
    path = f"generate, last tenth of {num_steps} steps"
    return [
        Row(path, "steps/s", last, ("first tenth", first)),
        Row(path, "bytes at most", peaks[-1], ("first tenth", peaks[tenth - 1])),
    ]


def collect_rows(sizes: list[float], repeats: int) -> list[Row]:
    family = load_task_family("dark-room")
    num_tasks = sum(len(tasks) for tasks in family.splits.values())

    def collecting(size: float) -> Callable[[], int]:
        learners = max(1, round(size / (num_tasks * EPISODES * HORIZON)))
        settings = CollectSettings(num_episodes=EPISODES, learners_per_task=learners, lockstep=LOCKSTEP)

        def run() -> int:
            with tempfile.TemporaryDirectory() as folder:
                collect_dataset(Path(folder), family, settings)
            return num_tasks * learners * EPISODES * HORIZON

        return run

    return compared("collect", {size: collecting(size) for size in sizes}, repeats)


def window_rows(sizes: list[float], repeats: int) -> list[Row]:
    base = collect(load_task_family("dark-room")["train"][:8], "q-learning", num_episodes=625)  # 1e5 steps
    grown = {size: tiled(base, max(1, round(size / len(base.action)))) for size in sizes}
    before = peak()

    def taking(histories: Histories, settings: WindowSettings) -> Callable[[], int]:
        batches = window_batches(histories, settings, B, L, NUM_ACTIONS, seed=0)
        return lambda: sum(B * L for _ in itertools.islice(batches, BATCHES))

    rows = []
    for name, settings in (
        ("stride 1", WindowSettings()),
        ("stride 40", WindowSettings(episode_stride=40)),
        ("the improving more often", WindowSettings(improvement_weight=1.0)),
    ):
        sides = {size: taking(histories, settings) for size, histories in grown.items()}
        rows += compared(f"windows, {name}", sides, repeats)
    return [*rows, Row("windows, all of these", "bytes at most", peak(), ("histories alone", before))]


def tiled(base: Histories, times: int) -> Histories:
    """The same histories again and again."""
    flat: dict[str, Any] = {}
    for name in (*STEPS, *PER_EPISODE):
        values = getattr(base, name)
        flat[name] = None if values is None else np.concatenate([values] * times)
    return Histories(
        **flat,
        episode_offsets=np.arange(times * base.num_episodes + 1) * HORIZON,
        history_offsets=np.arange(times * len(base) + 1) * (base.num_episodes // len(base)),
        tasks=base.tasks * times,
    )


def compared(path: str, sides: dict[float, Callable[[], int]], repeats: int) -> list[Row]:
    """Each size beside the smallest."""
    rates = interleaved({f"{size:.0e}": run for size, run in sorted(sides.items())}, repeats)
    (smallest, rate), *larger = rates.items()
    return [Row(f"{path}, of {name}", "transitions/s", r, (f"of {smallest}", rate)) for name, r in larger]


if __name__ == "__main__":
    main()
