"""Scaling on paper: how a cost grows by theory, how fast it grew in measurements, and what a large run costs.

N = parameters in matrices that tokens are multiplied by, l = layers, D = width, L = context in tokens. A
transition is one token, and an operation is an addition or a multiplication.

**Collect** is linear in tasks and episodes: every learner takes the same steps, whatever the others do.

**Train.** A token is multiplied by each of the N entries once and the products are added up: 2 N operations.
Attention has no parameters; in each layer a query of D numbers is multiplied by L keys, and L values are
averaged: 2 L D each, 4 l D L in all. The backward pass makes two products for each of the forward pass, one
for the inputs and one for the weights or the other factor. So a transition costs 3 (2 N + 4 l D L)
= 6 N + 12 l D L. The masked half of the attention is counted, because matrix products compute it; kernels
that leave it out need half of the second term. A layer of GPT-NeoX has 4 D^2 entries in its attention and
8 D^2 in its MLP, so N = 12 l D^2 (embeddings are looked up, and the head is small), and the second term is
L / 6 D of the first: cost per transition goes as N^1, and as L^0 while L is far below 6 D, as L^1 far above.

**Generate.** From one re-encoding to the next there are W / 2 steps. The first encodes W / 2 + 1 tokens, each
other one, together W: two tokens a step, each with the W keys of the cache, or 2 (2 N + 4 l D W).

**Processes** share windows: time goes as 1 / n, and each update adds a sum of N float32 gradients. A ring of
n processes sends every gradient n - 1 times in parts of 1 / n, once to add and once to spread.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ad_hf.histories import EPISODES, STEPS, Histories


@dataclass(frozen=True)
class Fit:
    """A power law, cost = factor * size ^ exponent.

    Args:
        exponent: by least squares between the logarithms.
        low: where its 95 % interval begins, by Student's t with the residuals' spread.
        high: where that ends.
        factor: the cost at size 1.
    """

    exponent: float
    low: float
    high: float
    factor: float


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of the line through the logarithms; sizes may occur more than once."""
    x, y = np.log(sizes), np.log(costs)
    x -= x.mean()
    return float(x @ y / (x @ x))


def fit(sizes: Sequence[float], costs: Sequence[Sequence[float]]) -> Fit:
    """Fit a power law to the repeated measurements at each size.

    Raises:
        ValueError: if there are fewer than three measurements or two sizes: they leave no spread to judge by.
    """
    counts = [len(repeats) for repeats in costs]
    x, y = np.repeat(np.asarray(sizes, dtype=float), counts), np.concatenate(costs)
    if len(set(sizes)) < 2 or len(x) < 3:
        raise ValueError(
            f"{len(x)} measurements at {len(set(sizes))} sizes make no interval: take 3 at 2 or more"
        )
    slope = exponent(x, y)
    level = np.log(y).mean() - slope * np.log(x).mean()
    residuals = np.log(y) - level - slope * np.log(x)
    freedom = len(x) - 2
    spread = math.sqrt(residuals @ residuals / freedom / (len(x) * np.log(x).var()))
    half = student_quantile(freedom) * spread
    return Fit(slope, slope - half, slope + half, math.exp(level))


