"""Learning histories as a Hugging Face dataset: a folder of Parquet shards with a card.

One row is one episode; rows are sorted by history, then by episode. Each shard is written whole or not at
all, so an interrupted collection goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
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
        most = len(learners)
        if most >= SHARDS and settings.lockstep > 1:
            most -= most % SHARDS
        num_shards = min(SHARDS * math.ceil(len(learners) / (SHARDS * largest)), most)
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
        ValueError: if the folder holds anything else than this collection, or a part of it.
    """
    found = _found_collection(output, family, describe_collection(family, settings))
    finished = found.get("complete", False)
    runs = plan_shards(output, family, settings)
    total = sum(len(run) for run in runs)
    (output / family.name).mkdir(parents=True, exist_ok=True)
    if not found:
        write_card(output, family, settings, finished=False)
    for number, run in enumerate(runs):
        on_progress(sum(shard.path.exists() for r in runs for shard in r), total)
        if all(shard.path.exists() for shard in run):
            continue
        finished = False
        seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
        tasks = [task for shard in run for task in shard.tasks]
        histories = collect(tasks, settings.source, settings.num_episodes, seed, settings.settings)
        first = 0
        for shard in run:
            write_shard(shard, histories, first)
            first += len(shard.tasks)
    if not finished:  # a card that was, and may have been edited since, stays as it is
        write_card(output, family, settings, finished=True)
    on_progress(total, total)


