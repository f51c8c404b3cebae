"""Streaming: learning histories read as they are needed, for datasets larger than memory or disk.

A process reads them in an order that follows from the seed, its number and the number of processes. A
*position* says where in it to go on; it is JSON: the epoch, the turns of it that are over, and for each lane
the shard and the row in it that come next.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil  # comes with accelerate
import pyarrow as pa
from huggingface_hub import constants

from ad_hf import hub
from ad_hf.dataset import (
    check_shards,
    columns_read,
    open_shard,
    read_card,
    rows_at_once,
    shards_in,
    to_histories,
)
from ad_hf.histories import Histories, concatenate, without_first

LANES = 8  # shards read side by side, so that neighbours in a pool come from distant tasks
EPISODES = 1000  # decoded at once; a row group can hold more than memory
EXCHANGES = 16  # a pool is exchanged in so many parts
START: dict[str, Any] = {"epoch": 0, "turn": 0, "lanes": []}  # the position of the first history

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HistoryStream:
    """A split of a dataset that stays where it is.

    Args:
        name: what it is; another name is another dataset.
        files: the shards, as paths or as `datasets/org/name@commit/file` on the Hub.
        remote: whether they are on the Hub.
        prepare: applied to every history read.
    """

    name: str
    files: tuple[str, ...]
    remote: bool
    prepare: Callable[[Histories], Histories] = lambda histories: histories

    def read(
        self, seed: int, process: int = 0, num_processes: int = 1, position: dict[str, Any] = START
    ) -> Generator[tuple[Histories, dict[str, Any]]]:
        """Histories without end, one at a time, each with the position behind it.

        In an epoch every history is read once, by one of the processes: they share the shards, and only where
        there are more processes than shards they take turns at the histories of one.

        Args:
            seed: of the order of the shards, another in every epoch.
            process: which share to read.
            num_processes: how many shares there are.
            position: where to go on.

        Raises:
            ValueError: if a file holds something else than learning histories, or one on this machine is
                damaged.
            HubError: if a file cannot be fetched, or what arrives is damaged.
        """
        groups = min(num_processes, len(self.files))
        group, sharer = process % groups, process // groups
        sharers = len(range(group, num_processes, groups))
        epoch, turn, places = position["epoch"], position["turn"], list(position["lanes"])
        while True:
            order = np.random.default_rng((seed, epoch)).permutation(len(self.files))
            files = [self.files[number] for number in order[group::groups]]
            places = places or [[0, 0]] * min(LANES, len(files))
            lanes = [self._lane(files[n :: len(places)], *place) for n, place in enumerate(places)]
            ended: set[int] = set()
            while len(ended) < len(lanes):
                lane = turn % len(lanes)
                turn += 1
                found = next(lanes[lane], None)
                if found is None:
                    ended.add(lane)
                    continue
                histories, places[lane] = found
                if (turn + epoch) % sharers == sharer:  # another share in every epoch, if shards are small
                    yield self.prepare(histories), {"epoch": epoch, "turn": turn, "lanes": places.copy()}
            epoch, turn, places = epoch + 1, 0, []

    def _lane(self, files: list[str], first: int, row: int) -> Iterator[tuple[Histories, list[int]]]:
        """The histories of some shards from a row of one on, each with the place behind it."""
        for number, file in enumerate(files[first:], first):
            for histories, behind in self._read_file(file, row):
                yield histories, [number, behind]
            row = 0

    def _read_file(self, file: str, row: int) -> Iterator[tuple[Histories, int]]:
        """The histories of a shard from a row on, each with the row behind it."""
        parts: list[pa.RecordBatch] = []  # of one history, which a batch may have cut in two
        limit = psutil.virtual_memory().available // 4  # bytes of it

        def whole() -> Histories:
            with self._in_one_line(file) as name:
                histories = to_histories(pa.Table.from_batches(parts), name)
            return concatenate([histories])  # a copy, for a view would keep the whole batch in memory

        for rows in self._read_rows(file, row):
            history_id = rows["history_id"].to_numpy(zero_copy_only=False)
            borders = [0, *(np.flatnonzero(np.diff(history_id)) + 1), len(rows)]
            for start, end in pairwise(borders):
                if parts and parts[-1]["history_id"][-1].as_py() != history_id[start]:
                    yield whole(), row
                    parts.clear()
                parts.append(rows.slice(start, end - start))
                row += int(end - start)
                if (size := sum(part.nbytes for part in parts)) > limit:
                    raise ValueError(
                        f"a history in {file} takes {size / 2**30:.1f} GiB or more, too much here"
                    )
        if parts:
            yield whole(), row

    def _read_rows(self, file: str, row: int) -> Iterator[pa.RecordBatch]:
        """The rows of a shard from one on."""
        with self._in_one_line(file):
            content = self._open(file)
        with content:
            with self._in_one_line(file) as name:
                # Buffered beforehand, the rest of the file would be fetched at once.
                parquet = open_shard(content, name, pre_buffer=False)
                if not pa.types.is_integer(kind := parquet.schema_arrow.field("history_id").type):
                    raise ValueError(f"history_id in {name} has to hold integers, but holds {kind}")
                if not parquet.metadata.num_rows:
                    raise ValueError(f"{name} holds no episodes")
            sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
            ends = np.cumsum(sizes)
            first = int(np.searchsorted(ends, row, side="right"))  # the row group that holds the row
            skip = row - int(ends[first - 1]) if first else row
            groups = list(range(first, len(sizes)))
            columns, rows = columns_read(parquet), rows_at_once(parquet, EPISODES)
            batches = parquet.iter_batches(rows, groups, columns, use_threads=False)
            while True:
                with self._in_one_line(file):
                    batch = next(batches, None)
                if batch is None:
                    return
                if skip < len(batch):
                    yield batch.slice(skip)
                skip = max(skip - len(batch), 0)

    def _open(self, file: str) -> BinaryIO:
        return hub.open_remote(file) if self.remote else Path(file).open("rb")

    @contextlib.contextmanager
    def _in_one_line(self, file: str) -> Iterator[str]:
        """Say what is wrong with a file that cannot be read; what to call it, where more can be wrong."""
        name = "it" if self.remote else file  # what the Hub's are about stands before all messages
        with hub.in_one_line(file) if self.remote else contextlib.nullcontext():
            try:
                yield name
            except (pa.ArrowException, OSError) as error:
                # What Arrow finds wrong comes as one of its exceptions, or as a bare OSError.
                if isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None):
                    raise ValueError(f"{name} is truncated, damaged or not Parquet: get it anew") from error
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
        files = check_shards(shards_in(Path(path) / config), split, f"{path}/{config}")
        size = sum(Path(file).stat().st_size for file in files)  # wherever the folder is moved
        return HistoryStream(f"{config}, {len(files)} files of {size} bytes", tuple(files), False)
    if constants.HF_HUB_OFFLINE:
        raise hub.HubError(
            f"{path} cannot be streamed with HF_HUB_OFFLINE=1: unset it, or use the cache without --streaming"
        )
    place, names = hub.list_files(path, "dataset")
    if "README.md" in names:
        read_card(hub.fetch(place.removeprefix("datasets/"), "dataset", ("README.md",)), path)
    folder = f"{config}/"
    found = [
        (f"{place}/{name}", name.removeprefix(folder))
        for name in sorted(names)
        if name.startswith(folder) and name.endswith(".parquet")
    ]
    return HistoryStream(f"{place}/{config}", tuple(check_shards(found, split, f"{path}/{config}")), True)


class HistoryPool:
    """The histories in memory while streaming: always the same number, the oldest exchanged now and then.

    The next ones are read ahead in a thread; close the pool to be rid of it.

    Args:
        stream: where they come from.
        size: how many there are.
        seed: of the order they come in.
        process: which share of the stream is read.
        num_processes: how many shares there are.
        position: the `position` of an earlier pool, to go on from there.

    Attributes:
        histories: those in memory.
        position: of the oldest of them in the stream; a pool made there is the same.

    Raises:
        ValueError: as `HistoryStream.read`.
        HubError: as `HistoryStream.read`.
    """

    def __init__(
        self,
        stream: HistoryStream,
        size: int,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
        position: dict[str, Any] = START,
    ) -> None:
        self._open = lambda at: stream.read(seed, process, num_processes, at)
        self._number = size // EXCHANGES
        self._failing = False
        self._reader = self._open(position)
        read = list(islice(self._reader, size))
        self.histories = concatenate([histories for histories, _ in read])
        self.position = position
        self._behind = deque(behind for _, behind in read)  # the position behind each history
        self._coming = self._read_ahead()

    def exchange(self) -> None:
        """Put the next histories, a 16th of all, in the place of the oldest.

        While they cannot be fetched, those that are here stay: one line is logged, and only the first
        exchange waits for the Hub. None is left out once it can be read again.

        Raises:
            ValueError: if a shard on this machine is damaged, or histories are not to be trained on.
        """
        try:
            read = self._coming.result(timeout=0 if self._failing else hub.PATIENCE)
        except OSError as error:  # a timeout is one too
            if not self._failing:
                reason = str(error) or f"nothing was read in {hub.PATIENCE:.0f} seconds"
                logger.warning("%s; training goes on with the histories at hand until it can be read", reason)
            self._failing = True
            if self._coming.done():
                self._reader = self._open(self._behind[-1])
                self._coming = self._read_ahead()
            return
        self._failing = False
        self._coming = self._read_ahead()
        kept = without_first(self.histories, self._number)
        self.histories = concatenate([kept, *(histories for histories, _ in read)])
        for _, behind in read:
            self.position = self._behind.popleft()
            self._behind.append(behind)

    def _read_ahead(self) -> Future[list[tuple[Histories, dict[str, Any]]]]:
        coming: Future[list[tuple[Histories, dict[str, Any]]]] = Future()

        def read() -> None:
            try:
                coming.set_result(list(islice(self._reader, self._number)))
            except BaseException as error:
                coming.set_exception(error)

        # Not an executor's thread, for which Python would wait at its end as long as the Hub is silent.
        threading.Thread(target=read, daemon=True).start()
        return coming

    def close(self) -> None:
        """Wait a moment for what is being read, and close the files."""
        if wait([self._coming], timeout=2).done:
            self._reader.close()
