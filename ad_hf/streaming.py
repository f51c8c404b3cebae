"""Streaming: learning histories read as they are needed, for datasets larger than memory or disk.

The order in which a process reads them follows from the seed, its number and the number of processes, and a
small position says where in it to go on.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ad_hf import hub
from ad_hf.dataset import COLUMNS, check_columns, check_shards, read_card, to_histories
from ad_hf.histories import Histories, concatenate

LANES = 8  # shards read side by side, so that neighbours in a pool come from distant tasks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HistoryStream:
    """A split of a dataset that stays where it is.

    Args:
        name: what it is, down to the commit; another name is another dataset.
        files: the shards, as paths or as `datasets/org/name@commit/file` on the Hub.
        remote: whether they are on the Hub.
        prepare: applied to every history read.
    """

    name: str
    files: tuple[str, ...]
    remote: bool
    prepare: Callable[[Histories], Histories] = lambda histories: histories

    def read(
        self, seed: int, process: int, num_processes: int, position: dict[str, Any] | None = None
    ) -> Iterator[tuple[Histories, dict[str, Any], dict[str, Any]]]:
        """Histories without end, one at a time, each with its position and that of the next.

        In an epoch every history is read once, by one of the processes: they share the shards, and only where
        there are more processes than shards the histories of a shard.

        Args:
            seed: of the order of the shards, another in every epoch.
            process: which share to read.
            num_processes: how many shares there are.
            position: where to go on; None is the beginning.

        Raises:
            ValueError: if a shard is damaged or holds something else, or this process is left without any.
            HubError: if the Hub cannot be reached.
        """
        at: dict[str, Any] = copy.deepcopy(position) if position else {"epoch": 0, "turn": 0, "lanes": []}
        groups = min(num_processes, len(self.files))
        sharers = len(range(process % groups, num_processes, groups))
        while True:
            order = np.random.default_rng((seed, at["epoch"])).permutation(len(self.files))
            files = [self.files[number] for number in order[process % groups :: groups]]
            num_lanes = min(LANES, len(files))
            at["lanes"] = at["lanes"] or [[0, 0] for _ in range(num_lanes)]
            lanes = [self._lane(files[n::num_lanes], *at["lanes"][n]) for n in range(num_lanes)]
            idle = taken = 0
            while idle < num_lanes:
                turn, before = at["turn"], copy.deepcopy(at)
                found = next(lanes[turn % num_lanes], None)
                at["turn"] += 1
                if found is None:
                    idle += 1
                    continue
                idle, (histories, at["lanes"][turn % num_lanes]) = 0, found
                if turn % sharers == process // groups:
                    taken += 1
                    yield self.prepare(histories), before, copy.deepcopy(at)
            if not taken and not position:
                raise ValueError(
                    f"{self.name} has too few histories for {num_processes} processes: use fewer of them"
                )
            at, position = {"epoch": at["epoch"] + 1, "turn": 0, "lanes": []}, None

    def _lane(self, files: list[str], first: int, row: int) -> Iterator[tuple[Histories, list[int]]]:
        """The histories of some shards from a row of one on, each with the file and the row behind it."""
        for number in range(first, len(files)):
            with self._open(files[number]) as content:
                for histories, behind in _read_file(content, files[number], row):
                    yield histories, [number, behind]
            row = 0

    def _open(self, file: str) -> BinaryIO:
        return hub.open_remote(file) if self.remote else open(file, "rb")


def _read_file(content: BinaryIO, name: str, row: int) -> Iterator[tuple[Histories, int]]:
    """The histories of a shard from a row on, each with the row behind it; a row group at a time."""
    with _reading(name):
        file = pq.ParquetFile(content)
    check_columns(file.schema_arrow.names, name)
    first = 0  # row of the row group
    parts: list[pa.Table] = []  # of the history that the last row group may have cut in two

    def whole() -> Histories:
        # Concatenated once more, for a view of a row group would keep all of it in memory.
        return concatenate([to_histories(pa.concat_tables(parts), name)])

    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if first + rows > row:
            with _reading(name):
                table = file.read_row_group(number, columns=list(COLUMNS)).slice(max(row - first, 0))
            history_id = table.column("history_id").to_numpy()
            borders = [0, *(np.flatnonzero(np.diff(history_id)) + 1), len(table)]
            for start, end in itertools.pairwise(borders):
                if parts and parts[-1].column("history_id")[-1].as_py() != history_id[start]:
                    yield whole(), int(max(first, row) + start)
                    parts.clear()
                parts.append(table.slice(start, end - start))
        first += rows
    if parts:
        yield whole(), first


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        with hub.in_one_line(name):
            yield
    except hub.HubError as error:
        if isinstance(error.__cause__, pa.ArrowException):
            raise ValueError(f"{error}: it is truncated, damaged or not Parquet") from error
        raise


def open_stream(path: str, config: str, split: str = "train") -> HistoryStream:
    """A split of a dataset of learning histories, to be read as it is needed.

    Args:
        path: a folder, or the id of a dataset on the Hub, as `org/name` or `org/name@revision`.
        config: the task family, for example "dark-room".
        split: "train" or "test".

    Raises:
        ValueError: if there is no such config or split, or it is not complete or of a newer format.
        HubError: if there is no such dataset, or it cannot be fetched.
    """
    if Path(path).is_dir():
        read_card(Path(path), path)
        found = [(str(file), file.name) for file in sorted((Path(path) / config).glob("*.parquet"))]
        return HistoryStream(path, tuple(check_shards(found, split, f"{path}/{config}")), False)
    place, names = hub.list_files(path, "dataset")
    read_card(hub.fetch(f"{place.removeprefix('datasets/')}", "dataset", ("README.md",)), path)
    folder = f"{config}/"
    found = [
        (f"{place}/{name}", name.removeprefix(folder))
        for name in sorted(names)
        if name.startswith(folder) and name.endswith(".parquet")
    ]
    return HistoryStream(f"{place}/{config}", tuple(check_shards(found, split, f"{path}/{config}")), True)


class HistoryPool:
    """The histories in memory while streaming: always the same number, the oldest exchanged now and then.

    Args:
        stream: where they come from.
        size: how many there are.
        seed: of the order they come in.
        process: which share of the stream is read.
        num_processes: how many shares there are.
        position: what `position` was, to go on from there.

    Raises:
        ValueError, HubError: if they cannot be read.
    """

    def __init__(
        self,
        stream: HistoryStream,
        size: int,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
        position: dict[str, Any] | None = None,
    ) -> None:
        self._open: Callable[..., Any] = lambda at: stream.read(seed, process, num_processes, at)
        self._reader = self._open(position)
        self._held = deque(itertools.islice(self._reader, size))
        self._worker = ThreadPoolExecutor(1)
        self._coming: Future | None = None
        self.histories = concatenate([histories for histories, _, _ in self._held])

    @property
    def position(self) -> dict[str, Any]:
        """Where the stream stood before the oldest history here was read."""
        return self._held[0][1]

    def exchange(self, number: int) -> None:
        """Put the next histories in the place of the oldest, and begin to read those after them.

        If they cannot be read, those that are here stay: training goes on, and the next exchange tries again.
        """
        coming = self._coming or self._worker.submit(self._read, number)
        try:
            new = coming.result()
        except (OSError, ValueError) as error:
            logger.warning("%s; training goes on with the histories at hand", error)
            self._reader, self._coming = self._open(self._held[-1][2]), None
            return
        self._coming = self._worker.submit(self._read, number)
        for history in new:
            self._held.popleft()
            self._held.append(history)
        self.histories = concatenate([histories for histories, _, _ in self._held])

    def _read(self, number: int) -> list[tuple[Histories, dict[str, Any], dict[str, Any]]]:
        return list(itertools.islice(self._reader, number))