def _found_collection(output: Path, family: TaskFamily, about: dict[str, Any]) -> dict[str, Any]:
    """What the card in a folder says of this collection; empty where there is none yet.

    Raises:
        ValueError: if the folder holds anything else.
    """
    card = output / "README.md"
    if not card.exists():
        if any((output / family.name).glob("*.parquet")):
            raise ValueError(
                f"{output} holds Parquet files, but no README.md that says how they were collected: "
                "choose another --output"
            )
        return {}
    found = hub.read_card(card).get("ad_hf") or {}
    configs = found.get("configs") or {}
    if configs.keys() != {family.name}:
        holds = f"{' and '.join(configs)} histories" if configs else "a README.md that names no histories"
        raise ValueError(f"{output} holds {holds}: choose another --output for {family.name}")
    other = configs[family.name]
    changed = sorted(key for key in about.keys() | other.keys() if about.get(key) != other.get(key))
    if changed:
        raise ValueError(
            f"{output} holds {family.name} histories with another {', '.join(changed)} "
            f"({', '.join(str(other.get(key)) for key in changed)}): choose another --output"
        )
    return found


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
        ValueError: if there is no such dataset, config or split, if it is damaged or not complete, or if it
            holds something else than learning histories.
    """
    if Path(path).is_dir():
        return _histories(_read_shards(Path(path) / config, split), path)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(f"{path} is neither a folder nor the id of a dataset on the Hub: check --dataset")
    try:
        loaded = datasets.load_dataset(path, config, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"there is no folder {path}, and the split {split!r} of {config!r} "
            f"cannot be loaded from the Hub: {reason}"
        ) from error
    _check_columns(loaded.column_names, path)
    return _histories(loaded.with_format("arrow")[:], path)


def _read_shards(folder: Path, split: str) -> pa.Table:
    """The rows of a split in a local folder.

    Not through `datasets`: its cache knows a local folder by its last name alone, and would return the
    histories of another runs/*/histories.
    """
    everything = sorted(folder.glob("*.parquet"))
    if not everything:
        raise ValueError(
            f"{folder} holds no Parquet files: collect histories into it with `ad-hf collect` first"
        )
    shards = [shard for shard in everything if shard.name.startswith(f"{split}-")]
    if not shards:
        known = sorted({shard.name.partition("-")[0] for shard in everything})
        raise ValueError(f"{folder} has no split {split!r}: choose one of {', '.join(known)}")
    totals = {shard.stem.partition("-of-")[2] for shard in shards}
    if totals != {f"{len(shards):05d}"}:
        raise ValueError(
            f"{folder} holds {len(shards)} {split} shards, but by their names there are "
            f"{' or '.join(sorted(totals))}: run the same `ad-hf collect` again to complete it"
        )
    tables: list[pa.Table] = []
    for shard in shards:
        try:
            file = pq.ParquetFile(shard)
            _check_columns(file.schema_arrow.names, str(shard))
            tables.append(file.read().select(list(COLUMNS)))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{shard} ({shard.stat().st_size} bytes) is truncated, damaged or not Parquet: "
                "remove it and run the same `ad-hf collect` again"
            ) from error
        if tables[-1].schema != tables[0].schema:
            types = zip(tables[0].schema, tables[-1].schema, strict=True)
            changed = [f"{ours.name} ({theirs.type})" for ours, theirs in types if ours != theirs]
            raise ValueError(f"{shard} has other types than {shards[0].name}: {', '.join(changed)}")
    return pa.concat_tables(tables)


def _check_columns(names: list[str], place: str) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"{place} does not hold learning histories: it lacks the columns {', '.join(missing)}"
        )


def _histories(table: pa.Table, place: str) -> Histories:
    """Rows as flat arrays, once they have proved to be learning histories.

    Args:
        table: the columns of `COLUMNS`.
        place: where it was found, for messages.
    """
    if not len(table):
        raise ValueError(f"{place} holds no episodes")
    columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
    flat = {name: _flat(columns[name], f"{name} in {place}") for name in ("observation", "action", "reward")}
    rows = {
        name: _values(columns[name], f"{name} in {place}")
        for name in ("history_id", "episode", "final_observation", "terminated", "truncated")
    }
    lengths, *others = (columns[name].value_lengths().to_numpy() for name in flat)
    if lengths.min() < 1 or any((other != lengths).any() for other in others):
        raise ValueError(f"{place} holds episodes without steps, or with more of one column than of another")
    history_id, episode = rows["history_id"], rows["episode"]
    begins = np.flatnonzero(np.diff(history_id, prepend=history_id[0] - 1))
    continues = np.delete(np.arange(len(episode)), begins)
    if (
        len(np.unique(history_id)) != len(begins)
        or (episode[begins] != 0).any()
        or (episode[continues] <= episode[continues - 1]).any()
    ):
        raise ValueError(
            f"{place} is not sorted by history and episode, so its histories cannot be told apart"
        )
    return Histories(
        observation=flat["observation"],
        action=flat["action"],
        reward=flat["reward"].astype(np.float32, copy=False),
        final_observation=rows["final_observation"],
        terminated=rows["terminated"].astype(bool, copy=False),
        truncated=rows["truncated"].astype(bool, copy=False),
        episode_offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
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
                # The cache of `datasets` knows a local folder by its last name and this entry.
                "description": f"{settings.source} {_fingerprint(output / family.name, about)}",
                "default": True,
                "data_files": [
                    {"split": split, "path": f"{family.name}/{split}-*.parquet"} for split in family.splits
                ],
            }
        ],
        "ad_hf": {
            "format_version": FORMAT_VERSION,
            "complete": finished,
            "configs": {family.name: about},
        },
    }
    num_tasks = sum(len(tasks) for tasks in family.splits.values())
    hub.write_card(
        output / "README.md",
        "dataset_card.md",
        metadata,
        family=family.name,
        path=output.resolve().name,
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
    options = dict(family.options)
    flags = {
        "--source": settings.source,
        "--output": output.resolve().name,
        "--num-episodes": settings.num_episodes,
        "--learners-per-task": settings.learners_per_task,
        "--seed": settings.seed,
        "--fold": options.pop("fold", None),
    }
    changes = {f"family.{key}": value for key, value in options.items() if value is not None}
    changes["collect.lockstep"] = settings.lockstep
    # All of them: the defaults of recipes and sources may change.
    changes["collect.settings"] = resolve_settings(settings.source, settings.settings)
    words = [str(word) for flag in flags.items() if flag[1] is not None for word in flag]
    for key, value in changes.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(["ad-hf", "collect", family.name, *words])


def _fingerprint(folder: Path, about: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that name the shards in a folder and how they were collected."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for shard in sorted(folder.glob("*.parquet")):
        digest.update(shard.read_bytes())
    return digest.hexdigest()[:16]


def _curve(folder: Path, split: str) -> np.ndarray:
    """Mean return at 0, 10, ... 100 % of a split's histories, each over a twentieth of a history."""
    columns = ["episode", "episode_return"]
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(shard).read(columns=columns) for shard in shards])
    episode, value = (table.column(name).to_numpy() for name in columns)
    last = int(episode.max())
    half = max(last / 40, 0.5)  # short histories: the nearest episode or two
    return np.array([value[np.abs(episode - tenth * last / 10) <= half].mean() for tenth in range(11)])


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    """Steps (S, ...) as one list per episode."""
    return pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), _fixed(values))


def _fixed(values: np.ndarray) -> pa.Array:
    """An array (rows, ...) as a column of numbers or of fixed-size lists."""
    array = pa.array(values.ravel())
    for size in values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _flat(column: pa.ListArray, name: str) -> np.ndarray:
    """The steps (S, ...) of a column with one list per episode."""
    if not pa.types.is_list(column.type):
        raise ValueError(f"{name} has to be one list per episode, but is {column.type}")
    if column.null_count:
        raise ValueError(f"{name} holds missing episodes")
    return _values(column.flatten(), name)


def _values(column: pa.Array, name: str) -> np.ndarray:
    """The inverse of `_fixed`; refuses what is not whole or not numbers."""
    shape = []
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(len(column), 1))
        if column.null_count or (column.value_lengths().to_numpy() != shape[-1]).any():
            raise ValueError(f"{name} holds arrays of different sizes")
        column = inner
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"{name} has to hold numbers, but holds {kind}")
    values = column.to_numpy(zero_copy_only=False)
    if column.null_count or not np.isfinite(values).all():
        raise ValueError(f"{name} holds missing values, NaN or infinity")
    return values.reshape(-1, *shape)
