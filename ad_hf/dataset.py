"""Learning histories as a Hugging Face dataset: a folder of Parquet shards with a card.

One row is one episode; rows are sorted by history, then by episode. Each shard is written whole or not at
all, so an interrupted collection goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ad_hf import hub
from ad_hf.histories import Histories, collect
from ad_hf.sources import resolve_settings
from ad_hf.tasks import Task, TaskFamily

FORMAT_VERSION = "1.0"
SHARDS = 8  # the number of shards is a multiple of it, so that up to 8 nodes can share a split by shards

COLUMNS = {  # name -> what it holds; T = steps of the episode
    "history_id": "the learner whose history this is; rows of one history are adjacent",
    "task_id": "hash of `task`",
    "task": "environment id and constructor arguments, as JSON",
    "stream": "which of the task's learners this is",
    "episode": "number of the episode in its history, from 0",
    "learner_step": "environment steps the learner had taken before the episode",
    "observation": "T observations, each what an action was taken on",
    "action": "T actions",
    "reward": "T rewards",
    "final_observation": "what the last action led to",
    "terminated": "the episode ended in a terminal state",
    "truncated": "the episode was cut off, by a time limit for example",
    "episode_return": "sum of the rewards",
}


@dataclass(frozen=True)
class CollectSettings:
    """How learning histories are collected.

    Args:
        source: the algorithm, a name in `ad_hf.sources.SOURCES`.
        num_episodes: episodes per history.
        learners_per_task: histories per task, each of a learner with its own random numbers.
        lockstep: learners that learn side by side in one process; more are faster and need more memory.
        seed: of everything random.
        settings: of the source, where they differ from its defaults.
    """

    source: str = "q-learning"
    num_episodes: int = 600
    learners_per_task: int = 6
    lockstep: int = 512
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_episodes", "learners_per_task", "lockstep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        resolve_settings(self.source, self.settings)


@dataclass(frozen=True)
class Shard:
    """One file to write: the histories of some learners, one each."""

    path: Path
    history_ids: tuple[int, ...]
    tasks: tuple[Task, ...]
    streams: tuple[int, ...]


def plan_shards(output: Path, family: TaskFamily, settings: CollectSettings) -> list[list[Shard]]:
    """Every shard of a collection, in the lockstep runs that fill them.

    The plan follows from its arguments alone, so a resumed collection makes the same one.
    """
    shards, next_id = [], 0
    for split in family.splits:
        learners = [(task, stream) for task in family[split] for stream in range(settings.learners_per_task)]
        largest = max(settings.lockstep // SHARDS, 1)
        num_shards = min(SHARDS * math.ceil(len(learners) / (SHARDS * largest)), len(learners))
        for number, part in enumerate(np.array_split(np.arange(len(learners)), num_shards)):
            path = output / family.name / f"{split}-{number:05d}-of-{num_shards:05d}.parquet"
            tasks, streams = zip(*(learners[i] for i in part), strict=True)
            shards.append(Shard(path, tuple((next_id + part).tolist()), tasks, streams))
        next_id += len(learners)
    runs: list[list[Shard]] = [[]]
    for shard in shards:
        if runs[-1] and sum(len(s.tasks) for s in runs[-1]) + len(shard.tasks) > settings.lockstep:
            runs.append([])
        runs[-1].append(shard)
    return runs


def collect_dataset(
    output: Path,
    family: TaskFamily,
    settings: CollectSettings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Collect a family's learning histories into a folder; interrupted, it goes on where it stopped.

    Args:
        output: the folder; a dataset with other settings in it is refused.
        family: tasks of all splits are collected, each split into shards of its own.
        settings: what to collect.
        on_progress: called with the shards written and their number, before each lockstep run and at the end.

    Raises:
        ValueError: if the folder holds a dataset of this name that was collected with other settings.
    """
    about = describe_collection(family, settings)
    card = output / "README.md"
    if card.exists():
        found = hub.read_card(card).get("ad_hf", {}).get("configs", {}).get(family.name)
        if found is not None and found != about:
            changed = sorted(key for key in about.keys() | found.keys() if about.get(key) != found.get(key))
            raise ValueError(
                f"{output} holds {family.name} histories with another {', '.join(changed)} "
                f"({', '.join(str(found.get(key)) for key in changed)}): choose another --output"
            )
    runs = plan_shards(output, family, settings)
    total = sum(len(run) for run in runs)
    (output / family.name).mkdir(parents=True, exist_ok=True)
    if not card.exists():
        write_card(output, family, settings, finished=False)
    for number, run in enumerate(runs):
        on_progress(sum(shard.path.exists() for r in runs for shard in r), total)
        if all(shard.path.exists() for shard in run):
            continue
        seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
        tasks = [task for shard in run for task in shard.tasks]
        histories = collect(tasks, settings.source, settings.num_episodes, seed, settings.settings)
        first = 0
        for shard in run:
            write_shard(shard, histories, first)
            first += len(shard.tasks)
    write_card(output, family, settings, finished=True)
    on_progress(total, total)


