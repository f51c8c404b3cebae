"""Collection: algorithms learn on every task of a family, and a dataset of their histories is written.

Each shard is written whole or not at all, so an interrupted collection goes on where it stopped.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # comes with accelerate
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import RepoCard

from ad_hf import cards
from ad_hf.dataset import (
    FIXED,
    ROW_GROUP,
    ROW_GROUP_BYTES,
    add_to_card,
    configs_of,
    dataset_info,
    is_complete,
    read_card,
    reading,
)
from ad_hf.folders import claimed, whole_file
from ad_hf.histories import Histories, collect
from ad_hf.sources import resolve_settings
from ad_hf.tasks import Task, TaskFamily, make_vec

logger = logging.getLogger(__name__)

MAX_HISTORIES = 10_000_000  # they are listed in memory, and their numbers are int32
SHARDS = 8  # the number of shards is a multiple of it, so that up to 8 nodes can share a split by shards


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
        expert_actions: keep what the optimal policy would have done, where the environment knows it. DPT is
            trained on that.
    """

    source: str = "q-learning"
    num_episodes: int = 600
    learners_per_task: int = 6
    lockstep: int = 512
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    expert_actions: bool = True

    def __post_init__(self) -> None:
        for name in ("num_episodes", "learners_per_task", "lockstep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}, but must be from 0 to {2**63 - 1}")
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
    num_proc: int = 1,
    part: tuple[int, int] = (0, 1),
) -> bool:
    """Collect a family's learning histories into a folder; interrupted, it goes on where it stopped.

    Any number of processes, on any machines, can collect parts of it, in any order and at the same time.
    Where they share a disk, the last to end writes the card; where they do not, copy their files into one
    folder and collect once more. Either way the folder equals that of a single process.

    Args:
        output: the folder; a dataset with other settings in it is refused.
        family: tasks of all splits are collected, each split into shards of its own.
        settings: what to collect.
        on_progress: called with the shards written and their number, before each lockstep run and at the end.
        num_proc: processes that share the lockstep runs; what they write does not depend on it.
        part: (i, n): collect every n-th lockstep run from the i-th on. No learner is in two parts.

    Returns:
        Whether all shards are in the folder, those of other parts too.

    Raises:
        ValueError: if the folder holds anything else than this collection, or a part of it, or another
            process is collecting the same into it, or a process dies.
    """
    _check_size(family, settings)
    noted = configs_of(read_card(output, str(output))).get(family.name)
    if noted and "expert_actions" not in noted:  # begun when there were none
        settings = replace(settings, expert_actions=False)
    card = _found_card(output, family, describe_collection(family, settings))
    finished = is_complete(card, family.name)
    runs = plan_shards(output, family, settings)
    shards = [shard.path for run in runs for shard in run]
    envs: Any = make_vec(family["train"][:1]).unwrapped
    expert_actions = settings.expert_actions and hasattr(envs, "optimal_actions")
    index, parts = part
    mine = range(index, len(runs), parts)
    if not mine:
        logger.warning(
            "part %d of %d is empty, for there are %d lockstep runs: take fewer parts, or a lower "
            "collect.lockstep",
            *(index + 1, parts, len(runs)),
        )
    with claimed(output / family.name, mine):
        if family.name not in configs_of(card):
            _note(output, family, settings, finished=False)
        pending = [(n, runs[n]) for n in mine if not all(shard.path.exists() for shard in runs[n])]
        work = functools.partial(_collect_run, settings, expert_actions)
        for _ in _share_out(work, pending, min(num_proc, len(pending))):
            on_progress(sum(path.exists() for path in shards), len(shards))
        is_whole = all(path.exists() for path in shards)
        if is_whole and (pending or not finished):
            _note(output, family, settings, finished=True)
    on_progress(sum(path.exists() for path in shards), len(shards))
    return is_whole


def _note(output: Path, family: TaskFamily, settings: CollectSettings, finished: bool) -> None:
    """Write the card, one process after another."""
    with claimed(output, wait=True):
        already = configs_of(read_card(output, str(output))).get(family.name, {})
        if finished or "complete" not in already:
            write_card(output, family, settings, finished)


def _check_size(family: TaskFamily, settings: CollectSettings) -> None:
    """Refuse collections that no machine, or not this one, has the memory for.

    Raises:
        ValueError: if it is one.
    """
    learners = sum(len(tasks) for tasks in family.splits.values()) * settings.learners_per_task
    if learners > MAX_HISTORIES:
        raise ValueError(
            f"learners_per_task is {settings.learners_per_task}, which makes {learners} histories, but "
            f"at most {MAX_HISTORIES} are possible: lower it"
        )
    needed = 32 * min(learners, settings.lockstep) * settings.num_episodes  # bytes of episodes of one step
    if needed > psutil.virtual_memory().available:
        raise ValueError(
            f"num_episodes is {settings.num_episodes}, which takes {needed / 2**30:.0f} GiB at least with "
            f"collect.lockstep={settings.lockstep}: lower one of them"
        )


