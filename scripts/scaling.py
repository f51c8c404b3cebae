"""The scaling law, on paper and by measurement: what collect, train and generate cost when everything grows.

Each cost is measured at several sizes, of the tasks, the context, the model or the processes, and a power law
is fitted to it. Its exponent stands beside that of the operations counted on paper at the same sizes
(`scaling_laws.py` derives them). Then a run of the size of XLand-100B is predicted: 28,876 tasks, 100 G
transitions, 25 M parameters, 8 GPUs; each line says what it is extrapolated from. Costs are CPU seconds, and
where processes share the work seconds on the wall. Every round measures all sizes in turn.

    python scripts/scaling.py [--quick] [--json FILE] [--write-readme]
    python scripts/scaling.py --context 4096 --passes 2 --mfu 0.3 --bytes-per-observation 147

It takes ten minutes on two cores that have nothing else to do. --quick takes a minute, for sizes at
which what does not grow, to begin above all, hides much of the laws.
"""

from __future__ import annotations

from benchmarking import markdown, parser, print_table, rounds, short, write_readme  # isort: skip

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from shutil import rmtree

import torch
from benchmark_training import step
from handwritten_decoder import CONTEXT, HEADS, INNER, LAYERS, SIZE, WIDTH, benchmark_model, product
from scaling_laws import (
    Fit,
    Machine,
    Quantity,
    Run,
    exponent,
    fit,
    generate_flops,
    matrix_parameters,
    measured_storage,
    predict,
    training_flops,
)

from ad_hf.collection import CollectSettings, collect_dataset
from ad_hf.dataset import load_histories
from ad_hf.evaluation import history_prompt
from ad_hf.histories import Histories
from ad_hf.tasks import TaskFamily, load_task_family, make_vec
from ad_hf.training import LOG
from ad_hf.windows import WindowSettings, window_batches