def describe_collection(family: TaskFamily, settings: CollectSettings) -> dict[str, Any]:
    """What makes two collections the same, as JSON: the tasks, the source with its settings, the seeds."""
    return {
        "task_family": {"name": family.name, **family.options},
        "source": settings.source,
        "settings": resolve_settings(settings.source, settings.settings),
        "num_episodes": settings.num_episodes,
        "learners_per_task": settings.learners_per_task,
        "lockstep": settings.lockstep,
        "seed": settings.seed,
    }


def write_shard(shard: Shard, histories: Histories, first: int) -> None:
    """Write some histories as one Parquet file: whole, or not at all.

    Args:
        shard: the file and the learners in it.
        histories: those of a lockstep run.
        first: which of them is the shard's first.
    """
    episodes = slice(*histories.history_offsets[[first, first + len(shard.tasks)]])
    offsets = histories.episode_offsets[episodes.start : episodes.stop + 1]
    steps = slice(offsets[0], offsets[-1])
    counts = np.diff(histories.history_offsets)[first : first + len(shard.tasks)]
    which = np.repeat(np.arange(len(counts)), counts)  # the history of each row
    number = np.concatenate([np.arange(count) for count in counts])
    history_starts = np.repeat(
        histories.episode_offsets[histories.history_offsets[first : first + len(counts)]], counts
    )
    table = pa.table(
        {
            "history_id": pa.array(np.array(shard.history_ids, dtype=np.int32)[which]),
            "task_id": pa.array([task.id for task in shard.tasks]).take(which),
            "task": pa.array([task.json for task in shard.tasks]).take(which),
            "stream": pa.array(np.array(shard.streams, dtype=np.int32)[which]),
            "episode": pa.array(number.astype(np.int32)),
            "learner_step": pa.array(offsets[:-1] - history_starts),
            "observation": _lists(histories.observation[steps], offsets),
            "action": _lists(histories.action[steps], offsets),
            "reward": _lists(histories.reward[steps], offsets),
            "final_observation": _fixed(histories.final_observation[episodes]),
            "terminated": pa.array(histories.terminated[episodes]),
            "truncated": pa.array(histories.truncated[episodes]),
            "episode_return": pa.array(histories.episode_returns()[episodes]),
        }
    )
    partial = shard.path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=10_000)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(shard.path)
    finally:
        partial.unlink(missing_ok=True)


def load_histories(path: str, config: str, split: str = "train") -> Histories:
    """Load a split of a dataset of learning histories into flat arrays.

    Args:
        path: a folder, or the id of a dataset on the Hub.
        config: the task family, for example "dark-room".
        split: "train" or "test".

    Raises:
        ValueError: if there is no such dataset, config or split, if a shard is damaged, or if it holds
            something else than learning histories.
    """
    if Path(path).is_dir():
        _check_shards(Path(path) / config)
    elif path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(f"{path} is neither a folder nor the id of a dataset on the Hub: check --dataset")
    try:
        loaded = datasets.load_dataset(path, config, split=split)
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot load the split {split!r} of {config!r} from {path}: {reason}") from error
    missing = [name for name in COLUMNS if name not in loaded.column_names]
    if missing:
        raise ValueError(
            f"{path} does not hold learning histories: it lacks the columns {', '.join(missing)}"
        )
    table = loaded.with_format("arrow")[:]
    columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
    history_id = columns["history_id"].to_numpy()
    begins = np.flatnonzero(np.diff(history_id, prepend=history_id[0] - 1))
    if len(np.unique(history_id)) != len(begins) or (columns["episode"].to_numpy()[begins] != 0).any():
        raise ValueError(
            f"{path} is not sorted by history and episode, so its histories cannot be told apart"
        )
    return Histories(
        observation=_flat(columns["observation"]),
        action=_flat(columns["action"]),
        reward=_flat(columns["reward"]),
        final_observation=_values(columns["final_observation"]),
        terminated=columns["terminated"].to_numpy(zero_copy_only=False),
        truncated=columns["truncated"].to_numpy(zero_copy_only=False),
        episode_offsets=columns["action"].offsets.to_numpy().astype(np.int64)
        - columns["action"].offsets[0].as_py(),
        history_offsets=np.append(begins, len(history_id)),
        tasks=tuple(Task.from_json(columns["task"][int(row)].as_py()) for row in begins),
    )