def _collect_run(settings: CollectSettings, expert_actions: bool, numbered: tuple[int, list[Shard]]) -> None:
    """Collect and write the shards of one lockstep run."""
    number, run = numbered
    seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
    tasks = [task for shard in run for task in shard.tasks]
    histories = collect(
        tasks, settings.source, settings.num_episodes, seed, settings.settings, expert_actions
    )
    first = 0
    for shard in run:
        write_shard(shard, histories, first)
        first += len(shard.tasks)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, in whatever way; the pool would not."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _share_out(work: Callable[[Any], None], pieces: Sequence[Any], num_proc: int) -> Iterator[None]:
    """Do the work on all pieces, in this process or in others; yields before the first and after each.

    Raises:
        ValueError: if a process dies.
    """
    yield
    if num_proc <= 1:
        for piece in pieces:
            work(piece)
            yield
        return
    processes = get_context("spawn")  # a fork would inherit locks of threads that it has not
    others = active_children()
    with ProcessPoolExecutor(num_proc, processes, initializer=_end_with_parent) as pool:
        try:
            # Ctrl-C is left to this process: those that it starts here inherit what is blocked.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                futures = [pool.submit(work, piece) for piece in pieces]
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for done in as_completed(futures):
                done.result()
                yield
        except BaseException as error:  # also when this process is interrupted
            for child in set(active_children()).difference(others):
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ValueError(
                    f"one of {num_proc} processes died, perhaps for want of memory; whole shards are kept: "
                    "run it again with a lower --num-proc or collect.lockstep"
                ) from error
            raise


def _found_card(output: Path, family: TaskFamily, about: dict[str, Any]) -> RepoCard | None:
    """The card in a folder, if it tells of this collection, of others, or is not there yet.

    Raises:
        ValueError: if the folder holds anything else.
    """
    card = read_card(output, str(output))
    if (output / "config.json").is_file():
        raise ValueError(
            f"{output} holds a model (config.json), whose README.md is another: choose another --output"
        )
    if card is None:
        if any((output / family.name).glob("*.parquet")):
            raise ValueError(
                f"{output} holds Parquet files, but no README.md that says how they were collected: "
                "choose another --output"
            )
        return None
    configs = configs_of(card)
    if not configs:
        raise ValueError(
            f"{output} holds a README.md that names no histories: choose another --output for {family.name}"
        )
    other = {"expert_actions": False, **configs.get(family.name, about)}
    if other.get("source") == about["source"] and isinstance(other.get("settings"), dict):
        # Settings that are newer than the card change nothing by default.
        other["settings"] = {**resolve_settings(about["source"], {}), **other["settings"]}
    changed = sorted(key for key in about if about[key] != other.get(key))
    if changed:
        raise ValueError(
            f"{output} holds {family.name} histories with another {', '.join(changed)} "
            f"({', '.join(str(other.get(key)) for key in changed)}): choose another --output"
        )
    return card


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
        "expert_actions": settings.expert_actions,
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
    if histories.expert_action is not None:
        table = table.append_column("expert_action", _lists(histories.expert_action[steps], offsets))
    rows = max(1, min(ROW_GROUP, ROW_GROUP_BYTES * len(table) // table.nbytes))
    with whole_file(shard.path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=rows, write_page_checksum=True)


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    """Steps (S, ...) as one list per episode."""
    return pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), _fixed(values))


def _fixed(values: np.ndarray) -> pa.Array:
    """An array (rows, ...) as a column of numbers or of fixed-size lists."""
    array = pa.array(values.ravel())
    for size in values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def write_card(output: Path, family: TaskFamily, settings: CollectSettings, finished: bool) -> None:
    """Write the folder's README.md: what `datasets` needs to load it, and what a reader needs to trust it.

    The other configs in the folder stay on it, and so does a text that was edited by hand.
    """
    envs = make_vec(family["train"][:1])
    world: Any = envs.unwrapped
    folder, path = output / family.name, output / "README.md"
    theirs = cards.load_card(path) if path.exists() else None
    noted = describe_collection(family, settings)
    if "expert_actions" not in configs_of(theirs).get(family.name, noted):
        del noted["expert_actions"]  # begun when there were none, and to be continued like that again
    entry: dict[str, Any] = {
        "config_name": family.name,
        # The cache of `datasets` knows a local folder by its last name and this entry.
        "description": f"{settings.source} {_fingerprint(folder, noted)}",
        "data_files": [
            {"split": split, "path": f"{family.name}/{split}-*.parquet"} for split in family.splits
        ],
    }
    noted |= {
        "complete": finished,
        "environment": family["train"][0].env_id,
        "observation_space": str(envs.single_observation_space),
        "action_space": str(envs.single_action_space),
        "tasks": {split: len(tasks) for split, tasks in family.splits.items()},
        "command": collect_command(output, family, settings),
    }
    if hasattr(world, "recorded_space"):
        noted["recorded_space"] = str(world.recorded_space)
    metadata: dict[str, Any] = {"configs": [entry], "ad_hf": {"configs": {family.name: noted}}}
    if finished:
        noted["learning_curves"] = {split: _curve(folder, split) for split in family.splits}
        metadata["dataset_info"] = [dataset_info(folder, family.splits)]
    ours = add_to_card(metadata, theirs, output.resolve().name)
    # Format version 1.0 did not notice edits, and what it says of an unfinished collection is over.
    stale = cards.about(theirs).get("complete") is False
    cards.save_card(cards.keep_edits(ours, None if stale else theirs, FIXED), path)


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
    changes["collect.expert_actions"] = settings.expert_actions
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


def _curve(folder: Path, split: str) -> list[float]:
    """Mean return at 0, 10, ... 100 % of a split's histories, each over a twentieth of a history."""
    columns = ["episode", "episode_return"]
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    tables = []
    for shard in shards:
        with reading(shard):
            tables.append(pq.ParquetFile(shard).read(columns=columns))
    table = pa.concat_tables(tables)
    episode, value = (table.column(name).to_numpy() for name in columns)
    last = int(episode.max())
    half = max(last / 40, 0.5)  # short histories: the nearest episode or two
    means = (value[np.abs(episode - tenth * last / 10) <= half].mean() for tenth in range(11))
    return [round(float(mean), 3) for mean in means]