@functools.cache
def student_quantile(freedom: int, probability: float = 0.975) -> float:
    """Where Student's t reaches a probability: with v degrees it is sqrt(v) tan(a), if a has cos(a)^(v-1)."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    middles = (angles[1:] + angles[:-1]) / 2
    reached = np.cumsum(np.cos(middles) ** (freedom - 1))
    angle = np.interp(probability, reached / reached[-1], angles[1:])
    return float(math.sqrt(freedom) * math.tan(angle))


def matrix_parameters(layers: int, width: int) -> int:
    """N of a GPT-NeoX whose MLP is four times as wide."""
    return 12 * layers * width**2


def forward_flops(parameters: float, layers: int, width: int, context: int) -> float:
    """Operations on one token, with `context` keys."""
    return 2 * parameters + 4 * layers * width * context


def training_flops(parameters: float, layers: int, width: int, context: int) -> float:
    """Operations to train on one transition."""
    return 3 * forward_flops(parameters, layers, width, context)


def generate_flops(parameters: float, layers: int, width: int, context: int) -> float:
    """Operations of one step in one environment, once the context has been full."""
    return 2 * forward_flops(parameters, layers, width, context)


def all_reduce_bytes(parameters: float, processes: int) -> float:
    """What each process sends in an update."""
    return 2 * (processes - 1) / processes * 4 * parameters


@dataclass(frozen=True)
class Storage:
    """Bytes per transition, also where observations have another size b: a multiple of b, and the rest.

    Args:
        observation_share: observations kept per transition; above 1, because an episode ends with one more.
        zstd: bytes of observations on disk for each of theirs in memory.
        disk_rest: bytes on disk that are not of observations, which an episode's columns share.
        memory_rest: the same for the flat arrays in memory.
    """

    observation_share: float
    zstd: float
    disk_rest: float
    memory_rest: float

    def disk(self, bytes_per_observation: float) -> float:
        """Bytes of zstd Parquet per transition."""
        return self.zstd * self.observation_share * bytes_per_observation + self.disk_rest

    def memory(self, bytes_per_observation: float) -> float:
        """Bytes of flat arrays per transition."""
        return self.observation_share * bytes_per_observation + self.memory_rest


def measured_storage(shards: Sequence[Path], histories: Histories) -> Storage:
    """What was written and what it takes in memory.

    Args:
        shards: the Parquet files of a split.
        histories: what was loaded from them.
    """
    steps = len(histories.action)
    observed = histories.observation.nbytes + histories.final_observation.nbytes
    names = (*STEPS, *EPISODES, "episode_offsets", "history_offsets", "begins")
    arrays = [getattr(histories, name) for name in names]
    held = sum(values.nbytes for values in arrays if values is not None)
    compressed = 0
    for shard in shards:
        metadata = pq.read_metadata(shard)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            compressed += sum(
                column.total_compressed_size
                for column in columns
                if column.path_in_schema.partition(".")[0] in ("observation", "final_observation")
            )
    written = sum(shard.stat().st_size for shard in shards)
    return Storage(
        observation_share=1 + histories.num_episodes / steps,
        zstd=compressed / observed,
        disk_rest=(written - compressed) / steps,
        memory_rest=(held - observed) / steps,
    )


@dataclass(frozen=True)
class Machine:
    """What was measured, per core of this machine.

    Args:
        collect: transitions per second, learnt, recorded and written as Parquet.
        windows: transitions per second that are cut into windows.
        train: floating-point operations per second in training, in bfloat16.
        generate: the same while playing, in float32.
        storage: bytes per transition.
    """

    collect: float
    windows: float
    train: float
    generate: float
    storage: Storage


@dataclass(frozen=True)
class Run:
    """A large run; by default one of the size of XLand-100B (Nikulin et al. 2024, arXiv 2406.08973).

    Args:
        tasks: with one history each.
        transitions: in all histories together.
        bytes_per_observation: 50 are 5 x 5 cells of two bytes.
        layers: of the model.
        width: of the model; 8 layers of 512 have 25 M parameters.
        context: in transitions.
        passes: over the data.
        gpus: that train.
        peak: operations per second of one; an H100 makes 989e12 in bfloat16, dense.
        mfu: share of that which training reaches. An assumption: the matrices of a small model keep a large
            GPU waiting.
    """

    tasks: int = 28_876
    transitions: float = 1e11
    bytes_per_observation: float = 50
    layers: int = 8
    width: int = 512
    context: int = 1024
    passes: float = 1
    gpus: int = 8
    peak: float = 989e12
    mfu: float = 0.2


@dataclass(frozen=True)
class Quantity:
    """One line of the table.

    Args:
        name: what it is.
        value: how much.
        unit: of what.
        basis: "measured", or what it was extrapolated from.
    """

    name: str
    value: float
    unit: str
    basis: str


def predict(run: Run, machine: Machine) -> list[Quantity]:
    """What a run costs, each line with what it stands on."""
    shape = run.layers, run.width
    parameters = matrix_parameters(*shape)
    flops = run.passes * run.transitions * training_flops(parameters, *shape, run.context)
    seconds = flops / (run.gpus * run.peak * run.mfu)
    cut = run.passes * run.transitions / machine.windows  # seconds of one core
    disk = machine.storage.disk(run.bytes_per_observation)
    memory = machine.storage.memory(run.bytes_per_observation)
    playing = generate_flops(parameters, *shape, run.context)

    def stored(share: float, rest: float) -> str:
        return f"{share:.2g} b + {rest:.2g} a transition as in Dark Room, b = {run.bytes_per_observation:g}"

    kept = machine.storage.observation_share
    on_disk = stored(kept * machine.storage.zstd, machine.storage.disk_rest)
    in_memory = stored(kept, machine.storage.memory_rest)
    return [
        Quantity(
            "collect",
            run.transitions / machine.collect / 3600,
            "core hours",
            "Q-learning in Dark Room, in NumPy: a lower bound, XLand-100B itself took 50,000 GPU hours",
        ),
        Quantity("on disk", disk * run.transitions, "bytes", on_disk),
        Quantity("in memory", memory * run.transitions, "bytes", in_memory),
        Quantity("in memory, one history", memory * run.transitions / run.tasks, "bytes", "one per task"),
        Quantity("parameters", parameters, "", f"{run.layers} layers of width {run.width}"),
        Quantity("train", flops, "FLOP", f"6 N + 12 l D L, context {run.context}, passes {run.passes:g}"),
        Quantity(
            f"train, {run.gpus} GPUs",
            seconds / 3600,
            "hours",
            f"peak of {run.peak / 1e12:g} TFLOP/s in bfloat16 and MFU of {run.mfu:g}, both assumed",
        ),
        Quantity("train, here", flops / machine.train / 3600, "core hours", "training measured in bfloat16"),
        Quantity("windows for the GPUs", cut / seconds, "cores", "windows measured, as fast as they train"),
        Quantity(
            "gradients sent, per GPU and update",
            all_reduce_bytes(parameters, run.gpus),
            "bytes",
            "2 (n - 1) / n * 4 N",
        ),
        Quantity("generate, one core", machine.generate / playing, "steps/s", "generate measured in float32"),
    ]