def write_card(output: Path, family: TaskFamily, settings: CollectSettings, finished: bool) -> None:
    """Write the folder's README.md: what `datasets` needs to load it, and what a reader needs to trust it."""
    about = describe_collection(family, settings)
    envs = family["train"][0].make()
    curves = {split: _curve(output / family.name, split) for split in family.splits} if finished else {}
    rows = [(f"{tenth * 10} %", *(f"{curve[tenth]:.3f}" for curve in curves.values())) for tenth in range(11)]
    metadata = {
        "license": "apache-2.0",
        "task_categories": ["reinforcement-learning"],
        "tags": ["algorithm-distillation", "in-context-reinforcement-learning", "learning-histories"],
        "configs": [
            {
                "config_name": family.name,
                "default": True,
                "data_files": [
                    {"split": split, "path": f"{family.name}/{split}-*.parquet"} for split in family.splits
                ],
            }
        ],
        "ad_hf": {"format_version": FORMAT_VERSION, "configs": {family.name: about}},
    }
    num_tasks = sum(len(tasks) for tasks in family.splits.values())
    hub.write_card(
        output / "README.md",
        "dataset_card.md",
        metadata,
        family=family.name,
        path=output.name,
        num_histories=num_tasks * settings.learners_per_task,
        num_tasks=num_tasks,
        columns=COLUMNS,
        env_id=family["train"][0].env_id,
        observation_space=envs.observation_space,
        action_space=envs.action_space,
        command=collect_command(output, family, settings),
        format_version=FORMAT_VERSION,
        status="complete" if finished else "being collected; run the command below again to go on",
        curves=curves,
        rows=rows if finished else [],
        **{key: about[key] for key in ("source", "settings", "num_episodes", "learners_per_task", "seed")},
    )


def collect_command(output: Path, family: TaskFamily, settings: CollectSettings) -> str:
    """The shell command that makes this dataset again."""
    flags = {
        "--source": settings.source,
        "--output": output.name,
        "--num-episodes": settings.num_episodes,
        "--learners-per-task": settings.learners_per_task,
        "--seed": settings.seed,
        "--fold": family.options.get("fold"),
    }
    parts = [f"{flag} {value}" for flag, value in flags.items() if value is not None]
    changes = {"lockstep": settings.lockstep} | {f"settings.{k}": v for k, v in settings.settings.items()}
    parts += [f"--set collect.{key}={json.dumps(value)}" for key, value in changes.items()]
    return " ".join(["ad-hf collect", family.name, *parts])


def _curve(folder: Path, split: str) -> np.ndarray:
    """Mean return at 0, 10, ... 100 % of a split's histories, each over a twentieth of a history."""
    columns = ["episode", "episode_return"]
    table = pa.concat_tables(
        [pq.read_table(path, columns=columns) for path in sorted(folder.glob(f"{split}-*"))]
    )
    episode, value = (table.column(name).to_numpy() for name in columns)
    progress = episode / max(episode.max(), 1)
    return np.array([value[np.abs(progress - tenth / 10) <= 0.025].mean() for tenth in range(11)])


def _check_shards(folder: Path) -> None:
    """Name what is wrong with a local dataset before the loader trips over it."""
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise ValueError(
            f"{folder} holds no Parquet files: collect histories into it with `ad-hf collect` first"
        )
    for shard in shards:
        try:
            pq.read_metadata(shard)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{shard} ({shard.stat().st_size} bytes) is truncated or not Parquet: "
                "remove it and run the same `ad-hf collect` again"
            ) from error


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    """Steps (S, ...) as one list per episode."""
    return pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), _fixed(values))


def _fixed(values: np.ndarray) -> pa.Array:
    """An array (rows, ...) as a column of numbers or of fixed-size lists."""
    array = pa.array(values.ravel())
    for size in values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _flat(column: pa.ListArray) -> np.ndarray:
    """The steps (S, ...) of a column with one list per episode."""
    return _values(column.flatten())


def _values(column: pa.Array) -> np.ndarray:
    """The inverse of `_fixed`."""
    shape = []
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(len(column), 1))
        column = inner
    return column.to_numpy(zero_copy_only=False).reshape(-1, *shape)
