"""Growth: what more of everything costs, on one core: steps of `generate`, transitions collected, histories.

Plays a small model for 100,000 steps, beside runs that have just begun, because the machine is not always
equally fast, and looks at the peak memory; collects tabular Q-learning in Dark Room to Parquet, in lockstep
runs of one size, so that more transitions are more runs; and cuts windows from more and more histories, the
same ones again and again. A ratio of 1 is flat: what a step, a transition or a batch costs does not depend on
how many there are.

    python scripts/benchmark_growth.py
    python scripts/benchmark_growth.py --steps 1000000 --collect 1e5 1e8
"""

from __future__ import annotations

from benchmarking import Row, finish, interleaved, parser

# isort: split
import itertools
import resource
import statistics
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
BLOCK = 500  # steps that are timed together, many times W / 2
LOCKSTEP, EPISODES = 324, 16  # four learners on each task in a run, which is 1e5 transitions
B, L, NUM_ACTIONS, BATCHES = 64, 1000, 5, 8  # windows, transitions in each, batches in a repeat


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--steps", type=int, default=100_000, help="of generate, 5000 or more")
    command.add_argument("--collect", type=float, nargs="+", default=[1e5, 1e6, 1e7], metavar="TRANSITIONS")
    command.add_argument("--windows", type=float, nargs="+", default=[1e6, 1e7, 1e8], metavar="TRANSITIONS")
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
    """Notes what every `BLOCK` steps take, and now and then what they take a run that has just begun."""

    def __init__(self, env: VectorEnv, fresh_run: Callable[[], Any]) -> None:
        super().__init__(env)
        self.fresh_run = fresh_run
        self.num_steps = 0
        self.began = time.process_time()
        self.seconds: list[float] = []  # of each block
        self.fresh: list[float] = []  # of each fifth, and then of the fresh run
        self.peaks: list[float] = []

    def step(self, actions: np.ndarray) -> Any:
        result = self.env.step(actions)
        self.num_steps += 1
        if self.num_steps % BLOCK == 0:
            ended = time.process_time()
            self.seconds.append(ended - self.began)
            self.peaks.append(peak())
            if len(self.seconds) % 5 == 0:
                self.fresh_run()
                self.fresh.append(time.process_time() - ended)
            self.began = time.process_time()
        return result


def generate_rows(num_steps: int) -> list[Row]:
    model = ADModel(ADConfig(context_length=W, decoder={"num_hidden_layers": 1, "hidden_size": 32})).eval()
    tasks = load_task_family("dark-room")["test"][:NUM_ENVS]

    def play(envs: Any, steps: int) -> None:
        model.generate(envs, num_episodes=steps // HORIZON, seed=0)

    envs = Watched(make_vec(tasks), lambda: play(make_vec(tasks), BLOCK))
    play(envs, num_steps)
    tenth = max(1, len(envs.fresh) // 10)
    path = f"generate, {{}} tenth of {num_steps} steps"

    def row(name: str, played: list[float], fresh: list[float]) -> Row:
        rate, begun = (BLOCK / statistics.median(seconds) for seconds in (played, fresh))
        return Row(path.format(name), "steps/s", rate, ("begun meanwhile", begun))

    return [
        row("first", envs.seconds[: 5 * tenth], envs.fresh[:tenth]),
        row("last", envs.seconds[-5 * tenth :], envs.fresh[-tenth:]),
        Row(
            path.format("last"), "bytes of memory", envs.peaks[-1], ("first tenth", envs.peaks[5 * tenth - 1])
        ),
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

    def taking(histories: Histories, settings: WindowSettings) -> Callable[[], int]:
        batches = window_batches(histories, settings, B, L, NUM_ACTIONS, seed=0)
        return lambda: sum(B * L for _ in itertools.islice(batches, BATCHES))

    rows, alone = [], ("the histories", peak())
    for name, settings in (
        ("stride 1", WindowSettings()),
        ("stride 40", WindowSettings(episode_stride=40)),
        ("the improving more often", WindowSettings(improvement_weight=1.0)),
    ):
        sides = {size: taking(histories, settings) for size, histories in grown.items()}
        rows += compared(f"windows, {name}", sides, repeats)
        rows.append(Row(f"windows, {name}", "bytes of memory", peak(), alone))
    return rows


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
    named = {f"{size:.0e} transitions".replace("+0", ""): run for size, run in sorted(sides.items())}
    (smallest, rate), *larger = interleaved(named, repeats).items()
    return [Row(f"{path}, {name}", "transitions/s", r, (smallest, rate)) for name, r in larger]


if __name__ == "__main__":
    main()