FAMILY = load_task_family("dark-room")
TASKS = (*FAMILY["train"], *FAMILY["test"])
LEARNERS, LOCKSTEP = 48, 480  # per task, and side by side
SHARED = 8  # lockstep runs of a collection that processes share
HORIZON, ACTIONS = 20, 5
CUT = 12_800  # windows, in batches of 64
TRAINED = 2560  # transitions in an update
PLAYED = 64  # environments
HEAD = ("cost", "against", "from", "to", "cost there", "exponent", "95 % interval", "on paper")
QUANTITY_HEAD = ("what", "how much", "measured, or extrapolated from")


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Args:
        repeats: rounds of all sizes, after one to warm up.
        tasks: that are collected, with the fewest episodes.
        episodes: that are collected, on the fewest tasks.
        processes: that share the work.
        environments: that a model plays side by side.
        trained: contexts of training, which divide `TRAINED`.
        played: contexts of generate, multiples of two episodes.
        widths: of models, with `LAYERS` layers.
        layers: of models of width `WIDTH`.
        launches: collections by each number of processes.
        trainings: by each number of processes.
        updates: of such a training, logged ten times.
    """

    repeats: int = 4
    tasks: tuple[int, ...] = (10, 20, 40, 80)
    episodes: tuple[int, ...] = (75, 150, 300, 600)
    processes: tuple[int, ...] = (1, 2)
    environments: tuple[int, ...] = (16, 64, 256)
    trained: tuple[int, ...] = (32, 64, 128, 256, 512)
    played: tuple[int, ...] = (40, 80, 160, 320)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    layers: tuple[int, ...] = (2, 4, 8, 16)
    launches: int = 3
    trainings: int = 3
    updates: int = 60


QUICK = Sizes(
    repeats=2,
    tasks=(5, 10, 20),
    episodes=(20, 40),
    environments=(16, 32),
    trained=(32, 64),
    played=(40, 80),
    widths=(32, 64),
    layers=(1, 2),
    launches=2,
    trainings=1,
    updates=10,
)


@dataclass(frozen=True)
class Law:
    """A cost at several sizes.

    Args:
        cost: what it is of.
        unit: of the cost.
        against: what grows.
        sizes: of that.
        costs: at each size, as often as it was measured.
        paper: the cost at each size in theory, in any unit.
    """

    cost: str
    unit: str
    against: str
    sizes: list[float]
    costs: list[list[float]]
    paper: list[float]

    @property
    def fit(self) -> Fit:
        """The power law of the measurements."""
        return fit(self.sizes, self.costs)

    @property
    def exponent_on_paper(self) -> float:
        """The exponent of the theory between the same sizes."""
        return exponent(self.sizes, self.paper)

    @property
    def last(self) -> float:
        """The median cost at the last size."""
        return statistics.median(self.costs[-1])

    def cells(self) -> tuple[str, ...]:
        """What stands under each name of `HEAD`."""
        found = self.fit
        return (
            *(self.cost, self.against, short(self.sizes[0]), short(self.sizes[-1])),
            *(f"{short(self.last)} {self.unit}", f"{found.exponent:z.2f}"),
            *(f"{found.low:z.2f} to {found.high:z.2f}", f"{self.exponent_on_paper:z.2f}"),
        )


@dataclass(frozen=True)
class Axis:
    """A law to be measured.

    Args:
        cost: what it is of.
        unit: of the cost.
        against: what grows.
        points: each a size, what to run, which returns the units of work it did, and their cost on paper.
    """

    cost: str
    unit: str
    against: str
    points: Sequence[tuple[float, Callable[[], int], float]]


def main() -> None:
    """Measure, predict, print."""
    arguments = command_line()
    sizes = QUICK if arguments.quick else Sizes()
    run = Run(**{field.name: getattr(arguments, field.name) for field in fields(Run)})
    with tempfile.TemporaryDirectory() as folder:
        laws, quantities, machine = measure(Path(folder), sizes)
    quantities += predict(run, machine)
    tables = [
        [HEAD, *(law.cells() for law in laws)],
        [QUANTITY_HEAD, *((q.name, f"{short(q.value)} {q.unit}".strip(), q.basis) for q in quantities)],
    ]
    for table in tables:
        print_table(table)
        print()
    if arguments.json:
        fitted = [
            asdict(law) | {"fit": asdict(law.fit), "exponent_on_paper": law.exponent_on_paper} for law in laws
        ]
        results = {"run": asdict(run), "laws": fitted, "quantities": [asdict(q) for q in quantities]}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.write_readme:
        write_readme("scaling", "scaling.py", [*markdown(tables[0]), "", *markdown(tables[1])])


def command_line() -> argparse.Namespace:
    """The arguments; those of the run to be predicted have the names and defaults of `Run`."""
    command = parser(__doc__)
    command.add_argument("--quick", action="store_true", help="smaller sizes, in a minute")
    command.add_argument("--write-readme", action="store_true", help="put both tables into README.md")
    predicted = command.add_argument_group("the run to be predicted")
    for field in fields(Run):
        name = f"--{field.name.replace('_', '-')}"
        predicted.add_argument(name, type=type(field.default), default=field.default, help="%(default)s")
    return command.parse_args()


def measure(folder: Path, sizes: Sizes) -> tuple[list[Law], list[Quantity], Machine]:
    """All laws, the rates that a prediction stands on, as lines of the table and as what `predict` takes."""
    print("collecting", flush=True)
    collected = collect_laws(folder, sizes)
    dataset = folder / f"episodes-{sizes.episodes[-1]}"
    histories = loaded(dataset)
    storage = measured_storage(sorted(dataset.glob("*/*.parquet")), histories)
    per_observation = histories.observation[0].nbytes
    transitions = sizes.tasks[0] * LEARNERS * sizes.episodes[-1] * HORIZON
    collect = transitions / named(collected, "collect", "episodes").last
    print("reading", flush=True)
    read = read_laws(folder, sizes)
    windows = 1 / named(read, "cut windows", "tasks").last
    print("training", flush=True)
    trained, rates = train_laws(histories, sizes)
    print("playing", flush=True)
    played, played_rates = generate_laws(histories, sizes)
    print("with several processes", flush=True)
    shared, left_out = process_laws(folder, sizes)

    largest = LAYERS, sizes.widths[-1]
    parameters = matrix_parameters(*largest)
    flops = training_flops(parameters, *largest, CONTEXT)
    train = {
        "float32": flops / named(trained, "train", "N by width").last,
        "bfloat16": flops * rates["train, bfloat16"],
    }
    base = matrix_parameters(LAYERS, WIDTH), LAYERS, WIDTH, CONTEXT
    steps = 1 / named(played, "generate", "environments").last
    generate = steps * generate_flops(*base)
    share = generate / played_rates["product, float32"]
    quantities = [
        *(Quantity(f"product of {SIZE}^2, {t}", rates[f"product, {t}"], "FLOP/s", "measured") for t in train),
        Quantity("collect to Parquet, one core", collect, "transitions/s", "measured"),
        Quantity("on disk", storage.disk(per_observation), "bytes/transition", "measured"),
        Quantity("on disk, of a byte of observations", storage.zstd, "bytes", "measured"),
        Quantity("in memory", storage.memory(per_observation), "bytes/transition", "measured"),
        Quantity(f"windows of {CONTEXT}, one core", windows, "windows/s", "measured"),
        *(
            Quantity(
                f"train, {t}, N = {short(parameters)}",
                train[t],
                "FLOP/s",
                f"measured, {train[t] / rates[f'product, {t}']:.0%} of the product (MFU)",
            )
            for t in train
        ),
        Quantity(
            f"generate, {sizes.environments[-1]} environments, N = {short(base[0])}",
            steps,
            "steps/s",
            f"measured, {share:.0%} of the product",
        ),
        left_out,
    ]
    machine = Machine(collect, windows * CONTEXT, train["bfloat16"], generate, storage)
    return [*collected, *read, *trained, *played, *shared], quantities, machine


def measured_axes(
    axes: Sequence[Axis],
    repeats: int,
    beside: Mapping[str, Callable[[], int]] | None = None,
) -> tuple[list[Law], dict[str, float]]:
    """The laws, and the median rates of what is measured beside them in the same rounds."""
    names = [[f"{axis.cost}, {axis.against}, {size}" for size, _, _ in axis.points] for axis in axes]
    sides = dict(beside or {})
    for axis, labels in zip(axes, names, strict=True):
        sides |= {label: run for label, (_, run, _) in zip(labels, axis.points, strict=True)}
    rates = rounds(sides, repeats)
    laws = []
    for axis, labels in zip(axes, names, strict=True):
        sizes, _, paper = zip(*axis.points, strict=True)
        costs = [[1 / rate for rate in rates[label]] for label in labels]
        laws.append(Law(axis.cost, axis.unit, axis.against, list(sizes), costs, list(paper)))
    return laws, {name: statistics.median(rates[name]) for name in beside or {}}


def named(laws: Sequence[Law], cost: str, against: str) -> Law:
    """The law of a cost against something."""
    return next(law for law in laws if (law.cost, law.against) == (cost, against))


def collecting(folder: Path, tasks: int, episodes: int) -> Callable[[], int]:
    """Collect the histories of some tasks into a folder, afresh."""
    family = TaskFamily(FAMILY.name, {"train": TASKS[:tasks]})
    settings = CollectSettings(num_episodes=episodes, learners_per_task=LEARNERS, lockstep=LOCKSTEP)

    def run() -> int:
        rmtree(folder, ignore_errors=True)
        collect_dataset(folder, family, settings)
        return 1

    return run


def loaded(folder: Path) -> Histories:
    """The histories in a folder, as training takes them."""
    return load_histories(str(folder), FAMILY.name, expert_actions=False)


def collect_laws(folder: Path, sizes: Sizes) -> list[Law]:
    """Collecting more tasks, and more episodes of each."""
    few, first = sizes.tasks[0], sizes.episodes[0]
    by_tasks = [(n, collecting(folder / f"tasks-{n}", n, first), n) for n in sizes.tasks]
    by_episodes = [(n, collecting(folder / f"episodes-{n}", few, n), n) for n in sizes.episodes]
    laws, _ = measured_axes(
        [Axis("collect", "CPU s", "tasks", by_tasks), Axis("collect", "CPU s", "episodes", by_episodes)],
        sizes.repeats,
    )
    return laws


def read_laws(folder: Path, sizes: Sizes) -> list[Law]:
    """What more tasks take on disk, and to read and cut them."""
    folders = {n: folder / f"tasks-{n}" for n in sizes.tasks}

    def reading(path: Path) -> Callable[[], int]:
        def run() -> int:
            loaded(path)
            return 1

        return run

    def cutting(path: Path) -> Callable[[], int]:
        batches = window_batches(loaded(path), WindowSettings(), 64, CONTEXT, ACTIONS, seed=0)
        return lambda: sum(len(batch["labels"]) for batch in itertools.islice(batches, CUT // 64))

    by_tasks = [(n, reading(path), n) for n, path in folders.items()]
    windows = [(n, cutting(path), 1.0) for n, path in folders.items()]
    axes = [Axis("read", "CPU s", "tasks", by_tasks), Axis("cut windows", "CPU s/window", "tasks", windows)]
    written = [[float(sum(file.stat().st_size for file in path.glob("*/*")))] for path in folders.values()]
    disk = Law("on disk", "bytes", "tasks", list(folders), written, list(folders))
    return [disk, *measured_axes(axes, sizes.repeats)[0]]


def train_laws(histories: Histories, sizes: Sizes) -> tuple[list[Law], dict[str, float]]:
    """Updates of models with other contexts, widths and depths, and what the machine can do at best."""

    def training(
        context: int, width: int, layers: int, dtype: torch.dtype = torch.float32
    ) -> Callable[[], int]:
        model = benchmark_model(context, width, layers)
        batch = next(
            window_batches(histories, WindowSettings(), TRAINED // context, context, ACTIONS, seed=0)
        )
        return step(model, lambda batch: model(**batch).loss, batch, dtype)

    def axis(against: str, models: Sequence[tuple[int, int, int]]) -> Axis:
        points = []
        for context, width, layers in models:
            N = matrix_parameters(layers, width)
            size = context if against == "context" else N
            paper = training_flops(N, layers, width, context)
            points.append((size, training(context, width, layers), paper))
        return Axis("train", "CPU s/transition", against, points)

    axes = [
        axis("context", [(context, WIDTH, LAYERS) for context in sizes.trained]),
        axis("N by width", [(CONTEXT, width, LAYERS) for width in sizes.widths]),
        axis("N by depth", [(CONTEXT, WIDTH, layers) for layers in sizes.layers]),
    ]
    largest = training(CONTEXT, sizes.widths[-1], LAYERS, torch.bfloat16)
    beside = {
        "train, bfloat16": largest,
        "product, float32": product(torch.float32),
        "product, bfloat16": product(torch.bfloat16),
    }
    return measured_axes(axes, sizes.repeats, beside)


def generate_laws(histories: Histories, sizes: Sizes) -> tuple[list[Law], dict[str, float]]:
    """Steps in more environments, and of models with other contexts, widths and depths.

    They begin with half a context of history, as if it had just been re-encoded, and go on until it is full.
    """

    def playing(environments: int, context: int, width: int, layers: int) -> Callable[[], int]:
        model = benchmark_model(context, width, layers).eval()
        envs = make_vec(list(itertools.islice(itertools.cycle(TASKS), environments)))
        prompt = history_prompt(histories, 0, context // 2)

        def play() -> int:
            episodes = context // 2 // HORIZON
            return model.generate(envs, prompt=prompt, num_episodes=episodes, seed=0).num_steps

        return play

    def axis(against: str, models: Sequence[tuple[int, int, int, int]]) -> Axis:
        points = []
        for environments, context, width, layers in models:
            N = matrix_parameters(layers, width)
            size = {"environments": environments, "context": context}.get(against, N)
            paper = generate_flops(N, layers, width, context)
            points.append((size, playing(environments, context, width, layers), paper))
        return Axis("generate", "CPU s/step", against, points)

    axes = [
        axis("environments", [(number, CONTEXT, WIDTH, LAYERS) for number in sizes.environments]),
        axis("context", [(PLAYED, context, WIDTH, LAYERS) for context in sizes.played]),
        axis("N by width", [(PLAYED, CONTEXT, width, LAYERS) for width in sizes.widths]),
        axis("N by depth", [(PLAYED, CONTEXT, WIDTH, layers) for layers in sizes.layers]),
    ]
    return measured_axes(axes, sizes.repeats, {"product, float32": product(torch.float32)})


def process_laws(folder: Path, sizes: Sizes) -> tuple[list[Law], Quantity]:
    """Seconds on the wall of processes that share the work, and what is left out of them.

    That is what more processes do not shorten: of a collection their start and the card, which one of them
    writes; of training all up to the first tenth.
    """
    collect: dict[float, list[float]] = {n: [] for n in sizes.processes}
    train: dict[float, list[float]] = {n: [] for n in sizes.processes}
    left_out = []
    for launch, n in itertools.product(range(sizes.launches), sizes.processes):
        cost, rest = shared_collection(folder / "shared", sizes.tasks[-1], sizes.episodes[-1], n)
        collect[n].append(cost)
        left_out += [rest] if n == sizes.processes[-1] else []
        if launch < sizes.trainings:
            output = folder / f"model-{n}-{launch}"
            train[n] += launched(folder / f"episodes-{sizes.episodes[0]}", output, n, sizes.updates)
    laws = [
        Law(
            cost, "s/transition", "processes", list(seconds), list(seconds.values()), [1 / n for n in seconds]
        )
        for cost, seconds in (("collect", collect), ("train", train))
    ]
    name = f"collect, {sizes.processes[-1]} processes, start and card"
    return laws, Quantity(name, statistics.median(left_out), "s", "measured, not in the exponent")


def shared_collection(folder: Path, tasks: int, episodes: int, processes: int) -> tuple[float, float]:
    """Collect by several processes: seconds per transition while all are at work, and those of all else."""
    rmtree(folder, ignore_errors=True)
    family = TaskFamily(FAMILY.name, {"train": TASKS[:tasks]})
    settings = CollectSettings(
        num_episodes=episodes, learners_per_task=LEARNERS, lockstep=tasks * LEARNERS // SHARED
    )
    moments: list[float] = []  # before the first lockstep run, after each, and at the end
    collect_dataset(
        folder, family, settings, lambda done, total: moments.append(time.perf_counter()), processes
    )
    began, *finished, ended = moments
    run = (finished[-1] - finished[processes - 1]) / (SHARED - processes)
    return run / (settings.lockstep * episodes * HORIZON), ended - began - SHARED * run


def launched(dataset: Path, output: Path, processes: int, updates: int) -> list[float]:
    """Train the benchmarks' model by `accelerate launch`; seconds per transition, line by line of the log."""
    decoder = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
    }
    changes = {
        "model.context_length": CONTEXT,
        "model.decoder": decoder,
        "train.batch_size": TRAINED // CONTEXT,
        "train.updates": updates,
        "train.log_every": updates // 10,
        "train.mixed_precision": "no",
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", f"--num_processes={processes}"]
    command += ["--multi_gpu"] if processes > 1 else []  # with ACCELERATE_USE_CPU that is several processes
    command += ["--main_process_port=0", "-m", "ad_hf", "train", FAMILY.name]
    command += ["--dataset", str(dataset), "--output", str(output)]
    for name, value in changes.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training with {processes} processes failed:\n{done.stderr[-3000:]}")
    lines = map(json.loads, (output / LOG).read_text().splitlines()[1:])
    return [1 / line["transitions_per_second"] for line in lines]


if __name__ == "__main__":
    main()
